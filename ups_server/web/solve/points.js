// Points of a grid as text: `128`, `64 x 32`; one number means as many along every axis.
import { fill, h, labelled, unique } from "../core/dom.js";

const USUAL = { 1: [64, 128, 256, 512, 1024], 2: [32, 64, 128], 3: [16, 32] };
const FEWEST = 8;

/** The numbers in a text such as `64 x 32`, one per axis; null where it is no grid. */
export function parsePoints(text, dimensions) {
  if (!/^\s*\d+(\s*[x×,]\s*\d+)*\s*$/i.test(text)) return null;
  const numbers = text.split(/[x×,]/i).map(Number);
  const points = numbers.length === 1 ? Array(dimensions).fill(numbers[0]) : numbers;
  return points.length === dimensions && points.every((n) => n >= FEWEST) ? points : null;
}

export const pointsText = (points) => (points.every((n) => n === points[0]) ? String(points[0]) : points.join(" x "));

export function pointsControl(onChange) {
  let [dimensions, trained] = [1, null];
  const list = h("datalist", { id: unique("points") });
  const input = h("input", { type: "text", list: list.id, autocomplete: "off", onInput: () => onChange() });
  const control = labelled("Points", input, " ");
  const remark = control.querySelector("small");
  control.append(list);
  const value = () => parsePoints(input.value, dimensions);
  return {
    element: control,
    value,
    text: () => input.value,
    set: (text) => (input.value = text),
    /** Another problem: its usual points, unless what stands there fits and `keep` says so. */
    problem(nextDimensions, nextTrained, usual) {
      [dimensions, trained] = [nextDimensions, nextTrained];
      const sizes = [...new Set([...USUAL[dimensions], usual])].sort((a, b) => a - b);
      fill(list, sizes.map((n) => [String(n), Array(dimensions).fill(n).join(" × ") + (n === trained ? " (trained)" : "")]));
      input.value = String(usual);
    },
    judge(disabled) {
      input.disabled = disabled;
      const wrong = !disabled && value() === null;
      input.setAttribute("aria-invalid", String(wrong));
      remark.className = wrong ? "wrong" : "";
      const form = dimensions === 1 ? "a number from 8 on" : "such as 64 or 64 x 32";
      remark.textContent = wrong ? `Give ${form}.` : disabled ? "Those of the file." : trained ? `Trained at ${Array(dimensions).fill(trained).join(" × ")}.` : "";
      return !wrong;
    },
  };
}
