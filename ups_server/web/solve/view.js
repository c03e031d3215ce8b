// Solving: the problem on the left, its solution on the right.
import { h } from "../core/dom.js";
import { number } from "../core/numbers.js";
import { byWeight, flagNote, guarded, problemNote } from "../core/problems.js";
import { exportPanel } from "./exports.js";
import { player } from "./player.js";
import { problemForm } from "./problem_form.js";
import { progressBars } from "./progress.js";
import { runHistory } from "./runs.js";
import { run, Solution } from "./solution.js";
import { stage } from "./stage.js";
import { summary, summaryNote, summaryText } from "./summary.js";
import { trustNote } from "./trust.js";

export function solveView() {
  let [stopping, first, ran, shown] = [null, true, false, false];
  const heading = h("div", {});
  const notes = h("div", { class: "notes" });
  const flags = h("div", {});
  const trust = h("div", {});
  const status = h("p", { class: "status", role: "status" });
  const stop = h("button", { type: "button", class: "quiet", hidden: true, onClick: () => stopping?.abort() }, "Stop");
  const bars = progressBars();
  const empty = h("div", { class: "empty" }, h("p", {}, "Choose a problem and press Run."), h("p", { class: "quietly" }, "Every step is shown as soon as it is computed."));
  const scene = stage();
  const controls = player((frame) => scene.draw(frame));
  const form = problemForm(start, remember);
  const exports = exportPanel(scene, (id) => form.fileName(id));
  const stageArea = h("div", {}, h("div", { class: "row spread" }, scene.tools), scene.element, exports.element);
  const history = runHistory();
  const result = h(
    "section",
    { class: "panel result", "aria-label": "Solution" },
    heading, h("div", { class: "row spread" }, status, stop), bars.element, notes, flags, empty, controls.element, stageArea, trust,
  );
  const formPlace = h("div", {});
  const element = h("div", { class: "solve" }, h("h1", { class: "hidden" }, "Solve"), h("div", {}, formPlace, form.element), result, history.element);
  clear();

  /** Nothing of an earlier run stays. */
  function clear() {
    for (const part of [heading, notes, flags, trust]) part.replaceChildren();
    empty.hidden = ran;
    controls.element.hidden = stageArea.hidden = true;
    bars.hide();
  }

  /** The form is in the address: reloading gives the same one. */
  function remember() {
    if (first || !element.isConnected) return;
    const address = `#/solve?${form.state()}`;
    if (location.hash !== address) window.history.replaceState(null, "", address);
  }

  async function start({ request: wanted, beside, names, address }) {
    stopping?.abort();
    const mine = (stopping = new AbortController());
    const finer = wanted.output_resolution !== undefined;
    const solution = new Solution(finer ? { ...wanted, method: "resolution-free" } : wanted);
    const expected = wanted.reference ? new Solution(wanted) : null;
    solution.reference = expected;
    const others = [
      ...(finer ? [{ kind: "interpolation", title: "Interpolation", solution: new Solution({ ...wanted, method: "interpolation", diagnostics: false, reference: false, ensemble: undefined }) }] : []),
      ...(beside ? [{ kind: "beside", title: names[1], solution: new Solution(finer ? { ...beside, method: "resolution-free" } : beside) }] : []),
    ];
    const title = finer ? "Resolution-free" : names?.[0] ?? wanted.model;
    const family = form.solved();
    const text = form.initialText(wanted.initial_condition);
    [ran, shown] = [true, false];
    clear();
    status.textContent = `${wanted.model} computes.`;
    bars.show(solution, expected, others);
    stop.hidden = false;
    form.running(true);

    function reveal() {
      if (shown || !solution.frames.length) return;
      shown = true;
      controls.element.hidden = stageArea.hidden = false;
      heading.replaceChildren(summaryNote(summary(solution, family, text)));
      scene.show({ solution, reference: expected, others, title, family, caption: summaryText(summary(solution, family, text)) });
      exports.show();
      controls.restart(family.time_unit);
      showFlags(solution);
    }

    function onFrame() {
      if (mine.signal.aborted) return;
      reveal();
      status.textContent = bars.update();
      if (!shown) return;
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
      if (error.name === "AbortError") which.problem = "The run was stopped.";
      else {
        which.problem = error.document?.detail ?? "It failed.";
        if (stopping === mine) notes.append(problemNote(error));
      }
    }).finally(() => (which.done = true));
    await Promise.all([attempt(solution), ...others.map((other) => attempt(other.solution))]);
    if (stopping !== mine) return;
    // A first frame may have come while the run was being stopped.
    reveal();
    if (shown) controls.extend(solution.times);
    solution.seconds ??= (performance.now() - began) / 1000;
    finish(solution, expected, mine.signal.aborted);
    if (shown) history.add({ address, title: summaryText(summary(solution, family, text)), outcome: status.textContent.replace(/^Finished: /, "").split(" The reference was")[0] });
  }

  function showFlags(solution) {
    flags.replaceChildren(...byWeight(solution.flags).map(flagNote));
  }

  function finish(solution, expected, stopped) {
    controls.finish();
    solution.ended = stopped;
    if (expected) {
      expected.done = true;
      expected.problem ??= solution.problem && !expected.frames.length ? "There is no reference: the run did not end." : solution.comparison?.reason ? `The reference is incomplete: ${solution.comparison.reason}.` : null;
    }
    scene.grow();
    stop.hidden = true;
    bars.hide();
    form.running(false);
    if (solution.complete) {
      showFlags(solution);
      trust.replaceChildren(trustNote(solution));
    }
    const steps = solution.frames.length ? Math.round((solution.frames.length - 1) * (solution.header.save_every ?? 1)) : 0;
    const sentences = [`${stopped ? "Stopped after" : solution.complete ? "Finished:" : "Ended after"} ${steps} ${steps === 1 ? "step" : "steps"} in ${number(solution.seconds ?? 0, 2)} s.`];
    const error = solution.frames.length ? scene.errors().at(-1) : NaN;
    if (expected?.complete && Number.isFinite(error)) sentences.push(`Error against the reference at the end: ${number(100 * error, 2)}\u00a0%. The reference was ${solution.comparison.accuracy}.`);
    status.textContent = solution.frames.length ? sentences.join(" ") : stopped ? "Stopped." : "There is no solution.";
  }

  return {
    element,
    async show(rest, query) {
      const fine = await guarded(formPlace, () => form.refresh(query));
      form.element.hidden = !fine && first;
      if (fine && first) first = false;
      remember();
    },
  };
}
