// Quantities over time of everything that was run, for one field: computed as frames come.
import { mean, normalisedError, rootMeanSquare } from "./quantities.js";

/**
 * `result` is {solution, reference, others: [{title, solution, kind}]}. Rows have one number a frame: `means` of all,
 * `errors` against the reference, `distances` of others from the solution, and of the solution `expected` and `spreads`.
 */
export class Curves {
  constructor(result, field) {
    Object.assign(this, { result, field, name: null });
    this.means = this.rows();
    this.errors = this.rows();
    this.distances = this.rows();
    this.expected = [];
    this.spreads = [];
  }

  rows() {
    return new Map([this.result.solution, this.result.reference, ...this.result.others.map((other) => other.solution)].filter(Boolean).map((run) => [run, []]));
  }

  /** Bounds of the root mean square error, where the model is calibrated for this. */
  get bounds() {
    const { solution } = this.result;
    return solution.diagnostics?.expected_error.bounds[solution.fields[this.field]] ?? null;
  }

  grow() {
    const { solution, reference, others } = this.result;
    const { field } = this;
    const extend = (row, length, value) => {
      while (row.length < length) row.push(value(row.length));
    };
    for (const [run, row] of this.means) extend(row, run.frames.length, (index) => mean(run.field(index, field)));
    if (reference) {
      for (const [run, row] of this.errors) {
        if (run === reference || !comparable(run, reference)) continue;
        extend(row, Math.min(run.frames.length, reference.frames.length), (index) => normalisedError(run.field(index, field), reference.field(index, field)) ?? NaN);
      }
    }
    for (const { solution: run } of others) {
      if (!comparable(run, solution)) continue;
      extend(this.distances.get(run), Math.min(run.frames.length, solution.frames.length), (index) => normalisedError(run.field(index, field), solution.field(index, field)) ?? NaN);
    }
    const spread = solution.statistics.get("spread");
    if (spread) extend(this.spreads, spread.frames.length, (index) => rootMeanSquare(spread.field(index, field)));
    const { bounds } = this;
    const size = (index) => rootMeanSquare((reference ?? solution).field(index, field));
    const sized = Math.min(solution.frames.length, reference?.frames.length ?? Infinity);
    if (bounds) extend(this.expected, sized, (index) => ((bounds[index] ?? null) === null ? NaN : bounds[index] / size(index)));
  }
}

/** Have both runs the same points, and so values at the same places? */
export function comparable(run, other) {
  return Boolean(run.header && other.header) && run.points.join() === other.points.join();
}
