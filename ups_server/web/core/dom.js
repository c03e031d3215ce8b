// Elements from plain descriptions: text is always text, never markup.

/** An element: `onX` are listeners, `class` and other names attributes, true and false switch one. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2).toLowerCase(), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let count = 0;

/** An id that no other element has. */
export function unique(prefix) {
  count += 1;
  return `${prefix}-${count}`;
}

/** A control with its label above and an optional remark below that belongs to it. */
export function labelled(text, control, remark = null) {
  control.id ||= unique("control");
  const note = remark && h("small", { id: unique("remark") }, remark);
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: "control" }, h("label", { for: control.id }, text), control, note);
}

/** Radio buttons as one row: `choices` is [[value, text], ...]. */
export function choice(legend, choices, value, onChange) {
  const name = unique("choice");
  const inputs = choices.map(([key, text]) => {
    const input = h("input", { type: "radio", name, value: key, checked: key === value, onChange: () => onChange(key) });
    return h("label", {}, input, h("span", {}, text));
  });
  const element = h("fieldset", { class: "choice" }, h("legend", {}, legend), h("div", { class: "segments" }, inputs));
  const select = (key) => {
    for (const input of element.querySelectorAll("input")) input.checked = input.value === key;
  };
  return { element, select };
}

/** Options of a select; keeps what was chosen where it is still there. */
export function fill(select, options, wanted = select.value) {
  select.replaceChildren(
    ...options.map(([value, text, disabled = false]) => h("option", { value, disabled }, text)),
  );
  if (options.some(([value, , disabled]) => value === wanted && !disabled)) select.value = wanted;
}

/** A table: `rows` of cells, the first of each row its header; nodes or text. Wide ones scroll by themselves. */
export function table(caption, columns, rows) {
  const head = h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name))));
  const body = rows.map(([first, ...rest]) =>
    h("tr", {}, h("th", { scope: "row" }, first), rest.map((cell) => h("td", {}, cell))),
  );
  return h(
    "div",
    { class: "scrolls", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", {}, caption), head, h("tbody", {}, body)),
  );
}
