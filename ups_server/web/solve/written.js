// An equation nobody trained on: in symbols, which are edited here, or in words, which become a proposal in symbols.
import { h, labelled, table } from "../core/dom.js";
import { equation, number } from "../core/numbers.js";
import { problemNote } from "../core/problems.js";
import { Problem, send } from "../core/service.js";

const FIRST = "u_t = -u*u_x + 0.01*u_xx + u*(1-u)";
const PAUSE = 250;

/** `answer()` is how the service understands the text (family, canonical form), null while or where it does not. */
export function writtenEquation(onChange) {
  let [answer, asked, timer] = [null, 0, 0];
  const names = new Map();
  const symbols = h("textarea", { rows: 2, spellcheck: "false", autocomplete: "off", maxlength: 500, onInput: () => edited() });
  symbols.value = FIRST;
  const note = h("div", { "aria-live": "polite" });
  const constants = h("div", { class: "double" });
  const words = h("input", {
    type: "text", maxlength: 2000, autocomplete: "off", placeholder: "a dye carried to the right that slowly spreads",
    onKeydown: (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      propose();
    },
  });
  const button = h("button", { type: "button", onClick: () => propose() }, "Propose");
  const proposal = h("div", { class: "proposal", "aria-live": "polite" });
  const element = h("div", { class: "written" },
    h("div", { class: "row end" }, labelled("In words", words), button),
    proposal,
    labelled("In symbols", symbols, "u_t = … with u, u_x … u_xxxx, numbers, names and functions of x; periodic, x from 0 to 1."),
    note,
    constants,
  );

  function edited() {
    answer = null;
    asked += 1; // What is on its way answers another text.
    for (const name of names.keys()) if (!new RegExp(`(^|[^\\w])${name}($|[^\\w])`, "u").test(symbols.value)) names.delete(name);
    clearTimeout(timer);
    timer = setTimeout(read, PAUSE);
    onChange();
  }

  const coefficients = () => Object.fromEntries([...names].map(([name, input]) => [name, input.valueAsNumber]));

  async function read() {
    const mine = (asked += 1);
    try {
      const found = await send("POST", "v1/equations", { equation: symbols.value, coefficients: coefficients() });
      if (mine !== asked) return;
      answer = found;
      symbols.setAttribute("aria-invalid", "false");
      note.replaceChildren(h("p", { class: "display" }, equation(spaced(found.equation))));
    } catch (error) {
      if (mine !== asked) return;
      if (error instanceof Problem && error.document.code === "missing_coefficient" && named(error.document.got.at)) return read();
      symbols.setAttribute("aria-invalid", "true");
      note.replaceChildren(...pointed(error));
    }
    listConstants();
    onChange();
  }

  /** Anew only where names come or go: who types a number keeps the focus. */
  function listConstants() {
    const key = [...names.keys()].join();
    if (constants.dataset.key === key) return;
    constants.dataset.key = key;
    constants.replaceChildren(...[...names].map(([name, input]) => labelled(name, input)));
  }

  /** A name of the text gets a number of its own; false where it has one already. */
  function named(name) {
    if (!name || names.has(name)) return false;
    names.set(name, h("input", { type: "number", step: "any", value: 1, onInput: () => edited() }));
    return true;
  }

  async function propose() {
    if (!words.value.trim()) return words.focus();
    button.disabled = true;
    try {
      const found = await send("POST", "v1/equations", { description: words.value });
      proposal.replaceChildren(...proposed(found));
      if (found.equation) {
        symbols.value = found.equation;
        edited();
      }
    } catch (error) {
      proposal.replaceChildren(problemNote(error));
    } finally {
      button.disabled = false;
    }
  }

  return {
    element,
    answer: () => answer,
    text: () => symbols.value.trim(),
    coefficients,
    valid: () => answer !== null && [...names.values()].every((input) => Number.isFinite(input.valueAsNumber)),
    read,
    set(text, values) {
      symbols.value = text;
      names.clear();
      for (const [name, value] of Object.entries(values)) if (named(name)) names.get(name).value = value;
      return read();
    },
  };
}

/** `0.01*u_xx` as mathematics is set: no stars. */
const spaced = (text) => text.replaceAll("*", " ").replace("= -", "= −");

/** The problem with the text as it is, and a caret under the character that it is about. */
function pointed(error) {
  const { got } = error.document ?? {};
  if (typeof got?.character !== "number") return [problemNote(error)];
  const at = Math.max(0, got.character - 1);
  const line = got.equation;
  const start = Math.max(0, at - 24);
  const shown = line.slice(start, start + 34);
  const lines = `${shown}\n${" ".repeat(at - start)}^`;
  return [h("pre", { class: "pointer", role: "img", "aria-label": `Character ${got.character} of the equation` }, lines), problemNote(new Problem({ ...error.document, got: null }))];
}

/** What a description was taken for: to be confirmed, never run by itself. */
function proposed(found) {
  if (found.abstained || !found.equation) {
    return [h("div", { class: "note flag" }, h("p", {}, h("strong", {}, "No equation is recognised in these words.")), h("p", {}, "Say what happens to u: it is carried, spreads, grows, decays, …"))];
  }
  const rows = found.terms.map((term) => [
    term.name.replaceAll("_", " "), `${term.range.map((value) => number(value, 2)).join(" to ")}${term.stated ? `, ${term.stated}` : ""}`, `${number(100 * term.confidence, 2)} %`,
  ]);
  return [
    h("p", {}, h("strong", {}, "A proposal."), " Check it and change its numbers below; nothing runs before you press Run."),
    table("Terms found in the words", ["Term", "Size", "Sure"], rows),
    ...(found.unplaced.length ? [h("p", { class: "outside" }, `Not understood: ${found.unplaced.map((clause) => `“${clause}”`).join(", ")}.`)] : []),
  ];
}
