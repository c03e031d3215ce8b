// From quantities to pixels, and the numbers written beside axes.

/** At most about `count` round values between low and high. */
export function ticks(low, high, count = 5) {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [low];
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

/** Powers of ten between low and high, thinned to about `count`; 1, 2 and 5 of each where there are few. */
export function decades(low, high, count = 5) {
  const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  if (last - first < 2) {
    const fine = Array.from({ length: last - first + 3 }, (_, index) => first - 1 + index);
    return fine.flatMap((power) => [1, 2, 5].map((factor) => factor * 10 ** power)).filter((value) => value >= low && value <= high);
  }
  const stride = Math.max(1, Math.ceil((last - first) / count));
  const powers = Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => first + index);
  return powers.filter((power) => (power - first) % stride === 0).map((power) => 10 ** power);
}

/** A function from a quantity to pixels. */
export function scale(low, high, from, to, log = false) {
  const f = log ? (value) => Math.log10(Math.max(value, Number.MIN_VALUE)) : (value) => value;
  const [start, span] = [f(low), f(high) - f(low) || 1];
  return (value) => from + ((f(value) - start) / span) * (to - from);
}

/** Less of a difference, over the size of values, is round-off: it does not fill a chart. */
const ROUND_OFF = 1e-5;

/** [low, high] of finite values, with a margin; positive ones only where `log`. */
export function range(lists, log = false, margin = 0.06) {
  let [low, high] = [Infinity, -Infinity];
  for (const list of lists) {
    for (const value of list) {
      if (!Number.isFinite(value) || (log && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return log ? [0.1, 1] : [0, 1];
  if (log) return [Math.max(low, high * 1e-14) / 1.5, high * 1.5];
  const size = Math.max(Math.abs(low), Math.abs(high));
  const lacking = margin ? Math.max(0, ROUND_OFF * size - (high - low)) / 2 : 0;
  const room = (high - low || size * 0.1 || 1) * margin + lacking;
  return [low - room, high + room];
}
