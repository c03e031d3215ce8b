// Where a rollout starts: a sample, a drawing, or a trajectory of an uploaded file.
import { choice, fill, h, labelled } from "../core/dom.js";
import { guarded } from "../core/problems.js";
import { get, segment } from "../core/service.js";
import { drawing } from "./drawing.js";
import { run, Solution } from "./solution.js";

/** `condition()` is the `initial_condition` of a request, or null where something is missing. */
export function initialState(onChange) {
  let [kind, family, points, files, drawn, ready] = ["sample", null, [], [], "", ""];
  const problem = h("div", {});
  const seed = h("input", { type: "number", min: 0, max: 1e9, step: 1, value: 7, onInput: onChange });
  const another = h("button", { type: "button", class: "quiet", onClick: () => {
    seed.value = Number(seed.value || 0) + 1;
    onChange();
  } }, "Another");
  const sample = h("div", { class: "row end" }, labelled("Seed", seed), another);
  const board = drawing(onChange);
  const boardRemark = h("p", { class: "quietly" }, "This equation has static fields beside its state; start from a sample or a file.");
  const draw = h("div", {}, board.element, boardRemark);
  const file = h("select", { onChange: () => chosenFile() });
  const trajectory = h("input", { type: "number", min: 0, step: 1, value: 0, onInput: onChange });
  const noFile = h("p", { class: "quietly" }, "No accepted file holds this equation. ", h("a", { href: "#/files" }, "Upload one"), ".");
  const fileControls = h("div", { class: "row end" }, labelled("File", file), labelled("Trajectory", trajectory));
  const uploaded = h("div", {}, fileControls, noFile);
  const parts = { sample, draw, file: uploaded };
  const kinds = choice("Initial state", [["sample", "Sample"], ["draw", "Draw"], ["file", "File"]], kind, (value) => select(value));
  const element = h("div", {}, kinds.element, ...Object.values(parts), problem);

  function reveal(value) {
    kind = value;
    kinds.select(value);
    for (const [name, part] of Object.entries(parts)) part.hidden = name !== kind;
  }

  function select(value) {
    reveal(value);
    if (kind === "draw") prepare();
    onChange();
  }

  /** A drawing begins with a sample, which the model `persistence` hands out. */
  async function prepare() {
    const possible = family && family.static_fields.length === 0;
    boardRemark.hidden = possible;
    const wanted = `${family?.id} ${points}`;
    // There is nothing to draw on before the sample is there.
    board.element.hidden = !possible || ready !== wanted;
    if (!possible || drawn === wanted) return;
    drawn = wanted;
    await guarded(problem, async () => {
      const request = { model: "persistence", family: family.id, grid: { n: points }, n_steps: 1, initial_condition: { sample: { seed: Number(seed.value) } } };
      const solution = new Solution(request);
      await run(solution, undefined, () => {});
      if (drawn !== wanted) return;
      board.element.hidden = false;
      board.begin(family, points, solution.frames[0]);
      ready = wanted;
    });
    onChange();
  }

  function chosenFile() {
    const record = files.find((entry) => entry.id === file.value);
    trajectory.max = record ? record.report.check.trajectories - 1 : 0;
    if (Number(trajectory.value) > Number(trajectory.max)) trajectory.value = 0;
    onChange();
  }

  function showFiles(wanted) {
    const fitting = files.filter((record) => record.report.check.family === family?.id);
    fill(file, fitting.map((record) => [record.id, `${record.name} (${record.report.rows})`]), wanted);
    fileControls.hidden = fitting.length === 0;
    noFile.hidden = fitting.length > 0;
    chosenFile();
  }

  reveal("sample");
  return {
    element,
    kind: () => kind,
    select,
    problem(nextFamily, nextPoints) {
      const changed = family !== nextFamily;
      [family, points] = [nextFamily, nextPoints];
      if (changed) showFiles();
      if (kind === "draw") prepare();
    },
    /** Reads the files of the service anew; `wanted` is to be chosen. The family of that file, where there is one. */
    async refresh(wanted) {
      const list = (await get("v1/files")).files.filter((record) => record.state === "ready");
      files = await Promise.all(list.map((record) => get(`v1/files/${segment(record.id)}`)));
      showFiles(wanted);
      return files.find((record) => record.id === wanted)?.report.check.family;
    },
    choose(id) {
      showFiles(id);
      select("file");
    },
    condition() {
      if (kind === "sample") return Number.isInteger(seed.valueAsNumber) && seed.valueAsNumber >= 0 ? { sample: { seed: seed.valueAsNumber } } : null;
      if (kind === "file") return file.value ? { file: file.value, trajectory: trajectory.valueAsNumber || 0 } : null;
      const values = family?.static_fields.length ? null : board.values();
      return values && drawn === `${family.id} ${points}` ? { values } : null;
    },
  };
}
