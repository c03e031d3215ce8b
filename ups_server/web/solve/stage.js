// What a rollout looks like: the field in motion, the reference and the difference, curves beneath.
import { lineChart } from "../charts/line_chart.js";
import { picture } from "../charts/picture.js";
import { choice, fill, h, labelled } from "../core/dom.js";
import { unit } from "../core/numbers.js";
import { mean, normalisedError, rootMeanSquare, spectrum } from "./quantities.js";

const INKS = ["--curve-1", "--curve-2"];

/** `show(solution, reference, family, other)` begins, `other` being the same by interpolation; `grow()` after new frames; `draw(frame)` shows one. */
export function stage() {
  let [solution, reference, other, family, field, map, charts] = [null, null, null, null, 0, "sequential", null];
  let curves = none();
  let frame = 0;
  const fields = h("select", { onChange: () => {
    field = Number(fields.value);
    recompute();
    grow();
  } });
  const fieldControl = labelled("Field", fields);
  const colours = choice("Colours", [["sequential", "Sequential"], ["diverging", "Diverging"]], map, (value) => {
    map = value;
    draw(frame);
  });
  const tools = h("div", { class: "row tools" }, fieldControl, colours.element);
  const pictures = h("div", { class: "pictures" });
  const below = h("div", { class: "curves" });
  const element = h("div", { class: "stage" }, pictures, below);

  function none() {
    return { errors: [], otherErrors: [], expected: [], means: [], referenceMeans: [], spreads: [] };
  }

  const flat = () => family.dimensions === 1;

  function show(nextSolution, nextReference, nextFamily, nextOther = null) {
    [solution, reference, family, other] = [nextSolution, nextReference, nextFamily, nextOther];
    field = Math.min(field, family.fields.length - 1);
    curves = none();
    frame = 0;
    fill(fields, family.fields.map(({ name }, index) => [String(index), name]), String(field));
    fieldControl.hidden = family.fields.length === 1;
    charts = made();
    const maps = [charts.model, charts.other, charts.reference, charts.difference, charts.middle, charts.spread].filter(Boolean);
    pictures.replaceChildren(...(charts.curve ? [charts.curve.element] : []), h("div", { class: "maps" }, maps.map((chart) => chart.element)));
    pictures.dataset.dimensions = family.dimensions;
    below.replaceChildren(...[charts.error, charts.spreading, charts.mean, charts.drift, charts.spectrum].filter(Boolean).map((chart) => chart.element));
  }

  function made() {
    const time = `t${unit(family.time_unit)}`;
    const space = `x${unit(family.length_unit)}`;
    const axes = flat() ? { xLabel: space, yLabel: time } : { xLabel: space, yLabel: `y${unit(family.length_unit)}`, square: true };
    const compared = reference !== null;
    const several = solution.statistics.size > 0;
    return {
      curve: flat() ? lineChart({ title: "State", xLabel: space, tall: true }) : null,
      model: picture({ title: other ? "Resolution-free" : solution.request.model, ...axes }),
      other: other ? picture({ title: "Interpolation", ...axes }) : null,
      reference: compared ? picture({ title: "Reference", ...axes }) : null,
      difference: compared ? picture({ title: "Difference", ...axes }) : null,
      middle: several && !flat() ? picture({ title: "Ensemble mean", ...axes }) : null,
      spread: several ? picture({ title: "Ensemble spread", ...axes }) : null,
      spreading: several ? lineChart({ title: "Spread over time", xLabel: time }) : null,
      error: compared || bounds() ? lineChart({ title: "Error, nRMSE", xLabel: time, logY: true }) : null,
      mean: lineChart({ title: "Mean", xLabel: time }),
      drift: family.conserved.length ? lineChart({ title: "Conserved, drift of the mean", xLabel: time }) : null,
      spectrum: lineChart({ title: "Power spectrum", xLabel: "wavenumber", logX: true, logY: true }),
    };
  }

  function recompute() {
    curves = none();
  }

  /** Bounds of the root mean square error of the field, where the model is calibrated for this. */
  function bounds() {
    return solution.diagnostics?.expected_error.bounds[family.fields[field].name] ?? null;
  }

  /** Curves over time go on from where they were. */
  function grow() {
    if (!solution?.frames.length) return;
    while (curves.means.length < solution.frames.length) curves.means.push(mean(solution.field(curves.means.length, field)));
    if (reference) {
      while (curves.referenceMeans.length < reference.frames.length) {
        curves.referenceMeans.push(mean(reference.field(curves.referenceMeans.length, field)));
      }
      while (curves.errors.length < Math.min(solution.frames.length, reference.frames.length)) {
        const index = curves.errors.length;
        curves.errors.push(normalisedError(solution.field(index, field), reference.field(index, field)) ?? NaN);
      }
    }
    const size = (index) => rootMeanSquare((reference ?? solution).field(index, field));
    const sized = Math.min(solution.frames.length, reference?.frames.length ?? Infinity);
    const spread = solution.statistics.get("spread");
    while (spread && curves.spreads.length < spread.frames.length) curves.spreads.push(rootMeanSquare(spread.field(curves.spreads.length, field)));
    while (bounds() && curves.expected.length < sized) {
      const index = curves.expected.length;
      curves.expected.push(bounds()[index] === null ? NaN : bounds()[index] / size(index));
    }
    while (reference && other && curves.otherErrors.length < Math.min(other.frames.length, reference.frames.length)) {
      const index = curves.otherErrors.length;
      curves.otherErrors.push(normalisedError(other.field(index, field), reference.field(index, field)) ?? NaN);
    }
    draw(frame);
  }

  function limits() {
    const list = [solution, reference, other, ...solution.band].filter((entry) => entry?.frames.length);
    return [Math.min(...list.map((entry) => entry.low[field])), Math.max(...list.map((entry) => entry.high[field]))];
  }

  function draw(index) {
    if (!solution?.frames.length || !charts) return;
    frame = Math.min(index, solution.frames.length - 1);
    const [low, high] = limits();
    const size = Math.max(Math.abs(low), Math.abs(high)) || 1;
    const look = { low: map === "diverging" ? -size : low, high: map === "diverging" ? size : high, map, unit: family.fields[field].unit };
    drawOverTime();
    if (flat()) drawFlat(look, low, high);
    else drawMaps(look);
  }

  function xRange() {
    return solution.header.grid.extent[0];
  }

  function drawOverTime() {
    const marker = solution.times[frame];
    const last = solution.header.times[solution.planned - 1] ?? marker;
    const options = { marker, xRange: [0, last || 1] };
    const conserved = family.conserved.includes(family.fields[field].name);
    const name = family.fields[field].name;
    charts.mean.update(
      [
        { name: conserved ? `${name}, conserved` : name, x: solution.times, y: curves.means, ink: INKS[0] },
        ...(reference?.frames.length ? [{ name: "reference", x: reference.times, y: curves.referenceMeans, ink: INKS[1], dash: true }] : []),
      ],
      options,
    );
    drawErrors(options);
    charts.spreading?.update([{ name, x: solution.times, y: curves.spreads, ink: INKS[0] }], options);
    charts.drift?.update(
      Object.keys(solution.steps[0]?.conserved ?? {}).map((quantity, index) => (
        { name: quantity, x: solution.times, y: solution.drift(quantity), ink: INKS[index % 2], dash: index > 1 }
      )),
      options,
    );
    const shown = [[solution, solution.request.model, false]];
    if (other?.frames.length > frame) shown.push([other, "interpolation", false, "--muted"]);
    if (reference && reference.frames.length > frame) shown.push([reference, "reference", true]);
    charts.spectrum.update(shown.map(([source, label, dash, ink]) => {
      const { k, power } = spectrum(source.field(frame, field), source.points);
      return { name: label, x: k, y: power, ink: ink ?? INKS[dash ? 1 : 0], dash };
    }), { yRange: spectrumRange() });
  }

  /** From the second frame on: the first is given. */
  function drawErrors(options) {
    if (!charts.error) return;
    const several = other !== null || bounds() !== null;
    const named = (name, y, ink, dash = false) => ({ name: several ? name : "", x: solution.times.slice(1, y.length), y: y.slice(1), ink, dash });
    charts.error.update([
      ...(reference ? [named(other ? "resolution-free" : "true", curves.errors, INKS[0])] : []),
      ...(reference && other ? [named("interpolation", curves.otherErrors, "--muted")] : []),
      ...(bounds() ? [named("expected, at most", curves.expected, INKS[1], true)] : []),
    ], options);
  }

  /** The first state says how strong modes are: the axis stays where it is while the field moves. */
  function spectrumRange() {
    const { power } = spectrum(solution.field(0, field), solution.points);
    const top = Math.max(...power, 1e-12);
    return [top * 1e-9, top * 10];
  }

  function drawFlat(look, low, high) {
    const [n] = solution.points;
    const [from, to] = xRange();
    const x = Array.from({ length: n }, (_, index) => from + ((index + solution.header.grid.offset[0]) * (to - from)) / n);
    const room = 0.06 * (high - low || 1);
    const [lower, upper] = solution.band.map((row) => row.field(frame, field));
    charts.curve.update(
      [
        ...(lower ? [{ name: "9 of 10 members", x, y: lower, upper, ink: INKS[0] }] : []),
        { name: "initial", x, y: solution.field(0, field), ink: "--muted", faint: true },
        ...(reference && reference.frames.length > frame ? [{ name: "reference", x, y: reference.field(frame, field), ink: INKS[1], dash: true }] : []),
        ...(other?.frames.length > frame ? [{ name: "interpolation", x, y: other.field(frame, field), ink: "--muted" }] : []),
        ...(lower ? [{ name: "members' mean", x, y: solution.statistics.get("mean").field(frame, field), ink: INKS[0], dash: true }] : []),
        { name: other ? "resolution-free" : solution.request.model, x, y: solution.field(frame, field), ink: INKS[0] },
      ],
      { xRange: [from, to], yRange: [low - room, high + room] },
    );
    const yRange = [0, solution.header.times[solution.planned - 1] || 1];
    const together = (frames, value) => {
      const all = new Float32Array(frames * n);
      for (let row = 0; row < frames; row += 1) all.set(value(row), row * n);
      return { values: all, width: n, height: frames, filled: frames / solution.planned };
    };
    const axes = { xRange: [from, to], yRange, marker: solution.times[frame] };
    charts.model.update({ ...together(solution.frames.length, (row) => solution.field(row, field)), ...axes, ...look });
    if (other?.frames.length) charts.other.update({ ...together(other.frames.length, (row) => other.field(row, field)), ...axes, ...look });
    const spread = solution.statistics.get("spread");
    if (spread) charts.spread.update({ ...together(spread.frames.length, (row) => spread.field(row, field)), ...axes, ...fromZero(spread) });
    if (!reference?.frames.length) return;
    charts.reference.update({ ...together(reference.frames.length, (row) => reference.field(row, field)), ...axes, ...look });
    const common = Math.min(solution.frames.length, reference.frames.length);
    const differences = together(common, (row) => difference(row));
    charts.difference.update({ ...differences, ...axes, ...symmetric(differences.values), unit: look.unit });
  }

  function drawMaps(look) {
    const [nx, ny] = solution.points;
    const [xRangeOf, yRange] = solution.header.grid.extent;
    const axes = { width: nx, height: ny, byColumn: true, xRange: xRangeOf, yRange };
    charts.model.update({ values: solution.field(frame, field), ...axes, ...look });
    if (other?.frames.length > frame) charts.other.update({ values: other.field(frame, field), ...axes, ...look });
    if (charts.spread) {
      charts.middle.update({ values: solution.statistics.get("mean").field(frame, field), ...axes, ...look });
      const spread = solution.statistics.get("spread");
      charts.spread.update({ values: spread.field(frame, field), ...axes, ...fromZero(spread) });
    }
    if (!reference || reference.frames.length <= frame) return;
    charts.reference.update({ values: reference.field(frame, field), ...axes, ...look });
    const values = difference(frame);
    charts.difference.update({ values, ...axes, ...symmetric(values), unit: look.unit });
  }

  function difference(index) {
    const expected = reference.field(index, field);
    return solution.field(index, field).map((value, point) => value - expected[point]);
  }

  /** Colours of a quantity that is never negative: the same at every frame. */
  function fromZero(row) {
    return { low: 0, high: row.high[field] || 1, map: "sequential", unit: family.fields[field].unit };
  }

  function symmetric(values) {
    let size = 0;
    for (const value of values) size = Math.max(size, Math.abs(value) || 0);
    return { low: -size || -1, high: size || 1, map: "diverging" };
  }

  return { element, tools, show, grow, draw, errors: () => curves.errors };
}
