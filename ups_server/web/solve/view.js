// Solving: the problem on the left, its solution on the right.
import { h } from "../core/dom.js";
import { number } from "../core/numbers.js";
import { flagNote, guarded, problemNote } from "../core/problems.js";
import { player } from "./player.js";
import { problemForm } from "./problem_form.js";
import { run, Solution } from "./solution.js";
import { stage } from "./stage.js";
import { trustNote } from "./trust.js";

export function solveView() {
  let [stopping, first] = [null, true];
  const notes = h("div", { class: "notes" });
  const trust = h("div", {});
  const status = h("p", { class: "status", role: "status" });
  const progress = h("progress", { max: 1, value: 0, "aria-label": "Computation", hidden: true });
  const stop = h("button", { type: "button", class: "quiet", hidden: true, onClick: () => stopping?.abort() }, "Stop");
  const empty = h("div", { class: "empty" }, h("p", {}, "Choose a problem and press Run."), h("p", { class: "quietly" }, "Every step is shown as soon as it is computed."));
  const scene = stage();
  const controls = player((frame) => scene.draw(frame));
  const form = problemForm(start);
  const stageArea = h("div", { hidden: true }, h("div", { class: "row spread" }, scene.tools), scene.element);
  const result = h(
    "section",
    { class: "panel result", "aria-label": "Solution" },
    h("div", { class: "row spread" }, status, stop),
    progress,
    notes,
    empty,
    controls.element,
    stageArea,
    trust,
  );
  controls.element.hidden = true;
  const formPlace = h("div", {});
  const element = h("div", { class: "solve" }, h("h1", { class: "hidden" }, "Solve"), h("div", {}, formPlace, form.element), result);

  async function start(wanted) {
    stopping?.abort();
    const mine = (stopping = new AbortController());
    const finer = wanted.output_resolution !== undefined;
    const request = finer ? { ...wanted, method: "resolution-free" } : wanted;
    const solution = new Solution(request);
    const expected = request.reference ? new Solution(request) : null;
    solution.reference = expected;
    const other = finer ? new Solution({ ...wanted, method: "interpolation", diagnostics: false, reference: false, ensemble: undefined }) : null;
    const family = form.family(request.family);
    notes.replaceChildren();
    trust.replaceChildren();
    status.textContent = `${request.model} computes.`;
    Object.assign(progress, { hidden: false, value: 0 });
    stop.hidden = false;
    form.running(true);
    let shown = false;

    function onFrame() {
      if (mine.signal.aborted) return;
      if (!shown && solution.frames.length) {
        shown = true;
        empty.hidden = true;
        controls.element.hidden = stageArea.hidden = false;
        scene.show(solution, expected, family, other);
        controls.restart(family.time_unit);
        for (const flag of solution.flags) notes.append(flagNote(flag));
      }
      if (!shown) return;
      progress.value = solution.frames.length / solution.planned;
      controls.extend(solution.times);
      later();
    }

    let pending = 0;
    const later = () => {
      pending ||= requestAnimationFrame(() => {
        pending = 0;
        if (stopping === mine) scene.grow();
      });
    };
    const began = performance.now();
    const attempt = (which) => run(which, mine.signal, onFrame).catch((error) => {
      if (error.name !== "AbortError") notes.append(problemNote(error));
    });
    const main = attempt(solution).then(() => {
      solution.seconds = (performance.now() - began) / 1000;
    });
    await Promise.all([main, other ? attempt(other) : null]);
    if (stopping !== mine) return;
    finish(solution, expected, mine.signal.aborted);
  }

  function finish(solution, expected, stopped) {
    controls.finish();
    scene.grow();
    stop.hidden = progress.hidden = true;
    form.running(false);
    if (solution.complete) {
      const known = new Set(solution.header.flags.map((entry) => entry.code));
      for (const flag of solution.flags.filter((entry) => !known.has(entry.code))) notes.append(flagNote(flag));
      trust.replaceChildren(trustNote(solution));
    }
    const steps = Math.max(0, solution.frames.length - 1);
    const sentences = [`${stopped ? "Stopped after" : "Finished:"} ${steps} ${steps === 1 ? "step" : "steps"} in ${number(solution.seconds ?? 0, 2)} s.`];
    const error = scene.errors().at(-1);
    if (expected?.complete && Number.isFinite(error)) sentences.push(`Error against the reference at the end: ${number(100 * error, 2)} %. The reference was ${solution.comparison.accuracy}.`);
    status.textContent = solution.frames.length ? sentences.join(" ") : stopped ? "Stopped." : "There is no solution.";
  }

  return {
    element,
    async show(rest, query) {
      const fine = await guarded(formPlace, () => form.refresh(query));
      form.element.hidden = !fine && first;
      if (fine) first = false;
    },
  };
}
