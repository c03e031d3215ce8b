// Problem documents and flags in plain words.
import { h } from "./dom.js";
import { Problem } from "./service.js";

const FLAGS = {
  coefficient_outside_trained_range: "Outside the trained range",
  resolution_differs_from_training: "Another resolution than in training",
  state_outside_trained_range: "Unlike the states of the training",
  state_far_from_training: "Far from the states of the training",
  state_left_trained_range: "Leaves the states of the training",
  numerical_solver_is_faster: "The numerical solver is faster",
  negative_initial_condition: "Negative where nature is positive",
  blow_up: "The rollout ended early",
  horizon_beyond_training: "Longer than in training",
  last_steps_not_kept: "The last steps are not in the answer",
};

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
    { class: "note flag" },
    h("p", {}, h("strong", {}, FLAGS[flag.code] ?? flag.code.replaceAll("_", " ")), " ", h("code", {}, flag.code)),
    h("p", {}, sentence(flag.message)),
  );
}

export function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
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
