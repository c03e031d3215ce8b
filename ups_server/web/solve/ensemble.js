// The ensemble of a rollout: how many perturbed states, and how far they are perturbed.
import { h, labelled } from "../core/dom.js";

const MOST_MEMBERS = 256;
/** Between them are nine of ten members. */
const QUANTILES = [0.05, 0.95];

/** `request()` is what the ensemble adds to a request: nothing where it is not wanted. */
export function ensembleControl(onChange) {
  const wanted = h("input", { type: "checkbox", onChange: () => changed() });
  const members = h("input", { type: "number", min: 2, max: MOST_MEMBERS, step: 1, value: 16, onInput: () => changed() });
  const amplitude = h("input", { type: "number", min: 0.1, max: 100, step: "any", value: 5, onInput: () => changed() });
  const details = h(
    "div",
    { class: "double", hidden: true },
    labelled("Members", members),
    labelled("Amplitude, %", amplitude),
  );
  const check = h("label", { class: "check" }, wanted, h("span", {}, "Ensemble of perturbed initial states"));
  const element = h("div", {}, check, details);

  const faults = () => [
    ...(Number.isInteger(members.valueAsNumber) && members.valueAsNumber >= 2 && members.valueAsNumber <= MOST_MEMBERS ? [] : [members]),
    ...(amplitude.valueAsNumber > 0 && amplitude.valueAsNumber <= 100 ? [] : [amplitude]),
  ];

  function changed() {
    details.hidden = !wanted.checked;
    for (const field of [members, amplitude]) field.setAttribute("aria-invalid", String(faults().includes(field)));
    onChange();
  }

  return {
    element,
    /** As text: members and amplitude in per cent; nothing where it is not wanted. */
    state: () => (wanted.checked ? { ensemble: `${members.value},${amplitude.value}` } : {}),
    set(query) {
      wanted.checked = query.has("ensemble");
      if (wanted.checked) [members.value, amplitude.value] = query.get("ensemble").split(",");
      details.hidden = !wanted.checked;
    },
    valid: () => !wanted.checked || faults().length === 0,
    request: () => (wanted.checked
      ? { ensemble: { members: members.valueAsNumber, amplitude: amplitude.valueAsNumber / 100, quantiles: QUANTILES } }
      : {}),
  };
}
