// Server-sent events read with fetch, which can POST and set headers; EventSource can do neither.
import { Problem, UNREACHABLE } from "./service.js";

/** Milliseconds of events in a row before the page may draw and listen again: a fast stream would hold it for good. */
const STRETCH = 30;

/** {id, name, data} of the events of a response, as they come. Comments are skipped. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let since = performance.now();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (event) yield event;
        if (performance.now() - since > STRETCH) {
          await new Promise((resume) => setTimeout(resume));
          since = performance.now();
        }
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(UNREACHABLE);
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const event = { id: null, name: "message" };
  const data = [];
  for (const line of block.split("\n")) {
    const [, field, text] = line.match(/^([^:]*):? ?(.*)$/s);
    if (field === "data") data.push(text);
    else if (field === "event") event.name = text;
    else if (field === "id") event.id = text;
  }
  return data.length ? { ...event, data: JSON.parse(data.join("\n")) } : null;
}

/** Base64 of little-endian float32 as an array; with - and _ as well. */
export function decodeFloats(text) {
  const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, index) => view.getFloat32(4 * index, true));
}

/** The inverse, in letters that an address takes as they are. */
export function encodeFloats(values) {
  const view = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((value, index) => view.setFloat32(4 * index, value, true));
  const bytes = new Uint8Array(view.buffer);
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
