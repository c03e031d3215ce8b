// Uploads in parts: they can be paused, go on after a broken connection, and after the page was closed.
import { ask, Problem, segment, send, UNREACHABLE } from "../core/service.js";

const PART = 2 ** 22;
const MOST_FAILURES = 8;

/** Several files as one, the bytes of one after those of the other: a data set, in the order of the numbers in their names. */
export function together(chosen) {
  const files = [...chosen].sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
  const whole = new Blob(files);
  whole.name = commonName(files.map((file) => file.name));
  whole.lastModified = Math.max(...files.map((file) => file.lastModified));
  whole.parts = files.map(({ name, size }) => ({ name, size }));
  return whole;
}

/** `shock_*.mat` for shock_1.mat and shock_2.mat. */
function commonName(names) {
  const shared = (one, other) => {
    let length = 0;
    while (length < Math.min(one.length, other.length) && one[length] === other[length]) length++;
    return one.slice(0, length);
  };
  const reversed = (text) => [...text].reverse().join("");
  const start = names.reduce(shared);
  return `${start}*${reversed(names.map((name) => reversed(name.slice(start.length))).reduce(shared))}`;
}

/**
 * Sends a file, or several `together`; the same with the same declaration goes on where an earlier upload stopped.
 * `onProgress(bytes)`. The record of the service once all bytes are there. Raises `Problem`, or AbortError.
 */
export async function upload(file, declaration, signal, onProgress) {
  const wanted = { name: file.name, size: file.size, declaration, ...(file.parts ? { parts: file.parts } : {}) };
  const key = `page ${file.lastModified} ${JSON.stringify(wanted)}`.replace(/[^\x20-\x7e]/g, "?").slice(0, 256);
  let record = await send("POST", "v1/files", wanted, { "Idempotency-Key": key });
  const address = `v1/files/${segment(record.id)}/content`;
  let failures = 0;
  while (record.state === "uploading") {
    onProgress(record.offset);
    try {
      record = await part(address, file, record.offset, signal);
      failures = 0;
    } catch (error) {
      if (!(error instanceof Problem) || error.document.code !== UNREACHABLE.code || ++failures > MOST_FAILURES) throw error;
      await pause(Math.min(5000, 100 * 2 ** failures), signal);
      record = { ...record, offset: await arrived(address, record.offset) };
    }
  }
  onProgress(record.offset);
  return record;
}

async function part(address, file, offset, signal) {
  const end = Math.min(file.size, offset + PART);
  const headers = { "Content-Type": "application/octet-stream", "Content-Range": `bytes ${offset}-${end - 1}/${file.size}` };
  return (await ask(address, { method: "PUT", body: file.slice(offset, end), headers, signal })).json();
}

/** Bytes the service has; what was known where it does not answer. */
async function arrived(address, known) {
  try {
    return Number((await ask(address, { method: "HEAD" })).headers.get("Upload-Offset"));
  } catch {
    return known;
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
