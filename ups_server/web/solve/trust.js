// How far a solution can be trusted, in sentences.
import { h } from "../core/dom.js";
import { number } from "../core/numbers.js";
import { sentence } from "../core/problems.js";

/** What diagnostics, comparison and the finer grid come to. */
export function trustSentences(solution) {
  const lines = [...(solution.header.super_resolution?.explained ?? [])];
  const ensemble = solution.header.ensemble;
  if (ensemble) {
    lines.push(`Ensemble: ${ensemble.members} states, each perturbed by ${number(100 * ensemble.amplitude)} % of a field's deviation from its mean`);
    lines.push("Band and spread say how far the answer depends on its initial state, not how far the model is off");
  }
  const found = solution.diagnostics;
  if (found) {
    const { expected_error: expected, out_of_distribution: training } = found;
    lines.push(expected.available
      ? `Expected error: within the dashed curve at every step with a probability of at least ${number(100 * expected.level)} %`
      : `Expected error: unknown; ${expected.reason}`);
    if (expected.available && expected.reason) lines.push(expected.reason);
    if (training.flagged === false) lines.push(`Like the training: ${training.checked.join(", ")}`);
    if (training.flagged === null) lines.push("There is no training to compare with");
  }
  const { request } = solution;
  if (request.model === "numerical") lines.push("The numerical solver is what models are compared with: there is no reference beside it");
  else if (!request.reference) lines.push("No reference: the comparison was not asked for, so the true error is unknown");
  const compared = solution.comparison;
  if (compared?.reason) lines.push(`Reference incomplete: ${compared.reason}`);
  if (compared?.remark) lines.push(compared.remark);
  return lines.map(sentence);
}

/** The same as a list. */
export function trustNote(solution) {
  return h("section", { class: "trust", "aria-label": "Trust" }, h("ul", {}, trustSentences(solution).map((line) => h("li", {}, line))));
}
