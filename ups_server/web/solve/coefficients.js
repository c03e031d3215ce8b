// Coefficients: a slider with the trained range marked, and a number that must lie in the physical domain.
import { h, unique } from "../core/dom.js";
import { number, symbol, unit } from "../core/numbers.js";

const STEPS = 1000;

/** Where the slider begins and ends: beyond the trained range on both sides, never beyond the physical domain. */
function reach(card, trained) {
  const [low, high] = [trained?.low ?? null, trained?.high ?? null];
  const known = low !== null && high !== null && high > low;
  const logarithmic = known ? low > 0 && high / low >= 20 : card.default > 0 && card.low === 0;
  let ends;
  if (logarithmic) ends = known ? [low / 5, high * 5] : [card.default / 100, card.default * 100];
  else if (known) ends = [low - (high - low) / 2, high + (high - low) / 2];
  else ends = [card.default - 3 * Math.max(1, Math.abs(card.default)), card.default + 3 * Math.max(1, Math.abs(card.default))];
  return { low: Math.max(ends[0], card.low ?? -Infinity), high: Math.min(ends[1], card.high ?? Infinity), logarithmic, known };
}

/** Why a value is no value of this coefficient; null where it is one. */
export function objection(card, value) {
  if (!Number.isFinite(value)) return "Give a number.";
  if (card.low !== null && (value < card.low || (value === card.low && !card.low_included))) {
    return `Must be ${card.low_included ? "at least" : "above"} ${number(card.low)}.`;
  }
  if (card.high !== null && value > card.high) return `Must be at most ${number(card.high)}.`;
  return null;
}

/** The controls of one coefficient; `value()` is null where the domain is left. */
export function coefficient(card, trained, initial, onChange) {
  const { low, high, logarithmic, known } = reach(card, trained);
  const forward = (value) => (logarithmic ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
  const backward = (share) => (logarithmic ? low * (high / low) ** share : low + share * (high - low));
  const id = unique("coefficient");
  const name = `${symbol(card.name)}${unit(card.unit)}`;
  const slider = h("input", { type: "range", min: 0, max: STEPS, "aria-label": `${card.name}, slider` });
  const field = h("input", {
    type: "number", id, step: "any", value: initial, inputmode: "decimal", "aria-describedby": `${id}-remark`,
  });
  const remark = h("small", { id: `${id}-remark`, "aria-live": "polite" });
  const band = h("span", { class: "band", title: "trained range" });
  if (known) {
    band.style.insetInlineStart = `${100 * forward(trained.low)}%`;
    band.style.inlineSize = `${100 * (forward(trained.high) - forward(trained.low))}%`;
  }

  function judge() {
    const value = field.valueAsNumber;
    const wrong = objection(card, value);
    field.setAttribute("aria-invalid", String(wrong !== null));
    const outside = !wrong && known && (value < trained.low || value > trained.high);
    remark.className = wrong ? "wrong" : outside ? "outside" : "";
    const trainedText = known ? `Trained from ${number(trained.low)} to ${number(trained.high)}.` : card.description;
    remark.textContent = wrong ?? (outside ? `${trainedText} Outside of it the error is unknown.` : trainedText);
    if (!wrong) slider.value = Math.round(STEPS * Math.min(1, Math.max(0, forward(value) || 0)));
    slider.setAttribute("aria-valuetext", number(value));
  }

  slider.addEventListener("input", () => {
    field.value = Number(backward(slider.value / STEPS).toPrecision(3));
    judge();
    onChange();
  });
  field.addEventListener("input", () => {
    judge();
    onChange();
  });
  judge();
  const element = h(
    "div",
    { class: "control coefficient" },
    h("label", { for: id, title: card.description }, name, symbol(card.name) === card.name ? "" : h("span", { class: "spelled" }, card.name)),
    field,
    h("div", { class: "track" }, known ? band : null, slider),
    remark,
  );
  const set = (value) => {
    field.value = value;
    judge();
  };
  return { element, name: card.name, set, value: () => (objection(card, field.valueAsNumber) ? null : field.valueAsNumber) };
}
