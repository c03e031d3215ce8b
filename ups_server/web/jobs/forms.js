// What can be started: an adaptation of a model to a file, an evaluation on one.
import { choice, fill, h, labelled } from "../core/dom.js";
import { guarded } from "../core/problems.js";
import { get, segment, send } from "../core/service.js";

const ALIGNMENTS = [["none", "none"], ["mmd", "MMD"], ["otdd", "OTDD"], ["recraft", "RECRAFT"], ["mona", "MoNA"], ["pare", "PaRe"]];
const TUNINGS = [["operator", "all but the language model"], ["full", "all weights"], ["lora", "low-rank adapters"], ["layernorm", "layer norms and linear layers"], ["prefix", "a prefix of the language model"], ["head", "predictor"]];

const USUAL = 10;
/** Trajectories of a file that are not trained on, at least: one chooses the checkpoint, one is the test. */
const HELD_OUT = 2;

/** `onStart(job)` is called with what was started. */
export function jobForm(onStart) {
  let [kind, models, files, usual, typed, key] = ["fine_tuning", [], [], "", false, crypto.randomUUID?.() ?? String(Math.random())];
  const note = h("div", {});
  const model = h("select", {});
  const file = h("select", { onChange: () => chosen() });
  const number = (attributes) => h("input", { type: "number", min: 1, step: 1, ...attributes });
  const trajectories = number({ value: USUAL, required: true, onInput: () => (typed = true) });
  const steps = number({ placeholder: "by itself" });
  const seconds = number({ placeholder: "no limit", step: "any", min: 0 });
  const rate = h("input", { type: "number", min: 0, max: 1, step: "any", placeholder: "by itself" });
  const alignment = h("select", {});
  fill(alignment, ALIGNMENTS, "none");
  const changed = h("select", {});
  fill(changed, TUNINGS, "operator");
  const heldOut = h("select", { onChange: () => chosen() });
  const suffix = h("input", { type: "text", pattern: "[a-z0-9][a-z0-9\\-]{0,31}", placeholder: "mine", autocomplete: "off" });
  const resolution = number({ min: 8, placeholder: "the file's" });
  const count = number({ placeholder: "all" });
  const tuning = h("div", { class: "grid" },
    labelled("Trajectories to train on", trajectories), labelled("Held out", heldOut, "Chooses the checkpoint and gives the test."),
    labelled("Alignment", alignment), labelled("What may change", changed), labelled("Steps at most", steps),
    labelled("Seconds at most", seconds), labelled("Learning rate", rate), labelled("Name", suffix, "Part of the new model's id."));
  const scoring = h("div", { class: "grid", hidden: true }, labelled("Points per axis", resolution), labelled("Trajectories", count));
  const kinds = choice("What", [["fine_tuning", "Adapt a model"], ["evaluation", "Evaluate a model"]], kind, (value) => {
    kind = value;
    tuning.hidden = kind !== "fine_tuning";
    scoring.hidden = kind === "fine_tuning";
    listModels();
  });
  const start = h("button", { type: "submit", class: "primary" }, "Start");
  const noFile = h("p", { class: "quietly", hidden: true }, "A job needs a file. ", h("a", { href: "#/files" }, "Upload one"), ".");
  const noModel = h("p", { class: "outside", hidden: true });
  const element = h("form", { class: "panel", "aria-label": "New job", onSubmit: (event) => {
    event.preventDefault();
    submit();
  } }, kinds.element, h("div", { class: "grid" }, labelled("Model", model), labelled("File", file)), noFile, noModel, tuning, scoring, note, start);

  /** A file was chosen: as many trajectories as it has for training, unless somebody has said how many. */
  async function chosen() {
    listModels();
    const id = file.value;
    if (!id || typed) return;
    await guarded(note, async () => {
      const { rows } = (await get(`v1/files/${segment(id)}`)).report;
      const most = rows - (heldOut.value ? 0 : HELD_OUT);
      if (id === file.value && !typed) trajectories.value = Math.max(1, Math.min(USUAL, most));
    });
  }

  /** Models of lead times, which know their shortest one, are tuned to families that they know. */
  const isTunable = (card, family) => card.kind !== "builtin"
    && (card.families[family] || Object.values(card.families).every(({ shortest }) => (shortest ?? null) === null));

  /** What can work: an evaluation needs a model that knows the file's equation, an adaptation one that can be tuned. */
  function listModels() {
    const held = files.find(({ id }) => id === file.value)?.family;
    const fitting = models.filter((card) => (kind === "evaluation" ? card.families[held] : isTunable(card, held)));
    fill(model, fitting.map(({ id }) => [id, id]), model.value || usual);
    noModel.hidden = fitting.length > 0 || !held;
    noModel.textContent = `No model knows ${held}. Adapt one to this file first.`;
    start.disabled = !file.value || !model.value;
  }

  const value = (field) => (field.value === "" ? {} : field.valueAsNumber);
  const given = (entries) => Object.fromEntries(entries.filter(([, entry]) => typeof entry !== "object"));

  async function submit() {
    await guarded(note, async () => {
      const [address, document] = kind === "fine_tuning"
        ? ["v1/fine-tuning/jobs", {
          training_file: file.value, n_trajectories: trajectories.valueAsNumber, alignment: alignment.value, tuning: changed.value,
          ...given([["max_steps", value(steps)], ["max_seconds", value(seconds)], ["learning_rate", value(rate)]]),
          ...(suffix.value ? { suffix: suffix.value } : {}),
          ...(heldOut.value ? { validation_file: heldOut.value } : {}),
        }]
        : ["v1/evaluations", { file: file.value, ...given([["resolution", value(resolution)], ["trajectories", value(count)]]) }];
      const job = await send("POST", address, { model: model.value, ...document }, { "Idempotency-Key": key });
      key = crypto.randomUUID?.() ?? String(Math.random());
      onStart(job);
    });
  }

  return {
    element,
    async refresh(query) {
      const [listed, stored] = await Promise.all([get("v1/models"), get("v1/files")]);
      ({ models, default: usual } = listed);
      files = stored.files.filter((record) => record.state === "ready");
      const options = files.map(({ id, name, family }) => [id, `${name} (${family})`]);
      fill(file, options, query.get("file") ?? undefined);
      fill(heldOut, [["", "the rest of the file"], ...options]);
      noFile.hidden = files.length > 0;
      await chosen();
    },
  };
}
