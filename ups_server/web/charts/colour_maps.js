// Two perceptual colour maps from a few anchors in OKLCH, where equal steps of lightness look equal.

const STEPS = 256;
/** (lightness, chroma, hue in degrees) at equal distances. Sequential: from violet over green to yellow. */
const SEQUENTIAL = [
  [0.27, 0.11, 305], [0.385, 0.12, 280], [0.5, 0.1, 245], [0.615, 0.1, 195], [0.73, 0.14, 158], [0.845, 0.18, 125], [0.95, 0.15, 103],
];
/** Blue and red around a light middle that means zero. */
const DIVERGING = [
  [0.36, 0.13, 262], [0.56, 0.14, 252], [0.78, 0.08, 245], [0.965, 0.004, 240], [0.8, 0.09, 45], [0.6, 0.16, 33], [0.4, 0.13, 25],
];

/** OKLab: straight lines between its colours never pass a third hue. */
function lab([lightness, chroma, hue]) {
  const angle = (hue * Math.PI) / 180;
  return [lightness, chroma * Math.cos(angle), chroma * Math.sin(angle)];
}

/** sRGB (0 to 255) of a colour in OKLab; after B. Ottosson's definition. */
function rgb([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((linear) => {
    const value = Math.min(1, Math.max(0, linear));
    return 255 * (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055);
  });
}

/** (256, 3) bytes. */
function computed(colours) {
  const anchors = colours.map(lab);
  const map = new Uint8ClampedArray(3 * STEPS);
  for (let step = 0; step < STEPS; step += 1) {
    const place = (step / (STEPS - 1)) * (anchors.length - 1);
    const index = Math.min(anchors.length - 2, Math.floor(place));
    const weight = place - index;
    map.set(rgb(anchors[index].map((value, part) => value + weight * (anchors[index + 1][part] - value))), 3 * step);
  }
  return map;
}

export const MAPS = { sequential: computed(SEQUENTIAL), diverging: computed(DIVERGING) };

/** Paints values into RGBA pixels; what is not finite stays transparent. `place(i)` is the pixel of value i. */
export function paint(pixels, values, low, high, map, place) {
  const factor = (STEPS - 1) / (high - low || 1);
  for (let index = 0; index < values.length; index += 1) {
    if (!Number.isFinite(values[index])) continue;
    const entry = 3 * Math.min(STEPS - 1, Math.max(0, Math.round((values[index] - low) * factor)));
    const pixel = 4 * place(index);
    pixels[pixel] = map[entry];
    pixels[pixel + 1] = map[entry + 1];
    pixels[pixel + 2] = map[entry + 2];
    pixels[pixel + 3] = 255;
  }
}
