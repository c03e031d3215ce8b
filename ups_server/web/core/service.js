// Requests to the service; what it objects to is a `Problem`.
import { askForKey, keyHeader } from "./key.js";

/** A problem document (RFC 9457): `code`, `detail` and, where they help, `got`, `expected`, `hint`. */
export class Problem extends Error {
  constructor(document) {
    super(document.detail ?? document.title ?? "the service failed");
    this.document = document;
  }
}

export const UNREACHABLE = {
  code: "unreachable",
  detail: "The service does not answer.",
  hint: "Is `ups serve` still running?",
};

/** The answer; raises `Problem`. Addresses are relative: the page works below any prefix. */
export async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, { ...options, headers: { ...options.headers, ...keyHeader() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(UNREACHABLE);
  }
  if (response.ok) return response;
  if (response.status === 401 && (await askForKey((await response.clone().json()).detail))) return ask(address, options);
  const kind = response.headers.get("content-type") ?? "";
  if (kind.startsWith("application/problem+json")) throw new Problem(await response.json());
  throw new Problem({ code: `http_${response.status}`, detail: `The service answered ${response.status}.` });
}

export async function get(address) {
  return (await ask(address)).json();
}

export async function send(method, address, body, headers = {}) {
  const content = body === undefined ? {} : { body: JSON.stringify(body) };
  const kind = body === undefined ? {} : { "Content-Type": "application/json" };
  const response = await ask(address, { method, headers: { ...kind, ...headers }, ...content });
  return response.status === 204 ? null : response.json();
}

/** A picture of the service: an `img` could not show the key. */
export async function picture(element, address) {
  const bytes = URL.createObjectURL(await (await ask(address)).blob());
  element.addEventListener("load", () => URL.revokeObjectURL(bytes), { once: true });
  element.src = bytes;
}

/** An id as one part of an address. */
export const segment = encodeURIComponent;
