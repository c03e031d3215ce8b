// Light or dark: the system's choice until the button says otherwise. Canvases ask here for their colours.

const KEY = "ups-theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const SIGNS = { system: "◐", light: "☀", dark: "☾" };
const listeners = new Set();
const known = new Map();
const dark = matchMedia("(prefers-color-scheme: dark)");

export function installTheme(button) {
  let choice = stored();
  const apply = () => {
    if (choice === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
    button.textContent = SIGNS[choice];
    button.setAttribute("aria-label", `Colours: ${choice}. Change to ${NEXT[choice]}`);
    button.title = `Colours: ${choice}`;
    changed();
  };
  button.addEventListener("click", () => {
    choice = NEXT[choice];
    localStorage.setItem(KEY, choice);
    apply();
  });
  dark.addEventListener("change", changed);
  apply();
}

function stored() {
  const choice = localStorage.getItem(KEY);
  return choice in NEXT ? choice : "system";
}

function changed() {
  known.clear();
  for (const listener of listeners) listener();
}

/** Calls `redraw` whenever colours change. */
export function onThemeChange(redraw) {
  listeners.add(redraw);
}

/** The value of a colour token of the style sheet, such as `--ink`, as a canvas understands it. */
export function colour(token) {
  if (!known.has(token)) {
    const probe = document.createElement("i");
    probe.style.color = `var(${token})`;
    document.body.append(probe);
    known.set(token, getComputedStyle(probe).color);
    probe.remove();
  }
  return known.get(token);
}
