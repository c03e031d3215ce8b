// What curves show, computed from frames: mean, spectrum, error.

export function mean(values) {
  let sum = 0;
  for (const value of values) sum += value;
  return sum / values.length;
}

export function rootMeanSquare(values) {
  let sum = 0;
  for (const value of values) sum += value ** 2;
  return Math.sqrt(sum / values.length);
}

/** |a - b| / |b|, the normalised root-mean-square error; null where b vanishes. */
export function normalisedError(values, reference) {
  let [difference, size] = [0, 0];
  for (let index = 0; index < values.length; index += 1) {
    difference += (values[index] - reference[index]) ** 2;
    size += reference[index] ** 2;
  }
  return size > 0 ? Math.sqrt(difference / size) : null;
}

/** The discrete Fourier transform in place; radix 2 where the length allows, else the sum as it is defined. */
function transform(real, imaginary) {
  const n = real.length;
  if (n & (n - 1)) return transformAnyLength(real, imaginary);
  for (let index = 1, reversed = 0; index < n; index += 1) {
    let bit = n >> 1;
    for (; reversed & bit; bit >>= 1) reversed ^= bit;
    reversed ^= bit;
    if (index < reversed) {
      [real[index], real[reversed]] = [real[reversed], real[index]];
      [imaginary[index], imaginary[reversed]] = [imaginary[reversed], imaginary[index]];
    }
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let start = 0; start < n; start += size) {
      for (let k = 0; k < size / 2; k += 1) {
        const angle = (-2 * Math.PI * k) / size;
        const [c, s] = [Math.cos(angle), Math.sin(angle)];
        const [a, b] = [start + k, start + k + size / 2];
        const [re, im] = [real[b] * c - imaginary[b] * s, real[b] * s + imaginary[b] * c];
        [real[b], imaginary[b]] = [real[a] - re, imaginary[a] - im];
        [real[a], imaginary[a]] = [real[a] + re, imaginary[a] + im];
      }
    }
  }
}

function transformAnyLength(real, imaginary) {
  const n = real.length;
  const [re, im] = [Float64Array.from(real), Float64Array.from(imaginary)];
  const cosines = Float64Array.from({ length: n }, (_, k) => Math.cos((2 * Math.PI * k) / n));
  const sines = Float64Array.from({ length: n }, (_, k) => Math.sin((2 * Math.PI * k) / n));
  for (let k = 0; k < n; k += 1) {
    let [a, b] = [0, 0];
    for (let j = 0; j < n; j += 1) {
      const phase = (j * k) % n;
      a += re[j] * cosines[phase] + im[j] * sines[phase];
      b += im[j] * cosines[phase] - re[j] * sines[phase];
    }
    [real[k], imaginary[k]] = [a, b];
  }
}

/**
 * The power spectrum of a field on points [n] or [nx, ny]: {k: whole wavenumbers from 1, power}. In 2-D the power of
 * all modes whose |k| rounds to a number. The sum over both signs of k is the variance.
 */
export function spectrum(values, points) {
  const power = new Float64Array(Math.floor(Math.min(...points) / 2) + 1);
  if (points.length === 1) {
    const [n] = points;
    const [real, imaginary] = [Float64Array.from(values), new Float64Array(n)];
    transform(real, imaginary);
    for (let k = 1; k < n; k += 1) power[Math.min(k, n - k)] += (real[k] ** 2 + imaginary[k] ** 2) / n ** 2;
  } else {
    const [nx, ny] = points;
    const [real, imaginary] = [Float64Array.from(values), new Float64Array(nx * ny)];
    for (let row = 0; row < nx; row += 1) {
      transform(real.subarray(row * ny, (row + 1) * ny), imaginary.subarray(row * ny, (row + 1) * ny));
    }
    for (let column = 0; column < ny; column += 1) {
      const re = Float64Array.from({ length: nx }, (_, row) => real[row * ny + column]);
      const im = Float64Array.from({ length: nx }, (_, row) => imaginary[row * ny + column]);
      transform(re, im);
      for (let row = 0; row < nx; row += 1) {
        const k = Math.round(Math.hypot(Math.min(row, nx - row), Math.min(column, ny - column)));
        if (k < power.length) power[k] += (re[row] ** 2 + im[row] ** 2) / (nx * ny) ** 2;
      }
    }
  }
  const k = Array.from({ length: power.length - 1 }, (_, index) => index + 1);
  return { k, power: k.map((wavenumber) => power[wavenumber]) };
}
