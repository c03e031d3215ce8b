// Numbers and equations as people write them.
import { h } from "./dom.js";

/** Four significant digits, without trailing zeros; powers of ten where they are shorter. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
    const [mantissa, power] = value.toExponential(digits - 1).split("e");
    return `${Number(mantissa)}e${Number(power)}`;
  }
  return String(Number(value.toPrecision(digits)));
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(count, 1)) / 3));
  return `${number(count / 1000 ** power, 3)} ${units[power]}`;
}

/** A unit behind a quantity; dimensionless quantities have none. */
export function unit(name) {
  return name && name !== "1" ? ` (${name})` : "";
}

export function when(seconds) {
  return seconds === null ? "–" : new Date(1000 * seconds).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
}

const LETTERS = {
  alpha: "α", beta: "β", eta: "η", lap: "∆", nu: "ν", pi: "π", rho: "ρ", zeta: "ζ", grad: "∇", D_u: "Dᵤ", D_v: "Dᵥ", Nu: "ν", Beta: "β",
};

/** An equation in plain text, such as `u_t + (u^2 / 2)_x = nu u_xx`, with letters, indices and powers set properly. */
export function equation(text) {
  const nodes = [];
  const joined = text.replaceAll("/ ", "/").replaceAll(" /", "/").replaceAll(" - ", " − ").replaceAll(" . ", "·");
  for (const piece of joined.split(/([A-Za-z]+|_[A-Za-z]+|\^\d)/)) {
    if (piece.startsWith("_")) nodes.push(h("sub", {}, symbol(piece.slice(1))));
    else if (piece.startsWith("^")) nodes.push(h("sup", {}, piece.slice(1)));
    else if (/^[A-Za-z]+$/.test(piece)) nodes.push(h(piece === "div" ? "span" : "i", {}, symbol(piece)));
    else nodes.push(piece);
  }
  return h("span", { class: "equation" }, nodes);
}

/** A name as its letter: `nu` is ν. */
export function symbol(name) {
  return LETTERS[name] ?? name;
}
