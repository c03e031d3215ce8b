// Uploads in parts: they can be paused, go on after a broken connection, and after the page was closed.
import { ask, Problem, segment, send, UNREACHABLE } from "../core/service.js";

const PART = 2 ** 22;
const MOST_FAILURES = 8;

/**
 * Sends a file; the same file with the same declaration goes on where an earlier upload stopped. `onProgress(bytes)`.
 * The record of the service once all bytes are there. Raises `Problem`, or AbortError.
 */
export async function upload(file, declaration, signal, onProgress) {
  const wanted = { name: file.name, size: file.size, declaration };
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
