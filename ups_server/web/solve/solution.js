// A rollout as it arrives: frames in memory, smallest and largest values, what is said about it.
import { ask, Problem } from "../core/service.js";
import { decodeFloats, events } from "../core/streams.js";

/** States (X..., C), channels last, one Float32Array a frame. */
export class Solution {
  constructor(request) {
    this.request = request;
    this.header = null;
    this.frames = [];
    this.times = [];
    this.flags = [];
    this.planned = 0;
    this.low = [];
    this.high = [];
    this.complete = false;
    this.reference = null;
    this.diagnostics = null;
    this.comparison = null;
    this.steps = [];
    /** Of an ensemble's members, by name (`mean`, `spread`, `quantile 0.05`): each has frames as the rollout itself. */
    this.statistics = new Map();
    /** Until the last frame was there; of a rollout that ended before it, until its end. */
    this.seconds = null;
    /** Will no more frames come? And why there are too few, in a sentence. */
    this.done = false;
    this.problem = null;
  }

  get points() {
    return this.header.grid.n;
  }

  get fields() {
    return this.header.fields;
  }

  /** One field (X...) of a frame. */
  field(frame, index) {
    const count = this.fields.length;
    const values = this.frames[frame];
    if (count === 1) return values;
    return Float32Array.from({ length: values.length / count }, (_, point) => values[point * count + index]);
  }

  /** What the service has said of the frames so far: `conserved` and so on, where it was asked. */
  drift(name) {
    return this.steps.map((step) => step.conserved[name]?.drift ?? NaN);
  }

  begin(header) {
    this.header = header;
    this.planned = header.n_frames;
    this.flags = header.flags;
    this.low = header.fields.map(() => Infinity);
    this.high = header.fields.map(() => -Infinity);
    for (const name of header.ensemble?.statistics.slice(1) ?? []) {
      const row = new Solution(this.request);
      row.begin({ ...header, ensemble: null });
      this.statistics.set(name, row);
    }
  }

  /** The lowest and the highest quantile of an ensemble; nothing otherwise. */
  get band() {
    const rows = [...this.statistics].filter(([name]) => name.startsWith("quantile")).map(([, row]) => row);
    return rows.length > 1 ? [rows[0], rows.at(-1)] : [];
  }

  /** What a step brings: the state (X..., C), and behind it one for each statistic. */
  take(time, values) {
    const rows = [this, ...this.statistics.values()];
    const size = values.length / rows.length;
    rows.forEach((row, index) => row.add(time, values.subarray(index * size, (index + 1) * size)));
  }

  add(time, values) {
    this.frames.push(values);
    this.times.push(time);
    const count = this.fields.length;
    for (let index = 0; index < values.length; index += 1) {
      const field = index % count;
      if (values[index] < this.low[field]) this.low[field] = values[index];
      if (values[index] > this.high[field]) this.high[field] = values[index];
    }
  }
}

/** Runs a request; `onFrame` is called after each state. Raises `Problem`, also for a stream that breaks off. */
export async function run(solution, signal, onFrame) {
  const began = performance.now();
  const response = await ask("v1/rollouts?encoding=base64", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify(solution.request),
    signal,
  });
  for await (const { name, data } of events(response)) {
    if (name === "start") {
      solution.begin(data);
      solution.diagnostics = data.diagnostics ?? null;
      solution.reference?.begin({ ...data, flags: [], ensemble: null });
    } else if (name === "step") {
      if (data.diagnostics) solution.steps.push(data.diagnostics);
      solution.take(data.time, decodeFloats(data.data));
      if (solution.frames.length === solution.planned) solution.seconds = (performance.now() - began) / 1000;
      onFrame();
    } else if (name === "reference") {
      solution.reference.add(data.time, decodeFloats(data.data));
      onFrame();
    } else if (name === "problem") throw new Problem(data);
    else if (name === "end") {
      solution.flags = data.flags;
      solution.complete = true;
      solution.comparison = data.reference ?? null;
      if (data.diagnostics) Object.assign(solution.diagnostics, data.diagnostics);
      if (solution.reference) solution.reference.complete = data.reference.complete;
      return;
    }
  }
  throw new Problem({ code: "stream_broken", detail: "The stream broke off before its end.", hint: "Run it again." });
}
