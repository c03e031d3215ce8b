// Runs of this browser: kept by it alone, each with the address that gives it again.
import { h } from "../core/dom.js";
import { when } from "../core/numbers.js";

const KEY = "ups-runs";
const MOST = 30;
/** Characters of an address; a drawing can make one long. */
const LONGEST_ADDRESS = 8000;

function stored() {
  try {
    const list = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(list) ? list : [];
  } catch {
    return [];
  }
}

function store(list) {
  try {
    localStorage.setItem(KEY, JSON.stringify(list));
  } catch {
    localStorage.removeItem(KEY);
  }
}

/** `add({address, title, outcome})` puts a run first; the same address stands there once. */
export function runHistory() {
  const title = h("summary", {}, "Runs of this browser");
  const list = h("ol", { class: "runs" });
  const forget = h("button", { type: "button", class: "quiet", onClick: () => {
    store([]);
    draw();
  } }, "Forget them");
  const element = h("details", { class: "panel history" }, title, list, forget);

  function draw() {
    const runs = stored();
    element.hidden = runs.length === 0;
    title.textContent = `Runs of this browser (${runs.length})`;
    list.replaceChildren(...runs.map((run) => h("li", {}, h("a", { href: `#/solve?${run.address}` }, run.title), h("small", {}, `${when(run.at)} · ${run.outcome}`))));
  }

  draw();
  return {
    element,
    add(run) {
      if (run.address.length > LONGEST_ADDRESS) return;
      const others = stored().filter(({ address }) => address !== run.address);
      store([{ ...run, at: Date.now() / 1000 }, ...others].slice(0, MOST));
      draw();
    },
  };
}
