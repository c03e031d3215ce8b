// What a result is a result of, in a line: model, equation, coefficients, start, points, how far.
import { h } from "../core/dom.js";
import { equation, number, symbol } from "../core/numbers.js";

/** {title, facts: [[name, text]], equation} of a run whose first event has come. */
export function summary(solution, family, start) {
  const { header, request } = solution;
  const written = request.equation !== undefined;
  const coefficients = written ? request.coefficients ?? {} : header.coefficients;
  const values = Object.entries(coefficients).map(([name, value]) => `${symbol(name)} = ${number(value)}`).join(", ");
  const given = request.output_resolution ? request.grid.n : null;
  const points = (n) => n.join(" × ");
  const last = header.times[header.times.length - 1];
  return {
    title: `${header.model}: ${written ? "an equation in symbols" : family.name}`,
    equation: written ? header.equation.replaceAll("*", " ").replace("= -", "= −") : family.equation,
    facts: [
      ["Model", `${header.model}, version ${header.model_version}`],
      ...(values ? [["Coefficients", values]] : []),
      ["Start", start],
      ["Points", given ? `${points(header.grid.n)}, from ${points(given)}` : points(header.grid.n)],
      ["Time", `to ${number(last)}${header.time_unit === "1" ? "" : ` ${header.time_unit}`} in ${header.n_steps} ${header.n_steps === 1 ? "step" : "steps"}`],
    ],
  };
}

/** The same in one line of text. */
export function summaryText({ title, facts }) {
  return `${title} · ${facts.slice(1).map(([name, text]) => (name === "Points" ? `${text} points` : text)).join(" · ")}`;
}

export function summaryNote(found) {
  return h("div", { class: "summary" },
    h("h2", {}, found.title),
    h("p", {}, equation(found.equation)),
    h("dl", {}, found.facts.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text)))));
}
