// Where a rollout starts: a sample, a drawing, or a trajectory of an uploaded file.
import { choice, fill, h, labelled } from "../core/dom.js";
import { guarded } from "../core/problems.js";
import { get, segment } from "../core/service.js";
import { drawing } from "./drawing.js";
import { decodeFloats, encodeFloats } from "../core/streams.js";
import { run, Solution } from "./solution.js";

/** Numbers of a drawing that an address still holds. */
const LARGEST_DRAWING = 2 ** 14;

/** `condition()` is the `initial_condition` of a request, or null where something is missing. */
export function initialState(onChange) {
  let [kind, family, points, files, drawn, ready] = ["sample", null, [], [], "", ""];
  let [base, given] = [{}, null];
  const problem = h("div", {});
  const seed = h("input", { type: "number", min: 0, max: 1e9, step: 1, value: 2, onInput: onChange });
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

  /** Static fields cannot be drawn; those of an equation in symbols are part of it. */
  const drawable = () => family !== null && (family.static_fields.length === 0 || base.equation !== undefined);

  /** A drawing begins with a sample, which the model `persistence` hands out. */
  async function prepare() {
    const possible = drawable();
    boardRemark.hidden = possible;
    const wanted = `${family?.id} ${points}`;
    // There is nothing to draw on before the sample is there.
    board.element.hidden = !possible || ready !== wanted;
    if (!possible || drawn === wanted) return;
    drawn = wanted;
    await guarded(problem, async () => {
      const request = { model: "persistence", ...base, grid: { n: points }, n_steps: 1, initial_condition: { sample: { seed: Number(seed.value) } } };
      const solution = new Solution(request);
      await run(solution, undefined, () => {});
      if (drawn !== wanted) return;
      board.element.hidden = false;
      const fits = given?.length === solution.frames[0].length;
      board.begin(family, points, fits ? given : solution.frames[0]);
      given = null;
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
    /** `nextBase` is how a request names the problem: family, or equation and its coefficients. */
    problem(nextFamily, nextPoints, nextBase) {
      const changed = family !== nextFamily;
      [family, points, base] = [nextFamily, nextPoints, nextBase];
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
    /** As text for the address of the page; a large drawing is left out. */
    state() {
      if (kind === "sample") return { seed: seed.value };
      if (kind === "file") return { file: file.value, trajectory: trajectory.value };
      const state = board.state();
      return { seed: seed.value, draw: state && state.length <= LARGEST_DRAWING ? encodeFloats(state) : "1" };
    },
    set(query) {
      if (query.has("seed")) seed.value = query.get("seed");
      if (query.has("trajectory")) trajectory.value = query.get("trajectory");
      if (query.has("draw")) {
        given = query.get("draw").length > 1 ? decodeFloats(query.get("draw")) : null;
        [drawn, ready] = ["", ""];
        reveal("draw");
      } else if (query.has("seed")) reveal("sample");
    },
    /** What a summary says of it. */
    text(condition) {
      if (condition.sample) return `sample of seed ${condition.sample.seed}`;
      if (condition.values) return "drawn by hand";
      const record = files.find(({ id }) => id === condition.file);
      return `trajectory ${condition.trajectory} of ${record?.name ?? condition.file}`;
    },
    fileName: (id) => files.find((record) => record.id === id)?.name,
    condition() {
      if (kind === "sample") return Number.isInteger(seed.valueAsNumber) && seed.valueAsNumber >= 0 ? { sample: { seed: seed.valueAsNumber } } : null;
      if (kind === "file") return file.value ? { file: file.value, trajectory: trajectory.valueAsNumber || 0 } : null;
      const values = drawable() ? board.values() : null;
      return values && drawn === `${family.id} ${points}` ? { values } : null;
    },
  };
}
