// Problem documents and flags in plain words.
import { h } from "./dom.js";
import { Problem } from "./service.js";

/** What changes a decision comes first. */
const FLAGS = {
  blow_up: "The rollout ended early",
  coefficient_outside_trained_range: "Outside the trained range",
  state_left_trained_range: "Leaves the states of the training",
  state_far_from_training: "Far from the states of the training",
  horizon_beyond_training: "Longer than in training",
  negative_initial_condition: "Negative where nature is positive",
  state_not_resolved: "Too few points for this state",
  state_outside_trained_range: "Unlike the states of the training",
  resolution_differs_from_training: "Another resolution than in training",
  last_steps_not_kept: "The last steps are not in the answer",
  numerical_solver_is_faster: "The numerical solver is faster",
};
/** Good to know, without any doubt about the answer. */
const REMARKS = new Set(["last_steps_not_kept", "numerical_solver_is_faster"]);

/** Flags in the order of `FLAGS`; unknown ones before mere remarks. */
export function byWeight(flags) {
  const order = Object.keys(FLAGS);
  const weight = ({ code }) => (order.includes(code) ? order.indexOf(code) : order.indexOf("last_steps_not_kept") - 0.5);
  return [...flags].sort((one, other) => weight(one) - weight(other));
}

function words(value) {
  if (value === null || value === undefined) return null;
  if (Array.isArray(value)) return value.map(words).join(", ");
  if (typeof value === "object") return Object.entries(value).map(([key, entry]) => `${key}: ${words(entry)}`).join("; ");
  return String(value);
}

/** What went wrong, what was expected, what to do. Anything that is no `Problem` is our own fault and thrown on. */
export function problemNote(error) {
  if (!(error instanceof Problem)) throw error;
  const { code, detail, got, expected, hint } = error.document;
  const facts = [["Got", got], ["Expected", expected], ["What to do", hint]]
    .map(([name, value]) => [name, words(value)])
    .filter(([, value]) => value !== null)
    .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
  return h(
    "div",
    { class: "note problem", role: "alert" },
    h("p", {}, h("strong", {}, sentence(detail ?? error.message)), " ", h("code", {}, code)),
    facts.length ? h("dl", {}, facts) : null,
  );
}

/** Something to know before trusting an answer. */
export function flagNote(flag) {
  return h(
    "div",
    { class: REMARKS.has(flag.code) ? "note remark" : "note flag" },
    h("p", {}, h("strong", {}, FLAGS[flag.code] ?? flag.code.replaceAll("_", " ")), " ", h("code", {}, flag.code)),
    h("p", {}, sentence(flag.message)),
  );
}

/** Names keep their letters, such as `nu = 2` and `ups-mini was trained`: only plain words begin with a capital. */
export function sentence(text) {
  const isWord = /^[a-z]+(?![\w-]| =)/.test(text);
  const capital = isWord ? text.charAt(0).toUpperCase() + text.slice(1) : text;
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}

/** Shows problems of `work` in `place`, which is emptied first. True where there were none. */
export async function guarded(place, work) {
  place.replaceChildren();
  try {
    await work();
    return true;
  } catch (error) {
    if (error.name !== "AbortError") place.replaceChildren(problemNote(error));
    return false;
  }
}
