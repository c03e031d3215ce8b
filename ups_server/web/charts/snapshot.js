// Figures as they stand on the page, in one picture with a line above that says what they show.
import { colour } from "../core/theme.js";

const MARGIN = 16;
const LINE = 20;
const TITLE = "600 13px system-ui, sans-serif";

/** A canvas with every figure below `element`, `title` above. */
export function snapshot(element, title) {
  const box = element.getBoundingClientRect();
  const scale = devicePixelRatio || 1;
  const canvas = document.createElement("canvas");
  const lines = wrapped(canvas, title, box.width);
  const top = MARGIN + LINE * lines.length + 8;
  canvas.width = Math.round((box.width + 2 * MARGIN) * scale);
  canvas.height = Math.round((box.height + top + MARGIN) * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.fillStyle = colour("--panel");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.textBaseline = "middle";
  context.fillStyle = colour("--ink");
  context.font = TITLE;
  lines.forEach((line, index) => context.fillText(line, MARGIN, MARGIN + LINE * (index + 0.5)));
  const place = (node) => {
    const { left, top: y, width, height } = node.getBoundingClientRect();
    return [left - box.left + MARGIN, y - box.top + top, width, height];
  };
  for (const figure of element.querySelectorAll("figure")) {
    for (const part of figure.querySelectorAll("canvas")) if (part.width && part.clientWidth) context.drawImage(part, ...place(part));
    for (const text of figure.querySelectorAll("figcaption > span:first-child, .legend > span, .scale > span, .why")) writeText(context, text, place(text));
  }
  return canvas;
}

function writeText(context, node, [x, y, width, height]) {
  if (!width || !node.textContent) return;
  const { fontWeight, fontSize, color } = getComputedStyle(node);
  context.font = `${fontWeight} ${fontSize} system-ui, sans-serif`;
  context.fillStyle = color;
  const key = node.querySelector(".key");
  let left = x;
  if (key) {
    const style = getComputedStyle(key);
    context.save();
    context.strokeStyle = style.color;
    context.globalAlpha = Number(style.opacity);
    context.lineWidth = parseFloat(style.borderTopWidth);
    context.setLineDash(style.borderTopStyle === "dashed" ? [5, 4] : []);
    context.beginPath();
    context.moveTo(x, y + height / 2);
    context.lineTo(x + 18, y + height / 2);
    context.stroke();
    context.restore();
    left += 24;
  }
  context.fillText(node.textContent, left, y + height / 2, Math.max(width, 20));
}

/** A text in lines that fit into a width. */
function wrapped(canvas, text, width) {
  const context = canvas.getContext("2d");
  context.font = TITLE;
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (lines.at(-1) && context.measureText(longer).width > width) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}
