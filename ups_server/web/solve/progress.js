// How far each computation has come: the model, what is beside it, and the reference, which begins when the model ends.
import { h } from "../core/dom.js";

export function progressBars() {
  let rows = [];
  const element = h("div", { class: "computations" });

  function row(name, run, planned) {
    const bar = h("progress", { max: 1, "aria-label": `Progress of ${name}` });
    const text = h("span", { class: "quietly" });
    return { name, run, planned, bar, text, element: h("div", { class: "computation" }, h("span", {}, name), bar, text) };
  }

  return {
    element,
    show(solution, reference, others) {
      const planned = () => solution.planned;
      rows = [
        row(solution.request.model, solution, planned),
        ...others.map((other) => row(other.kind === "beside" ? `${other.solution.request.model}, second run` : "interpolation", other.solution, () => other.solution.planned)),
        ...(reference ? [row("reference", reference, planned)] : []),
      ];
      element.replaceChildren(...rows.map((entry) => entry.element));
      element.hidden = false;
    },
    /** Brings the bars up to date; what is computed now, in a sentence. */
    update() {
      for (const { run, planned, bar, text } of rows) {
        const frames = run.frames.length;
        if (frames) bar.value = frames / planned();
        else bar.removeAttribute("value");
        text.textContent = frames ? `${frames - 1} of ${planned() - 1}` : "";
      }
      const open = rows.filter(({ run, planned }) => !run.done && !(run.frames.length && run.frames.length === planned()));
      if (!open.length) return "Finishing.";
      const [{ name }] = open;
      if (name !== "reference") return `${name} computes.`;
      return `${rows[0].name} is finished. The reference is being solved.`;
    },
    hide() {
      element.hidden = true;
    },
  };
}
