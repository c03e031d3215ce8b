// What the service found in a file.
import { h, table } from "../core/dom.js";
import { bytes, equation, number, unit } from "../core/numbers.js";
import { sentence } from "../core/problems.js";
import { picture, segment } from "../core/service.js";

const span = ([low, high]) => (low === high ? number(low) : `${number(low)} to ${number(high)}`);

export function fileReport(record) {
  const { check, rows, dt, boundary } = record.report;
  const facts = [
    ["Equation", h("span", {}, check.family, " ", equation(check.equation))],
    ["Layout", check.layout],
    ["Trajectories", `${rows} of ${check.trajectories} can be used`],
    ...check.left_out.map((group) => ["Left out", `${group.rows.length === 1 ? "number" : "numbers"} ${listed(group.rows)}: ${group.reason}`]),
    ["Frames", `${check.frames}, t from ${number(check.t_first)} to ${number(check.t_last)}`],
    ["Step to learn", dt === null ? "frames are not equally spaced" : number(dt)],
    ["Axes", check.axes.map((axis) => `${axis.n} points from ${number(axis.low)} to ${number(axis.high)}`).join("; ")],
    ["Boundary", boundary.map(([low, high]) => (low === high ? low : `${low}, ${high}`).replaceAll("_", " ")).join("; ")],
    ["Coefficients", Object.entries(check.coefficients).map(([name, ends]) => `${name} ${span(ends)}`).join(", ") || "none"],
    ["Size", bytes(check.bytes)],
  ];
  const fields = [...check.fields, ...check.static_fields].map((field) => [
    `${field.name}${unit(field.unit)}`, number(field.min), number(field.max), number(field.mean), number(field.std), String(field.not_finite),
  ]);
  const remarks = [...check.problems, ...check.warnings];
  return h(
    "div",
    { class: "report" },
    h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h(
      "div",
      {},
      preview(record),
    ),
    table("Fields", ["Field", "Smallest", "Largest", "Mean", "Deviation", "Not finite"], fields),
    remarks.length ? h("ul", { class: "remarks" }, remarks.map((text) => h("li", {}, sentence(text)))) : null,
  );
}

/** The first few numbers of a list. */
const listed = (rows) => rows.slice(0, 8).join(", ") + (rows.length > 8 ? ` and ${rows.length - 8} more` : "");

function preview(record) {
  const image = h("img", { class: "preview", alt: `Trajectory ${record.report.preview_row} of ${record.name}` });
  picture(image, `v1/files/${segment(record.id)}/preview`).catch(() => image.remove());
  return image;
}
