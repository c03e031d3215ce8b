// MP4, written here: one track of frames that the browser's own encoder (WebCodecs) has compressed.

/** H.264 without frames that go by later ones, which every player knows; VP9 where a browser has no encoder for it. */
const CODECS = ["avc1.420028", "vp09.00.31.08"];
const BITS_PER_SECOND = 4_000_000;
const LEAST_WIDTH = 512;
const KEY_EVERY = 50;
const MOST_WAITING = 8;

const even = (length) => length + (length % 2);

/** A copy of what an encoder lends. */
const bytesOf = (lent) => (ArrayBuffer.isView(lent) ? new Uint8Array(lent.buffer, lent.byteOffset, lent.byteLength) : new Uint8Array(lent)).slice();

/** How this browser encodes frames of a size; null where it cannot. Encoders need a secure address or this machine's own. */
export async function encoding(width, height) {
  if (!("VideoEncoder" in globalThis)) return null;
  for (const codec of CODECS) {
    const wanted = { codec, width, height, bitrate: BITS_PER_SECOND, ...(codec.startsWith("avc1") ? { avc: { format: "avc" } } : {}) };
    const { supported } = await VideoEncoder.isConfigSupported(wanted).catch(() => ({ supported: false }));
    if (supported) return wanted;
  }
  return null;
}

/** The bytes of a film. `frames` are Uint8Arrays of colour numbers row by row from the top, `palette` 768 bytes. */
export async function mp4({ width, height, frames, palette }, milliseconds) {
  const times = Math.max(1, Math.round(LEAST_WIDTH / width));
  const [small, canvas] = [Object.assign(document.createElement("canvas"), { width, height }), document.createElement("canvas")];
  Object.assign(canvas, { width: even(times * width), height: even(times * height) });
  const [drawn, context] = [small.getContext("2d"), canvas.getContext("2d")];
  context.imageSmoothingEnabled = false;
  const settings = await encoding(canvas.width, canvas.height);
  if (settings === null) throw new Error("This browser has no encoder for MP4.");
  const samples = [];
  let [description, fault] = [null, null];
  const encoder = new VideoEncoder({
    output: (chunk, { decoderConfig } = {}) => {
      if (decoderConfig?.description) description = bytesOf(decoderConfig.description);
      const data = new Uint8Array(chunk.byteLength);
      chunk.copyTo(data);
      samples.push({ data, key: chunk.type === "key" });
    },
    error: (error) => (fault = error),
  });
  encoder.configure({ ...settings, framerate: 1000 / milliseconds });
  const image = new ImageData(width, height);
  for (const [index, pixels] of frames.entries()) {
    for (let pixel = 0; pixel < pixels.length; pixel += 1) {
      for (let part = 0; part < 3; part += 1) image.data[4 * pixel + part] = palette[3 * pixels[pixel] + part];
      image.data[4 * pixel + 3] = 255;
    }
    drawn.putImageData(image, 0, 0);
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    const frame = new VideoFrame(canvas, { timestamp: 1000 * milliseconds * index, duration: 1000 * milliseconds });
    encoder.encode(frame, { keyFrame: index % KEY_EVERY === 0 });
    frame.close();
    while (!fault && encoder.encodeQueueSize > MOST_WAITING) await new Promise((freed) => encoder.addEventListener("dequeue", freed, { once: true }));
    if (fault) throw fault;
  }
  await encoder.flush();
  encoder.close();
  return film(canvas.width, canvas.height, settings.codec, description, samples, milliseconds);
}

const short = (value) => [(value >> 8) & 255, value & 255];
const word = (value) => [(value >>> 24) & 255, (value >>> 16) & 255, ...short(value)];
const letters = (text) => [...text].map((letter) => letter.charCodeAt(0));
const zeros = (count) => Array(count).fill(0);

function box(kind, ...parts) {
  const content = parts.flat();
  return [...word(content.length + 8), ...letters(kind), ...content];
}

/** A box with a version, 0, and flags. */
const full = (kind, flags, ...parts) => box(kind, word(flags), ...parts);

/** No turning, no scaling. */
const MATRIX = [[1, 0, 0], [0, 1, 0], [0, 0, 0x4000]].flatMap((row) => row.flatMap((entry) => word(entry * 0x10000)));

/** Boxes of ISO/IEC 14496-12: what there is, where it lies, then all samples in one chunk. Times are in milliseconds. */
function film(width, height, codec, description, samples, milliseconds) {
  const kind = box("ftyp", letters("isom"), word(512), letters("isomiso2mp41"), letters(codec.slice(0, 4)));
  const duration = milliseconds * samples.length;
  const keys = samples.flatMap(({ key }, index) => (key ? [index + 1] : []));
  const setup = codec.startsWith("avc1")
    ? box("avcC", [...description])
    // Profile 0, level 3.1, 8 bits a sample, colours halved along both axes; ITU-R BT.709 as it is usual.
    : full("vpcC", 0x01000000, [0, 31, (8 << 4) | (1 << 1), 1, 1, 1, 0, 0]);
  const picture = box(codec.slice(0, 4), zeros(6), short(1), zeros(16), short(width), short(height), word(0x480000), word(0x480000), zeros(4), short(1), zeros(32), short(24), short(0xffff), setup);
  const samplesAt = (place) => box("stbl",
    full("stsd", 0, word(1), picture),
    full("stts", 0, word(1), word(samples.length), word(milliseconds)),
    full("stss", 0, word(keys.length), keys.flatMap(word)),
    full("stsc", 0, word(1), word(1), word(samples.length), word(1)),
    full("stsz", 0, word(0), word(samples.length), samples.flatMap(({ data }) => word(data.length))),
    full("stco", 0, word(1), word(place)));
  const movie = (place) => box("moov",
    full("mvhd", 0, zeros(8), word(1000), word(duration), word(0x10000), short(0x100), zeros(10), MATRIX, zeros(24), word(2)),
    box("trak",
      full("tkhd", 3, zeros(8), word(1), zeros(4), word(duration), zeros(16), MATRIX, word(width << 16), word(height << 16)),
      box("mdia",
        full("mdhd", 0, zeros(8), word(1000), word(duration), short(0x55c4), zeros(2)),
        full("hdlr", 0, zeros(4), letters("vide"), zeros(13)),
        box("minf", full("vmhd", 1, zeros(8)), box("dinf", full("dref", 0, word(1), full("url ", 1))), samplesAt(place)))));
  const start = kind.length + movie(0).length + 8;
  const bytes = samples.reduce((sum, { data }) => sum + data.length, 8);
  return [Uint8Array.from([...kind, ...movie(start), ...word(bytes), ...letters("mdat")]), ...samples.map(({ data }) => data)];
}
