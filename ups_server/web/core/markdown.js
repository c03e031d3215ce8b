// The Markdown of model cards as elements: headings, paragraphs, lists, tables, code, emphasis. No raw HTML.
import { h, table } from "./dom.js";

const INLINE = /(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\([^)]+\))/;

function inline(text) {
  return text.split(INLINE).map((piece) => {
    if (piece.startsWith("`") && piece.length > 1) return h("code", {}, piece.slice(1, -1));
    if (piece.startsWith("**")) return h("strong", {}, piece.slice(2, -2));
    const link = piece.match(/^\[([^\]]+)\]\((https:[^)]+)\)$/);
    if (link) return h("a", { href: link[2], rel: "noreferrer" }, link[1]);
    return piece.replace(/^\[([^\]]+)\]\([^)]+\)$/, "$1");
  });
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => h("span", {}, inline(cell.trim())));

function block(lines, title) {
  const [first] = lines;
  const heading = first.match(/^(#+) (.*)/);
  if (heading) {
    const rest = lines.slice(1);
    const level = Math.min(6, heading[1].length + 2);
    return [h(`h${level}`, {}, inline(heading[2])), ...(rest.length ? block(rest, heading[2]) : [])];
  }
  if (first.startsWith("|") && lines.length > 2) return [table(title, cells(first), lines.slice(2).map(cells))];
  if (/^[-*] /.test(first)) {
    const items = lines.join("\n").split(/^[-*] /m).slice(1);
    return [h("ul", {}, items.map((item) => h("li", {}, inline(item.replaceAll("\n", " ")))))];
  }
  if (lines.every((line) => line.startsWith("    "))) return [h("pre", { tabindex: "0" }, lines.map((line) => line.slice(4)).join("\n"))];
  return [h("p", {}, inline(lines.join(" ")))];
}

/** Elements of a Markdown text; its headings begin at the third level. */
export function markdown(text, title) {
  const fenced = text.split(/^```\w*\n([\s\S]*?)^```$/m);
  return fenced.flatMap((part, index) => {
    if (index % 2) return [h("pre", { tabindex: "0" }, part)];
    const blocks = part.replace(/<!--[\s\S]*?-->/g, "").split(/\n\s*\n/).map((piece) => piece.replace(/^\n+|\s+$/g, ""));
    return blocks.filter(Boolean).flatMap((piece) => block(piece.split("\n"), title));
  });
}
