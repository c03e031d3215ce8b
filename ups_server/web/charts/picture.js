// A field as colours: maps of 2-D states, space-time pictures of 1-D ones, with axes and a colour bar.
import { h } from "../core/dom.js";
import { number } from "../core/numbers.js";
import { colour } from "../core/theme.js";
import { MAPS, paint } from "./colour_maps.js";
import { scale, ticks } from "./scales.js";
import { surface } from "./surface.js";

const LEFT = 40;
const BOTTOM = 32;
const TOP = 6;
const RIGHT = 8;

/**
 * A figure of one field. `update({values, width, height, byColumn, low, high, map, xRange, yRange, marker, quantity})`:
 * values row by row from the bottom, or column by column (`byColumn`: the first axis of an array is x).
 * `blank(reason)` says why there is nothing to see.
 */
export function picture({ title, xLabel, yLabel, square = false }) {
  const canvas = h("canvas", { class: square ? "plot square" : "plot tall", role: "img", "aria-label": title });
  const bar = h("canvas", { class: "bar", "aria-hidden": "true" });
  const [lowest, quantity, highest] = [h("span", {}), h("span", {}), h("span", {})];
  const why = h("p", { class: "why", hidden: true });
  const colours = h("div", { class: "scale" }, lowest, bar, highest, quantity);
  const element = h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("span", {}, title)),
    h("div", { class: "plate" }, canvas, why),
    colours,
  );
  const cells = document.createElement("canvas");
  let state = null;

  const redraw = surface(canvas, (context, width, height) => {
    if (!state) return;
    const [w, b] = [width - LEFT - RIGHT, height - TOP - BOTTOM];
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(cells, LEFT, TOP, w, b * state.filled);
    if (state.filled < 1) {
      context.clearRect(LEFT, TOP, w, b);
      context.drawImage(cells, LEFT, TOP + b * (1 - state.filled), w, b * state.filled);
    }
    frame(context, width, height, state);
  });
  const redrawBar = surface(bar, (context, width, height) => {
    const map = MAPS[state?.map ?? "sequential"];
    for (let left = 0; left < width; left += 1) {
      const entry = 3 * Math.round((255 * left) / Math.max(1, width - 1));
      context.fillStyle = `rgb(${map[entry]} ${map[entry + 1]} ${map[entry + 2]})`;
      context.fillRect(left, 0, 1.5, height);
    }
  });

  function frame(context, width, height, { xRange, yRange, marker }) {
    const x = scale(...xRange, LEFT, width - RIGHT);
    const y = scale(...yRange, height - BOTTOM, TOP);
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = colour("--muted");
    context.textBaseline = "top";
    for (const value of ticks(...xRange, 4)) {
      context.textAlign = x(value) > width - 20 ? "right" : "center";
      context.fillText(number(value, 3), x(value), height - BOTTOM + 5);
    }
    context.textAlign = "center";
    context.fillText(xLabel, (LEFT + width - RIGHT) / 2, height - 13);
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const value of ticks(...yRange, 4)) context.fillText(number(value, 3), LEFT - 5, Math.max(TOP + 5, y(value)));
    context.save();
    context.translate(7, (TOP + height - BOTTOM) / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText(yLabel, 0, 0);
    context.restore();
    context.strokeStyle = colour("--line");
    context.strokeRect(LEFT + 0.5, TOP + 0.5, width - LEFT - RIGHT - 1, height - TOP - BOTTOM - 1);
    if (marker === undefined) return;
    context.fillStyle = colour("--accent");
    context.fillRect(LEFT - 3, y(marker) - 1, width - LEFT - RIGHT + 6, 2);
  }

  return {
    element,
    update(next) {
      state = { filled: 1, ...next };
      const { values, width, height, byColumn, low, high, map } = state;
      Object.assign(cells, { width, height });
      const image = new ImageData(width, height);
      const place = byColumn
        ? (index) => (height - 1 - (index % height)) * width + Math.floor(index / height)
        : (index) => (height - 1 - Math.floor(index / width)) * width + (index % width);
      paint(image.data, values, low, high, MAPS[map], place);
      cells.getContext("2d").putImageData(image, 0, 0);
      lowest.textContent = number(low, 3);
      highest.textContent = number(high, 3);
      quantity.textContent = state.quantity ?? "";
      why.hidden = true;
      colours.classList.remove("without");
      canvas.setAttribute("aria-label", `${title}, colours from ${number(low, 3)} to ${number(high, 3)}`);
      redraw();
      redrawBar();
    },
    blank(reason) {
      state = null;
      why.textContent = reason;
      why.hidden = false;
      colours.classList.add("without");
      canvas.setAttribute("aria-label", `${title}: ${reason}`);
      redraw();
    },
  };
}
