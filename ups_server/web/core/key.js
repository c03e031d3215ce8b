// The API key, where the service asks for one: kept by this browser, entered in a dialog when it is needed.
import { h, labelled } from "./dom.js";

const KEY = "ups-key";
let asking = null;

/** The header that shows the key; nothing where there is none. */
export function keyHeader() {
  const key = localStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Asks for the key, once for all requests that wait for it. True where one was given. */
export function askForKey(reason) {
  asking ??= dialog(reason).finally(() => (asking = null));
  return asking;
}

/** A button that lets the key be changed or forgotten; `changed` is called afterwards. */
export function installKey(button, changed) {
  button.addEventListener("click", async () => {
    if (await askForKey("The key is kept by this browser and sent to this service only. An empty one is forgotten.")) changed();
  });
}

function dialog(reason) {
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", value: localStorage.getItem(KEY) ?? "" });
  const form = h("form", {},
    h("h2", {}, "API key"),
    h("p", {}, reason),
    labelled("Key", input, "ups_…, as `ups keys create` printed it"),
    h("div", { class: "row" },
      h("button", { type: "submit", class: "primary" }, "Use this key"),
      h("button", { type: "button", onClick: () => element.close() }, "Cancel")));
  const element = h("dialog", { class: "panel", "aria-label": "API key" }, form);
  let given = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    given = true;
    if (input.value.trim()) localStorage.setItem(KEY, input.value.trim());
    else localStorage.removeItem(KEY);
    element.close();
  });
  document.body.append(element);
  element.showModal();
  return new Promise((resolve) => {
    element.addEventListener("close", () => {
      element.remove();
      resolve(given);
    });
  });
}
