// Starts the page: theme, sections by the address after `#`, state of the service.
import { h } from "./core/dom.js";
import { get } from "./core/service.js";
import { installKey } from "./core/key.js";
import { installTheme } from "./core/theme.js";
import { filesView } from "./files/view.js";
import { jobsView } from "./jobs/view.js";
import { modelsView } from "./models/view.js";
import { solveView } from "./solve/view.js";

const SECTIONS = { solve: solveView, files: filesView, jobs: jobsView, models: modelsView };
const made = new Map();
let shown = null;

/** A part of an address as it is meant; what is no proper escape stays as it is. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function address() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  return { name: name || "solve", rest: rest.map(decoded), query: new URLSearchParams(query) };
}

/** For an address that names no section. */
function unknownView(name) {
  const links = Object.keys(SECTIONS).map((section) => h("li", {}, h("a", { href: `#/${section}` }, section)));
  const text = h("p", { role: "alert" }, "There is no section “", name, "” at this address. There are:");
  return { element: h("div", { class: "narrow" }, h("h1", {}, "Nothing here"), h("div", { class: "panel" }, text, h("ul", {}, links))), show() {} };
}

// Sections are made on their first visit and kept: a rollout goes on while another section is looked at.
function show() {
  if (location.hash === "#main") return;
  const { name, rest, query } = address();
  if (Object.hasOwn(SECTIONS, name) && !made.has(name)) made.set(name, SECTIONS[name]());
  const view = made.get(name) ?? unknownView(name);
  if (shown !== view) {
    shown?.hide?.();
    document.getElementById("main").replaceChildren(view.element);
    shown = view;
    scrollTo(0, 0);
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.show(rest, query);
}

installTheme(document.getElementById("theme"));
installKey(document.getElementById("key"), () => location.reload());
addEventListener("hashchange", show);
show();
get("healthz").then(
  (health) => (document.getElementById("service").textContent = `ups-server ${health.version}`),
  () => (document.getElementById("service").textContent = "the service does not answer"),
);
