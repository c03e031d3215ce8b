// GIF, written here: frames of colour numbers, all with one palette of 256 colours.

const CLEAR = 256;
const END = 257;
const LARGEST = 4096;

/** Bits of codes of growing width, lowest first. */
class Bits {
  bytes = [];
  #held = 0;
  #count = 0;

  put(code, width) {
    this.#held |= code << this.#count;
    this.#count += width;
    while (this.#count >= 8) {
      this.bytes.push(this.#held & 255);
      this.#held >>>= 8;
      this.#count -= 8;
    }
  }

  close() {
    if (this.#count) this.bytes.push(this.#held & 255);
  }
}

/** The compression of GIF (LZW) of bytes. */
function compressed(pixels) {
  const bits = new Bits();
  let [table, next, width] = [new Map(), END + 1, 9];
  bits.put(CLEAR, width);
  let known = pixels[0];
  for (let index = 1; index < pixels.length; index += 1) {
    const key = known * 256 + pixels[index];
    const longer = table.get(key);
    if (longer !== undefined) {
      known = longer;
      continue;
    }
    bits.put(known, width);
    if (next < LARGEST) {
      table.set(key, next);
      if (next === 2 ** width) width += 1;
      next += 1;
    } else {
      bits.put(CLEAR, width);
      [table, next, width] = [new Map(), END + 1, 9];
    }
    known = pixels[index];
  }
  bits.put(known, width);
  bits.put(END, width);
  bits.close();
  return bits.bytes;
}

const word = (value) => [value & 255, value >> 8];

/** {frames, palette} of pictures in RGBA, which together have few colours: the first 256 of them, others by the nearest. */
export function indexed(pictures) {
  const palette = new Uint8Array(768);
  const known = new Map();
  let count = 0;
  const entry = (key, red, green, blue) => {
    if (count < 256) {
      palette.set([red, green, blue], 3 * count);
      known.set(key, count);
      count += 1;
      return count - 1;
    }
    let [best, least] = [0, Infinity];
    for (let index = 0; index < 256; index += 1) {
      const distance = (palette[3 * index] - red) ** 2 + (palette[3 * index + 1] - green) ** 2 + (palette[3 * index + 2] - blue) ** 2;
      if (distance < least) [best, least] = [index, distance];
    }
    known.set(key, best);
    return best;
  };
  const frames = pictures.map((pixels) => Uint8Array.from({ length: pixels.length / 4 }, (_, pixel) => {
    const [red, green, blue] = pixels.subarray(4 * pixel, 4 * pixel + 3);
    // Shades that nobody tells apart are one colour.
    const key = ((red >> 3) << 10) | ((green >> 3) << 5) | (blue >> 3);
    return known.get(key) ?? entry(key, red, green, blue);
  }));
  return { frames, palette };
}

/** The bytes of an animation that repeats. `frames` are Uint8Arrays row by row from the top, `palette` 768 bytes. */
export function gif(width, height, frames, palette, milliseconds) {
  const parts = [
    new TextEncoder().encode("GIF89a"),
    Uint8Array.from([...word(width), ...word(height), 0xf7, 0, 0]),
    Uint8Array.from(palette),
    Uint8Array.from([0x21, 0xff, 11, ...new TextEncoder().encode("NETSCAPE2.0"), 3, 1, 0, 0, 0]),
  ];
  for (const pixels of frames) {
    parts.push(Uint8Array.from([0x21, 0xf9, 4, 0, ...word(Math.round(milliseconds / 10)), 0, 0, 0x2c, 0, 0, 0, 0, ...word(width), ...word(height), 0, 8]));
    const bytes = compressed(pixels);
    for (let start = 0; start < bytes.length; start += 255) {
      const block = bytes.slice(start, start + 255);
      parts.push(Uint8Array.from([block.length, ...block]));
    }
    parts.push(Uint8Array.from([0]));
  }
  parts.push(Uint8Array.from([0x3b]));
  return parts;
}
