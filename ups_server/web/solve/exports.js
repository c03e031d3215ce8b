// Out of the page: the result as NetCDF, PNG, GIF, MP4, curves as CSV; the request as Python, curl, command line.
import { MAPS } from "../charts/colour_maps.js";
import { gif, indexed } from "../charts/gif.js";
import { encoding, mp4 } from "../charts/mp4.js";
import { snapshot } from "../charts/snapshot.js";
import { choice, h } from "../core/dom.js";
import { copy as copyText, download } from "../core/save.js";
import { colour } from "../core/theme.js";
import { Curves } from "./curves.js";
import { netcdf } from "./netcdf.js";
import { asCommand, asCurl, asPython } from "./request_text.js";

const AXES = ["x", "y", "z"];
const PIXELS = 256;
const MILLISECONDS = 80;

/** `show()` after a run has begun: everything is of the result on the stage. */
export function exportPanel(scene, fileName) {
  let language = "python";
  const text = h("pre", { class: "request", tabindex: "0", role: "region", "aria-label": "The request as text" });
  const outcome = h("span", { class: "quietly", role: "log" });
  const languages = choice("The request as", [["python", "Python"], ["curl", "curl"], ["command", "CLI"]], language, (value) => {
    language = value;
    write();
  });
  const button = (name, label, action) => h("button", { type: "button", class: "quiet", "aria-label": label, onClick: action }, name);
  const lacking = h("span", { class: "quietly" });
  const film = button("MP4", "Save as MP4", () => saveMp4(scene).catch((error) => (lacking.textContent = `There is no MP4: ${error.message}`)));
  const buttons = h("div", { class: "row", role: "group", "aria-label": "Save the result" },
    h("span", { class: "quietly" }, "Save as"),
    button("NetCDF", "Save as NetCDF", () => saveNetcdf(scene.result())),
    button("PNG", "Save as PNG", () => savePng(scene)),
    button("GIF", "Save as GIF", () => saveGif(scene)),
    film,
    button("CSV of curves", "Save curves as CSV", () => saveCurves(scene.result())),
    lacking);
  const copying = h("button", { type: "button", onClick: async () => {
    outcome.textContent = (await copyText(text.textContent)) ? "Copied." : "This browser does not let the page copy: mark the text.";
  } }, "Copy");
  const requestPart = h("details", { class: "asked" }, h("summary", {}, "Copy as Python, curl or CLI"), languages.element, text, h("div", { class: "row" }, copying, outcome));
  const element = h("div", { class: "exports" }, buttons, requestPart);

  encoding(PIXELS, PIXELS).then((possible) => {
    film.hidden = possible === null;
    if (film.hidden) lacking.textContent = `No MP4: ${isSecureContext ? "this browser has no encoder for it" : "browsers encode it on secure addresses only"}.`;
  });

  function write() {
    const { request } = scene.result().solution;
    const url = new URL(".", location.href).href.replace(/\/$/, "");
    text.textContent = { python: () => asPython(request, url), curl: () => asCurl(request, url), command: () => asCommand(request, fileName) }[language]();
    outcome.textContent = "";
  }

  return { element, show: write };
}

const nameOf = ({ solution, family }) => `${solution.header.model}-${solution.request.equation === undefined ? family.id : "equation"}`.replace(/[^\w.-]+/g, "-");

/** Frames of one field (T, X...) in one array. */
function whole(run, field) {
  const size = run.points.reduce((product, n) => product * n, 1);
  const values = new Float32Array(run.frames.length * size);
  run.frames.forEach((_, frame) => values.set(run.field(frame, field), frame * size));
  return values;
}

/** Points along an axis, as an answer of the service describes them. */
function places(grid, axis) {
  const { n, extent, offset, closed } = grid;
  const [low, high] = extent[axis];
  const spacing = (high - low) / (closed[axis] ? n[axis] - 1 : n[axis]);
  return Float64Array.from({ length: n[axis] }, (_, index) => low + (index + offset[axis]) * spacing);
}

function saveNetcdf(result) {
  const { solution, reference, others, family, caption } = result;
  const [dimensions, variables] = [{}, []];
  const runs = [
    { run: solution, suffix: "", about: solution.header.model },
    ...(reference?.frames.length ? [{ run: reference, suffix: "_reference", about: "numerical reference" }] : []),
    ...others.filter((other) => other.solution.frames.length).map((other) => ({ run: other.solution, suffix: `_${other.kind}`, about: other.title })),
    ...[...solution.statistics].map(([name, run]) => ({ run, suffix: `_${name.replace(/\W+/g, "_")}`, about: `ensemble: ${name}` })),
  ];
  for (const { run, suffix, about } of runs) {
    const own = (name, values, attributes) => {
      // Runs that reached other times, or are on other points, have axes of their own.
      const shared = variables.find((entry) => entry.name === name);
      const same = !shared || (shared.values.length === values.length && shared.values.every((value, index) => value === values[index]));
      const axis = same ? name : `${name}${suffix}`;
      if (!shared || !same) {
        dimensions[axis] = values.length;
        variables.push({ name: axis, dimensions: [axis], values, attributes });
      }
      return axis;
    };
    const axes = [
      own("time", Float64Array.from(run.times), { units: family.time_unit }),
      ...run.points.map((_, axis) => own(AXES[axis], places(run.header.grid, axis), { units: family.length_unit })),
    ];
    family.fields.forEach((field, index) => {
      variables.push({ name: `${field.name}${suffix}`, dimensions: axes, values: whole(run, index), attributes: { units: field.unit, long_name: `${field.description || field.name} (${about})` } });
    });
  }
  const { header, request } = solution;
  const attributes = { title: caption, model: header.model, model_version: header.model_version, family: header.family, equation: header.equation, coefficients: JSON.stringify(header.coefficients), request: JSON.stringify(request), flags: JSON.stringify(solution.flags) };
  download(`${nameOf(result)}.nc`, netcdf(dimensions, variables, attributes), "application/x-netcdf");
}

function savePng(scene) {
  const result = scene.result();
  snapshot(scene.element, result.caption).toBlob((blob) => download(`${nameOf(result)}.png`, [blob], "image/png"));
}

async function saveGif(scene) {
  const { width, height, frames, palette } = await animation(scene);
  download(`${nameOf(scene.result())}.gif`, gif(width, height, frames, palette, MILLISECONDS), "image/gif");
}

async function saveMp4(scene) {
  download(`${nameOf(scene.result())}.mp4`, await mp4(await animation(scene), MILLISECONDS), "video/mp4");
}

/** Frames as numbers of colours. */
const animation = async (scene) => (scene.result().family.dimensions === 2 ? mapFrames(scene) : curveFrames(scene));

/** The curves of the state, frame by frame as the stage draws them, on the ground of the page. */
async function curveFrames(scene) {
  const { solution } = scene.result();
  const shown = scene.frame();
  const source = scene.element.querySelector(".pictures canvas");
  const copy = Object.assign(document.createElement("canvas"), { width: source.clientWidth, height: source.clientHeight });
  const context = copy.getContext("2d", { willReadFrequently: true });
  const pictures = [];
  for (let frame = 0; frame < solution.frames.length; frame += 1) {
    scene.draw(frame);
    await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
    context.fillStyle = colour("--panel");
    context.fillRect(0, 0, copy.width, copy.height);
    context.drawImage(source, 0, 0, copy.width, copy.height);
    pictures.push(context.getImageData(0, 0, copy.width, copy.height).data);
  }
  scene.draw(shown);
  return { width: copy.width, height: copy.height, ...indexed(pictures) };
}

/** The field of the model as it is coloured on the stage, in the proportions of its box. */
function mapFrames(scene) {
  const { solution } = scene.result();
  const [nx, ny] = solution.points;
  const { low, high, map } = scene.look();
  const lengths = solution.header.grid.extent.map(([from, to]) => to - from);
  const [width, height] = lengths.map((length) => Math.max(1, Math.round((PIXELS * length) / Math.max(...lengths))));
  const frames = solution.frames.map((_, frame) => {
    const values = solution.field(frame, scene.field());
    return Uint8Array.from({ length: width * height }, (__, pixel) => {
      const [i, j] = [Math.floor(((pixel % width) * nx) / width), ny - 1 - Math.floor((Math.floor(pixel / width) * ny) / height)];
      return Math.min(255, Math.max(0, Math.round((255 * (values[i * ny + j] - low)) / (high - low || 1))));
    });
  });
  return { width, height, frames, palette: MAPS[map] };
}

/** One row a time; of every field the mean of each run, errors against the reference, bounds, spread, drift. */
function saveCurves(result) {
  const { solution, reference, others, family } = result;
  const names = new Map([[solution, solution.header.model], [reference, "reference"], ...others.map((other) => [other.solution, other.title])]);
  const columns = [["time", solution.times]];
  family.fields.forEach(({ name }, field) => {
    const curves = new Curves(result, field);
    curves.grow();
    const add = (what, row) => row.length && columns.push([`${what} ${name}`, row]);
    for (const [run, row] of curves.means) add(`mean of ${names.get(run)}:`, row);
    for (const [run, row] of curves.errors) add(`nRMSE of ${names.get(run)} against the reference:`, row);
    for (const [run, row] of curves.distances) add(`nRMSE between the two (${names.get(run)}):`, row);
    add("expected nRMSE at most:", curves.expected);
    add("spread:", curves.spreads);
  });
  for (const quantity of Object.keys(solution.steps[0]?.conserved ?? {})) columns.push([`drift of ${quantity}`, solution.drift(quantity)]);
  const cell = (value) => (Number.isFinite(value) ? String(value) : "");
  const lines = [columns.map(([name]) => `"${name.replaceAll('"', '""')}"`), ...solution.times.map((_, row) => columns.map(([, values]) => cell(values[row])))];
  download(`${nameOf(result)}.csv`, [lines.map((line) => line.join(",")).join("\r\n"), "\r\n"], "text/csv");
}
