// What a rollout looks like: the field in motion, what it is compared with and the differences, curves beneath.
import { lineChart } from "../charts/line_chart.js";
import { picture } from "../charts/picture.js";
import { choice, fill, h, labelled } from "../core/dom.js";
import { unit } from "../core/numbers.js";
import { comparable, Curves } from "./curves.js";
import { spectrum } from "./quantities.js";

const INKS = { main: "--curve-1", reference: "--curve-2", interpolation: "--muted", beside: "--curve-3" };
/** A field changes sign where its smaller side is more than this share of the larger one. */
const SIGN_CHANGE = 0.02;

/** `show(result)` begins with {solution, reference, others, title, family}; `grow()` after new frames; `draw(frame)` shows one. */
export function stage() {
  let [result, field, map, charts, curves, frame] = [null, 0, "auto", null, null, 0];
  const fields = h("select", { onChange: () => {
    field = Number(fields.value);
    curves = new Curves(result, field);
    grow();
  } });
  const fieldControl = labelled("Field", fields);
  const colours = choice("Colours", [["auto", "Automatic"], ["sequential", "Sequential"], ["diverging", "Diverging"]], map, (value) => {
    map = value;
    draw(frame);
  });
  const span = h("select", { onChange: () => {
    if (span.value === "chosen" && !lowest.value) [lowest.value, highest.value] = extremes(null).map((value) => Number(value.toPrecision(3)));
    draw(frame);
  } });
  const bound = () => h("input", { type: "number", step: "any", onInput: () => draw(frame) });
  const [lowest, highest] = [bound(), bound()];
  const ends = [labelled("From", lowest), labelled("To", highest)];
  const tools = h("div", { class: "row tools" }, fieldControl, labelled("Colour limits", span), ends, colours.element);
  const pictures = h("div", { class: "pictures" });
  const below = h("div", { class: "curves" });
  const element = h("div", { class: "stage" }, pictures, below);

  const flat = () => result.family.dimensions === 1;
  const quantity = () => `${result.family.fields[field].name}${unit(result.family.fields[field].unit)}`;
  const beside = () => result.others.find(({ kind }) => kind === "beside");

  function show(next) {
    result = next;
    const { family } = result;
    field = Math.min(field, family.fields.length - 1);
    curves = new Curves(result, field);
    frame = 0;
    fill(fields, family.fields.map((entry, index) => [String(index), `${entry.name}${unit(entry.unit)}`]), String(field));
    fieldControl.hidden = family.fields.length === 1;
    fill(span, [["all", "All frames"], ...(flat() ? [] : [["frame", "This frame"]]), ["chosen", "Chosen"]]);
    [lowest.value, highest.value] = ["", ""];
    if (span.value === "chosen") span.value = "all";
    charts = made();
    const maps = [charts.model, ...charts.others, charts.reference, charts.difference, charts.apart, charts.middle, charts.spread].filter(Boolean);
    pictures.replaceChildren(...(charts.curve ? [charts.curve.element] : []), h("div", { class: "maps" }, maps.map((chart) => chart.element)));
    pictures.dataset.dimensions = family.dimensions;
    below.replaceChildren(...[charts.error, charts.distance, charts.spreading, charts.mean, charts.drift, charts.spectrum].filter(Boolean).map((chart) => chart.element));
  }

  function made() {
    const { solution, reference, others, title, family } = result;
    const time = `t${unit(family.time_unit)}`;
    const space = `x${unit(family.length_unit)}`;
    const axes = flat() ? { xLabel: space, yLabel: time } : { xLabel: space, yLabel: `y${unit(family.length_unit)}`, square: true };
    const several = solution.statistics.size > 0;
    return {
      curve: flat() ? lineChart({ title: "State", xLabel: space, tall: true }) : null,
      model: picture({ title, ...axes }),
      others: others.map((other) => picture({ title: other.title, ...axes })),
      reference: reference ? picture({ title: "Reference", ...axes }) : null,
      difference: reference ? picture({ title: "Difference", ...axes }) : null,
      apart: beside() ? picture({ title: "Difference of the two", ...axes }) : null,
      middle: several && !flat() ? picture({ title: "Ensemble mean", ...axes }) : null,
      spread: several ? picture({ title: "Ensemble spread", ...axes }) : null,
      spreading: several ? lineChart({ title: "Spread over time", xLabel: time }) : null,
      error: reference || curves.bounds ? lineChart({ title: "Error, nRMSE", xLabel: time, logY: true }) : null,
      distance: beside() ? lineChart({ title: "Difference of the two, nRMSE", xLabel: time, logY: true }) : null,
      mean: lineChart({ title: "Mean", xLabel: time }),
      drift: family.conserved.length && solution.request.diagnostics ? lineChart({ title: "Conserved, drift of the mean", xLabel: time }) : null,
      spectrum: lineChart({ title: "Power spectrum", xLabel: "wavenumber", logX: true, logY: true }),
    };
  }

  /** Curves over time go on from where they were. */
  function grow() {
    if (!result?.solution.frames.length) return;
    curves.grow();
    draw(frame);
  }

  /** Smallest and largest value of all that is shown: of one frame, or of all (null). */
  function extremes(index) {
    const runs = [result.solution, result.reference, ...result.others.map((other) => other.solution), ...result.solution.band];
    const [lows, highs] = [[], []];
    for (const run of runs.filter((entry) => entry && entry.frames.length > (index ?? 0))) {
      const values = index === null ? [run.low[field], run.high[field]] : run.field(index, field);
      let [low, high] = [Infinity, -Infinity];
      for (const value of values) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
      lows.push(low);
      highs.push(high);
    }
    return [Math.min(...lows), Math.max(...highs)];
  }

  /** Colours from where to where, and which map: a diverging one is white at zero. */
  function look() {
    const all = extremes(null);
    const changesSign = Math.min(-all[0], all[1]) > SIGN_CHANGE * Math.max(-all[0], all[1]);
    const chosenMap = map === "auto" ? (changesSign ? "diverging" : "sequential") : map;
    let [low, high] = span.value === "frame" ? extremes(frame) : all;
    if (span.value === "chosen" && lowest.valueAsNumber < highest.valueAsNumber) [low, high] = [lowest.valueAsNumber, highest.valueAsNumber];
    const size = Math.max(Math.abs(low), Math.abs(high)) || 1;
    const around = chosenMap === "diverging";
    return { low: around ? -size : low, high: around ? size : high, map: chosenMap, quantity: quantity() };
  }

  function draw(index) {
    if (!result?.solution.frames.length || !charts) return;
    frame = Math.min(index, result.solution.frames.length - 1);
    for (const end of ends) end.hidden = span.value !== "chosen";
    drawOverTime();
    if (flat()) drawFlat(look());
    else drawMaps(look());
  }

  /** Everything that is shown as a curve: name, run, colour, dashed or not. The solution is last, on top. */
  function shownRuns() {
    const { solution, reference, others, title } = result;
    return [
      ...(reference ? [{ name: "reference", run: reference, ink: INKS.reference, dash: true }] : []),
      ...others.map((other) => ({ name: other.kind === "interpolation" ? "interpolation" : other.title, run: other.solution, ink: INKS[other.kind] })),
      { name: title === "Resolution-free" ? "resolution-free" : title, run: solution, ink: INKS.main },
    ];
  }

  function drawOverTime() {
    const { solution, reference, family, others } = result;
    const marker = solution.times[frame];
    const last = solution.header.times[solution.planned - 1] ?? marker;
    const options = { marker, xRange: [0, last || 1] };
    const { name } = family.fields[field];
    const conserved = family.conserved.includes(name);
    charts.mean.update(
      shownRuns().reverse().filter(({ run }) => run === solution || run.frames.length).map((entry) => (
        { ...entry, name: entry.run === solution ? (conserved ? `${name}, conserved` : name) : entry.name, x: entry.run.times, y: curves.means.get(entry.run) }
      )),
      { ...options, yLabel: quantity() },
    );
    drawErrors(options, others.length > 0 || curves.bounds !== null);
    const other = beside();
    charts.distance?.update([{ name: "", x: other.solution.times.slice(1), y: curves.distances.get(other.solution).slice(1), ink: INKS.beside }], options);
    charts.spreading?.update([{ name, x: solution.times, y: curves.spreads, ink: INKS.main }], { ...options, yLabel: quantity() });
    charts.drift?.update(
      Object.keys(solution.steps[0]?.conserved ?? {}).map((conservedName, index) => (
        { name: conservedName, x: solution.times, y: solution.drift(conservedName), ink: [INKS.main, INKS.reference][index % 2], dash: index > 1 }
      )),
      options,
    );
    charts.spectrum.update(shownRuns().reverse().filter(({ run }) => run.frames.length > frame).map(({ name: label, run, ink, dash }) => {
      const { k, power } = spectrum(run.field(frame, field), run.points);
      return { name: run === solution ? result.title : label, x: k, y: power, ink, dash };
    }), { yRange: spectrumRange() });
    if (reference && !reference.frames.length) charts.error?.update([], options);
  }

  /** From the second frame on: the first is given. */
  function drawErrors(options, several) {
    if (!charts.error) return;
    const { solution, reference, others } = result;
    const named = (name, y, ink, dash = false) => ({ name: several ? name : "", x: solution.times.slice(1, y.length), y: y.slice(1), ink, dash });
    const main = others.some(({ kind }) => kind === "interpolation") ? "resolution-free" : others.length ? result.title : "true";
    charts.error.update([
      ...(reference ? [named(main, curves.errors.get(solution), INKS.main)] : []),
      ...(reference ? others.filter((other) => fair(other)).map((other) => named(other.kind === "interpolation" ? "interpolation" : other.title, curves.errors.get(other.solution), INKS[other.kind])) : []),
      ...(curves.bounds ? [named("expected, at most", curves.expected, INKS.reference, true)] : []),
    ], options);
  }

  /** The reference has the coefficients of the first run: one with others has no error against it. */
  function fair(other) {
    return JSON.stringify(other.solution.header?.coefficients) === JSON.stringify(result.solution.header.coefficients);
  }

  /** The first state says how strong modes are: the axis stays where it is while the field moves. */
  function spectrumRange() {
    const { power } = spectrum(result.solution.field(0, field), result.solution.points);
    const top = Math.max(...power, 1e-12);
    return [top * 1e-9, top * 10];
  }

  function drawFlat(colouring) {
    const { solution, reference, others } = result;
    const [low, high] = extremes(null);
    const [n] = solution.points;
    const [from, to] = solution.header.grid.extent[0];
    const places = (run) => {
      const count = run.points[0];
      return Array.from({ length: count }, (_, index) => from + ((index + run.header.grid.offset[0]) * (to - from)) / count);
    };
    const x = places(solution);
    const room = 0.06 * (high - low || 1);
    const [lower, upper] = solution.band.map((row) => row.field(frame, field));
    const rest = shownRuns().filter(({ run }) => run !== solution && run.frames.length > frame);
    charts.curve.update(
      [
        ...(lower ? [{ name: "9 of 10 members", x, y: lower, upper, ink: INKS.main }] : []),
        { name: "initial", x, y: solution.field(0, field), ink: "--muted", faint: true },
        ...rest.map((entry) => ({ ...entry, x: places(entry.run), y: entry.run.field(frame, field) })),
        ...(lower ? [{ name: "members' mean", x, y: solution.statistics.get("mean").field(frame, field), ink: INKS.main, dash: true }] : []),
        { name: shownRuns().at(-1).name, x, y: solution.field(frame, field), ink: INKS.main },
      ],
      { xRange: [from, to], yRange: [low - room, high + room], yLabel: quantity() },
    );
    const yRange = [0, solution.header.times[solution.planned - 1] || 1];
    const rows = (frames, value, width = n) => {
      const all = new Float32Array(frames * width);
      for (let row = 0; row < frames; row += 1) all.set(value(row), row * width);
      return { values: all, width, height: frames, filled: frames / solution.planned };
    };
    const axes = { xRange: [from, to], yRange, marker: solution.times[frame] };
    const whole = (run) => ({ ...rows(run.frames.length, (row) => run.field(row, field), run.points[0]), ...axes });
    charts.model.update({ ...whole(solution), ...colouring });
    others.forEach((other, index) => {
      if (other.solution.frames.length) charts.others[index].update({ ...whole(other.solution), ...colouring });
      else charts.others[index].blank(whyBlank(other.solution));
    });
    const spread = solution.statistics.get("spread");
    if (spread) charts.spread.update({ ...whole(spread), ...fromZero(spread) });
    if (reference?.frames.length) charts.reference.update({ ...whole(reference), ...colouring });
    else charts.reference?.blank(whyBlank(reference));
    const difference = (chart, run, other) => {
      const reason = whyApart(run, other, 0);
      if (reason) return chart?.blank(reason);
      const found = rows(Math.min(run.frames.length, other.frames.length), (row) => differenceOf(run, other, row));
      return chart.update({ ...found, ...axes, ...symmetric(found.values) });
    };
    if (reference) difference(charts.difference, solution, reference);
    if (beside()) difference(charts.apart, solution, beside().solution);
  }

  function drawMaps(colouring) {
    const { solution, reference, others } = result;
    const [xRange, yRange] = solution.header.grid.extent;
    const whole = (run) => ({ values: run.field(frame, field), width: run.points[0], height: run.points[1], byColumn: true, xRange, yRange });
    charts.model.update({ ...whole(solution), ...colouring });
    const place = (chart, run) => {
      if (run.frames.length > frame) chart.update({ ...whole(run), ...colouring });
      else chart.blank(whyBlank(run));
    };
    others.forEach((other, index) => place(charts.others[index], other.solution));
    if (charts.spread) {
      charts.middle.update({ ...whole(solution.statistics.get("mean")), ...colouring });
      const spread = solution.statistics.get("spread");
      charts.spread.update({ ...whole(spread), ...fromZero(spread) });
    }
    if (reference) place(charts.reference, reference);
    const difference = (chart, run, other) => {
      const reason = whyApart(run, other, frame);
      if (reason) return chart.blank(reason);
      const values = differenceOf(run, other, frame);
      return chart.update({ ...whole(run), values, ...symmetric(values) });
    };
    if (reference) difference(charts.difference, solution, reference);
    if (beside()) difference(charts.apart, solution, beside().solution);
  }

  /** Why a run has nothing to show (here). */
  function whyBlank(run) {
    if (run.problem) return run.problem;
    const who = run === result.reference ? "The reference" : "It";
    if (run === result.reference && result.solution.ended) return `${who} was not solved: the run was stopped.`;
    if (!run.frames.length) return `${who} is being computed.`;
    return run.done ? `${who} ended at t = ${run.times.at(-1)}.` : `${who} has not come to this time yet.`;
  }

  function whyApart(run, other, index) {
    if (other.frames.length <= index) return whyBlank(other);
    return comparable(run, other) ? null : "The two are on different points.";
  }

  function differenceOf(run, other, index) {
    const expected = other.field(index, field);
    return run.field(index, field).map((value, point) => value - expected[point]);
  }

  /** Colours of a quantity that is never negative: the same at every frame. */
  function fromZero(row) {
    return { low: 0, high: row.high[field] || 1, map: "sequential", quantity: quantity() };
  }

  function symmetric(values) {
    let size = 0;
    for (const value of values) size = Math.max(size, Math.abs(value) || 0);
    return { low: -size || -1, high: size || 1, map: "diverging", quantity: quantity() };
  }

  return {
    element,
    tools,
    show,
    grow,
    draw,
    errors: () => curves.errors.get(result.solution),
    field: () => field,
    frame: () => frame,
    look,
    result: () => result,
  };
}
