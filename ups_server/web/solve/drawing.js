// An initial state drawn by hand: a curve in 1-D, a brush in 2-D; shapes for those who do not use a pointer.
import { MAPS, paint } from "../charts/colour_maps.js";
import { scale } from "../charts/scales.js";
import { surface } from "../charts/surface.js";
import { choice, fill, h, labelled } from "../core/dom.js";
import { colour } from "../core/theme.js";

const PAD = 6;
/** Shapes by name: functions of coordinates from 0 to 1, with values from -1 to 1. */
const SHAPES = {
  Flat: () => 0,
  Sine: (x, y) => Math.sin(2 * Math.PI * x) * (y === undefined ? 1 : Math.sin(2 * Math.PI * y)),
  Bump: (x, y = 0.5) => Math.exp(-((x - 0.5) ** 2 + (y - 0.5) ** 2) / 0.01),
  Step: (x) => (x > 0.25 && x < 0.6 ? 1 : 0),
};

/** `begin(family, points, base)` takes the state (X..., C) to begin with; `values()` is what was drawn. */
export function drawing(onChange) {
  let [family, points, state, field] = [null, [], null, 0];
  let [low, high, sign, last] = [-1, 1, 1, null];
  const canvas = h("canvas", { class: "plot drawing", role: "img", "aria-label": "Drawing of the initial state" });
  const fields = h("select", { onChange: () => {
    field = Number(fields.value);
    measure();
    redraw();
  } });
  const fieldControl = labelled("Field", fields);
  const radius = h("input", { type: "range", min: 2, max: 25, value: 8 });
  const brush = choice("Brush", [["raise", "Raise"], ["lower", "Lower"]], "raise", (value) => (sign = value === "raise" ? 1 : -1));
  const brushControls = h("div", {}, brush.element, labelled("Size of the brush", radius));
  const shapes = h("div", { class: "row", role: "group", "aria-label": "Shapes" }, Object.entries(SHAPES).map(([name, shape]) =>
    h("button", { type: "button", class: "quiet", onClick: () => put(shape) }, name),
  ));
  const advice = h("small", {});
  const element = h("div", { class: "draw" }, fieldControl, canvas, advice, shapes, brushControls);

  const flat = () => points.length === 1;
  const at = (point) => point * family.fields.length + field;

  function measure() {
    [low, high] = [Infinity, -Infinity];
    for (let point = 0; point < state.length / family.fields.length; point += 1) {
      low = Math.min(low, state[at(point)]);
      high = Math.max(high, state[at(point)]);
    }
    const middle = (low + high) / 2;
    const half = Math.max((high - low) / 2, 0.5 * Math.abs(middle), 1e-6) * 1.5;
    [low, high] = [family.fields[field].positive && middle - half < 0 ? 0 : middle - half, middle + half];
    if (low === high) high = low + 1;
  }

  function put(shape) {
    const [middle, size] = [(low + high) / 2, (high - low) / 3];
    const [nx, ny = 1] = points;
    for (let point = 0; point < nx * ny; point += 1) {
      const [x, y] = [(Math.floor(point / ny) + 0.5) / nx, ((point % ny) + 0.5) / ny];
      state[at(point)] = middle + size * (flat() ? shape(x) : shape(x, y));
    }
    changed();
  }

  function changed() {
    redraw();
    onChange();
  }

  /** Values along the way of the pointer, between two of its positions in straight lines. */
  function drag(from, to) {
    const [nx, ny] = points;
    if (flat()) {
      const index = (place) => Math.min(nx - 1, Math.max(0, Math.floor(place.x * nx)));
      const [a, b] = [index(from), index(to)];
      for (let step = 0; step <= Math.abs(b - a); step += 1) {
        const share = a === b ? 1 : step / Math.abs(b - a);
        const y = Math.min(1, Math.max(0, from.y + share * (to.y - from.y)));
        state[at(a + Math.sign(b - a) * step)] = low + y * (high - low);
      }
      return;
    }
    const width = Number(radius.value) / 100;
    for (let i = 0; i < nx; i += 1) {
      for (let j = 0; j < ny; j += 1) {
        const distance = ((i + 0.5) / nx - to.x) ** 2 + ((j + 0.5) / ny - to.y) ** 2;
        const value = state[at(i * ny + j)] + sign * 0.06 * (high - low) * Math.exp(-distance / (2 * width ** 2));
        state[at(i * ny + j)] = Math.min(high, Math.max(low, value));
      }
    }
  }

  /** A hand is not steady: three neighbours are averaged, which keeps the mean of the curve. */
  function smooth() {
    if (!flat()) return;
    const [n] = points;
    for (let round = 0; round < Math.max(2, n / 32); round += 1) {
      const old = Float32Array.from({ length: n }, (_, point) => state[at(point)]);
      for (let point = 0; point < n; point += 1) {
        const [left, right] = family.boundary[0][0] === "periodic"
          ? [old[(point + n - 1) % n], old[(point + 1) % n]]
          : [old[Math.max(0, point - 1)], old[Math.min(n - 1, point + 1)]];
        state[at(point)] = (left + 2 * old[point] + right) / 4;
      }
    }
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left - PAD) / (box.width - 2 * PAD), y: 1 - (event.clientY - box.top - PAD) / (box.height - 2 * PAD) };
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!state) return;
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    drag(last, last);
    changed();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const next = place(event);
    drag(last, next);
    last = next;
    changed();
  });
  const end = () => {
    if (last === null) return;
    last = null;
    smooth();
    changed();
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);

  const redraw = surface(canvas, (context, width, height) => {
    if (!state) return;
    const count = family.fields.length;
    const values = count === 1 ? state : Float32Array.from({ length: state.length / count }, (_, point) => state[at(point)]);
    const [w, b] = [width - 2 * PAD, height - 2 * PAD];
    if (flat()) {
      const y = scale(low, high, height - PAD, PAD);
      context.strokeStyle = colour("--line");
      context.strokeRect(PAD - 0.5, PAD - 0.5, w + 1, b + 1);
      context.beginPath();
      values.forEach((value, index) => context.lineTo(PAD + ((index + 0.5) / values.length) * w, y(value)));
      context.strokeStyle = colour("--accent");
      context.lineWidth = 2;
      context.stroke();
      return;
    }
    const [nx, ny] = points;
    const cells = Object.assign(document.createElement("canvas"), { width: nx, height: ny });
    const image = new ImageData(nx, ny);
    paint(image.data, values, low, high, MAPS.sequential, (index) => (ny - 1 - (index % ny)) * nx + Math.floor(index / ny));
    cells.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(cells, PAD, PAD, w, b);
  });

  return {
    element,
    begin(nextFamily, nextPoints, base) {
      [family, points, state, field] = [nextFamily, nextPoints, Float32Array.from(base), 0];
      fill(fields, family.fields.map(({ name }, index) => [String(index), name]), "0");
      fieldControl.hidden = family.fields.length === 1;
      brushControls.hidden = flat();
      canvas.classList.toggle("square", !flat());
      advice.textContent = flat() ? "Draw with the mouse or a finger, or take a shape." : "Paint with the mouse or a finger, or take a shape.";
      measure();
      redraw();
    },
    /** Nested lists (X..., C), or null before there is a state. */
    values() {
      if (!state) return null;
      const count = family.fields.length;
      const rows = Array.from({ length: state.length / count }, (_, point) => Array.from(state.subarray(point * count, (point + 1) * count)));
      if (flat()) return rows;
      return Array.from({ length: points[0] }, (_, row) => rows.slice(row * points[1], (row + 1) * points[1]));
    },
    state: () => state,
  };
}
