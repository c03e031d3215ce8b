// Curves with axes and a legend.
import { h } from "../core/dom.js";
import { number } from "../core/numbers.js";
import { colour } from "../core/theme.js";
import { decades, range, scale, ticks } from "./scales.js";
import { surface } from "./surface.js";

const LEFT = 58;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 34;
/** Opacity of a band; its key in the legend has the same. */
const BAND = 0.28;

/**
 * A figure of curves. `update(curves, options)` draws: curves are {name, x, y, ink, dash, faint}, or with `upper` the
 * band between y and upper; options may set `marker` (an x), `xRange`, `yRange` and `yLabel`.
 */
export function lineChart({ title, xLabel, yLabel = "", logX = false, logY = false, tall = false }) {
  const canvas = h("canvas", { class: tall ? "plot tall" : "plot", role: "img", "aria-label": title });
  const legend = h("span", { class: "legend" });
  const element = h("figure", { class: "chart" }, h("figcaption", {}, h("span", {}, title), legend), canvas);
  let state = { curves: [], options: {} };

  const redraw = surface(canvas, (context, width, height) => {
    const { curves, options } = state;
    const [x0, x1] = options.xRange ?? range(curves.map((curve) => curve.x), logX, 0);
    const [y0, y1] = options.yRange ?? range(curves.flatMap((curve) => [curve.y, curve.upper ?? []]), logY);
    const x = scale(x0, x1, LEFT, width - RIGHT, logX);
    const y = scale(y0, y1, height - BOTTOM, TOP, logY);
    axes(context, width, height, { x, y, x0, x1, y0, y1, logX, logY, xLabel, yLabel: options.yLabel ?? yLabel });
    if (options.marker !== undefined) line(context, "--faint", [[x(options.marker), TOP], [x(options.marker), height - BOTTOM]], []);
    context.save();
    context.beginPath();
    context.rect(LEFT, TOP - 2, width - LEFT - RIGHT, height - TOP - BOTTOM + 4);
    context.clip();
    for (const curve of curves) {
      if (curve.upper) drawBand(context, curve, x, y);
      else drawCurve(context, curve, x, y, logX, logY);
    }
    context.restore();
  });

  return {
    element,
    update(curves, options = {}) {
      state = { curves, options };
      const named = curves.filter((curve) => curve.name);
      const key = named.map((curve) => curve.name + curve.ink).join();
      if (legend.dataset.key !== key) {
        legend.dataset.key = key;
        legend.replaceChildren(...named.map((curve) => entry(curve)));
      }
      const last = (values) => number(values[values.length - 1]);
      const drawn = curves.filter((curve) => curve.y.length);
      const ends = drawn.map(({ name, y, upper }) => `${name} ${last(y)}${upper ? ` to ${last(upper)}` : ""}`.trim());
      canvas.setAttribute("aria-label", ends.length ? `${title}: at the end ${ends.join(", ")}` : `${title}: no values yet`);
      redraw();
    },
  };
}

function entry(curve) {
  const key = h("i", { class: curve.upper ? "key filled" : curve.dash ? "key dashed" : "key" });
  key.style.color = `var(${curve.ink})`;
  if (curve.upper) key.style.opacity = BAND;
  if (curve.faint) key.style.opacity = 0.4;
  return h("span", {}, key, curve.name);
}

function axes(context, width, height, { x, y, x0, x1, y0, y1, logX, logY, xLabel, yLabel }) {
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = colour("--muted");
  context.textAlign = "right";
  context.textBaseline = "middle";
  const yTicks = logY ? decades(y0, y1, 4) : ticks(y0, y1, 4);
  for (const value of yTicks.length ? yTicks : [y0, y1]) {
    line(context, "--line", [[LEFT, y(value)], [width - RIGHT, y(value)]], []);
    context.fillText(number(value, 6), LEFT - 6, y(value));
  }
  context.textBaseline = "top";
  const xTicks = logX ? decades(x0, x1, 4) : ticks(x0, x1, 5);
  for (const value of xTicks.length > 1 ? xTicks : [x0, x1]) {
    context.textAlign = x(value) > width - 24 ? "right" : "center";
    context.fillText(number(value, 6), x(value), height - BOTTOM + 5);
  }
  context.textAlign = "center";
  context.fillText(xLabel, (LEFT + width - RIGHT) / 2, height - 13);
  if (!yLabel) return;
  context.save();
  context.translate(11, (TOP + height - BOTTOM) / 2);
  context.rotate(-Math.PI / 2);
  context.textBaseline = "middle";
  context.fillText(yLabel, 0, 0);
  context.restore();
}

function drawCurve(context, curve, x, y, logX, logY) {
  context.beginPath();
  let drawing = false;
  for (let index = 0; index < curve.y.length; index += 1) {
    const fine = Number.isFinite(curve.y[index]) && !(logX && curve.x[index] <= 0) && !(logY && curve.y[index] <= 0);
    if (fine) context[drawing ? "lineTo" : "moveTo"](x(curve.x[index]), y(curve.y[index]));
    drawing = fine;
  }
  context.strokeStyle = colour(curve.ink);
  context.globalAlpha = curve.faint ? 0.35 : 1;
  context.lineWidth = curve.faint ? 1.2 : 1.8;
  context.lineJoin = "round";
  context.setLineDash(curve.dash ? [5, 4] : []);
  context.stroke();
  context.setLineDash([]);
  context.globalAlpha = 1;
  if (curve.y.length === 1) {
    context.fillStyle = colour(curve.ink);
    context.fillRect(x(curve.x[0]) - 2, y(curve.y[0]) - 2, 4, 4);
  }
}

function drawBand(context, { x: places, y: lower, upper, ink }, x, y) {
  context.beginPath();
  for (let index = 0; index < lower.length; index += 1) context.lineTo(x(places[index]), y(lower[index]));
  for (let index = upper.length - 1; index >= 0; index -= 1) context.lineTo(x(places[index]), y(upper[index]));
  context.fillStyle = colour(ink);
  context.globalAlpha = BAND;
  context.fill();
  context.globalAlpha = 1;
}

function line(context, token, points, dash) {
  context.strokeStyle = colour(token);
  context.lineWidth = 1;
  context.setLineDash(dash);
  context.beginPath();
  points.forEach(([left, top], index) => context[index ? "lineTo" : "moveTo"](Math.round(left) + 0.5, Math.round(top) + 0.5));
  context.stroke();
  context.setLineDash([]);
}
