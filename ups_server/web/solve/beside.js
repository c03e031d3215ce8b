// A second rollout beside the first: by another model, or with other coefficients.
import { fill, h, labelled } from "../core/dom.js";
import { number, symbol } from "../core/numbers.js";
import { coefficient } from "./coefficients.js";

/** `request(first)` is the second request, or null where there is none. */
export function besideControl(onChange) {
  let [controls, possible, begun] = [[], [], []];
  const kind = h("select", { onChange: () => changed() });
  const model = h("select", { onChange: () => onChange() });
  const byModel = labelled("Run by", model);
  const second = h("fieldset", { class: "second" });
  const element = h("div", {}, labelled("Beside it", kind), byModel, second);

  /** Controls of the second coefficients are made when they are wanted. */
  function reveal() {
    byModel.hidden = kind.value !== "model";
    second.hidden = kind.value !== "coefficients";
    if (second.hidden) controls = [];
    else if (!controls.length) controls = begun.map(([card, trained, value]) => coefficient(card, trained, value, onChange));
    second.replaceChildren(h("legend", {}, "Coefficients of the second run"), ...controls.map((control) => control.element));
  }

  function changed() {
    reveal();
    onChange();
  }

  const values = () => Object.fromEntries(controls.map((control) => [control.name, control.value()]));

  return {
    element,
    valid: () => kind.value !== "coefficients" || controls.every((control) => control.value() !== null),
    /** Models that know the problem, and its coefficients: [card, trained range, value]. */
    problem(models, coefficients) {
      possible = models;
      fill(model, models.map((id) => [id, id]));
      [begun, controls] = [coefficients, []];
      const kinds = [["", "Nothing else"], ["model", "Another model", models.length === 0], ["coefficients", "Other coefficients", begun.length === 0]];
      fill(kind, kinds);
      reveal();
    },
    request(first) {
      const plain = { ...first, diagnostics: false, reference: false, ensemble: undefined, method: undefined };
      if (kind.value === "model") return { ...plain, model: model.value };
      if (kind.value === "coefficients") return { ...plain, coefficients: values() };
      return null;
    },
    /** What tells the two apart: a name for each of two requests. */
    names(first, other) {
      if (kind.value === "model") return [first.model, other.model];
      const changedNames = controls.map(({ name }) => name).filter((name) => first.coefficients[name] !== other.coefficients[name]);
      const text = (request) => changedNames.map((name) => `${symbol(name)} ${request.coefficients[name] === undefined ? "of the file" : `= ${number(request.coefficients[name])}`}`).join(", ");
      return changedNames.length ? [text(first), text(other)] : [first.model, `${other.model}, the same again`];
    },
    state() {
      if (kind.value === "model") return { beside: "model", by: model.value };
      if (kind.value === "coefficients") return { beside: "coefficients", ...Object.fromEntries(controls.map(({ name, value }) => [`b.${name}`, value()])) };
      return {};
    },
    set(query) {
      const wanted = query.get("beside") ?? "";
      if ([...kind.options].some(({ value, disabled }) => value === wanted && !disabled)) kind.value = wanted;
      if (wanted === "model" && possible.includes(query.get("by"))) model.value = query.get("by");
      reveal();
      for (const control of controls) if (query.has(`b.${control.name}`)) control.set(query.get(`b.${control.name}`));
    },
  };
}
