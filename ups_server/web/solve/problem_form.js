// The form of a rollout: model, equation, coefficients, initial state, steps.
import { fill, h, labelled } from "../core/dom.js";
import { equation } from "../core/numbers.js";
import { get } from "../core/service.js";
import { coefficient } from "./coefficients.js";
import { ensembleControl } from "./ensemble.js";
import { initialState } from "./initial.js";

const POINTS = { 1: [32, 64, 128, 256, 512, 1024], 2: [16, 32, 64, 128, 256] };
const LONGEST = 100;

/** `onRun(request)`: as the service reads it. */
export function problemForm(onRun) {
  let [models, families, controls, defaultModel] = [[], [], [], ""];
  const model = h("select", { onChange: () => chosenModel() });
  const family = h("select", { onChange: () => chosenFamily() });
  const text = h("p", { class: "display" });
  const coefficients = h("div", {});
  const own = h("input", { type: "checkbox", onChange: () => update() });
  const ownControl = h("label", { class: "check" }, own, h("span", {}, "Other coefficients than the trajectory's own"));
  const points = h("select", { onChange: () => update() });
  const steps = h("input", { type: "number", min: 1, max: 10000, step: 1, value: 40, onInput: () => update() });
  const every = h("input", { type: "number", min: 1, step: 1, value: 1, onInput: () => update() });
  const finer = h("select", {});
  fill(finer, [["1", "The state's points"], ["2", "Twice as many"], ["4", "Four times as many"]], "1");
  const finerControl = labelled("Answer at", finer, "On a finer grid both methods are shown: the model itself there, and interpolation.");
  const compare = h("input", { type: "checkbox", checked: true });
  const compareControl = h("label", { class: "check" }, compare, h("span", {}, "Compare with the numerical reference"));
  const ensemble = ensembleControl(() => update());
  const submit = h("button", { type: "submit", class: "primary", disabled: true }, "Run");
  const initial = initialState(() => update());
  const element = h(
    "form",
    { class: "panel form", "aria-label": "Problem", novalidate: true, onSubmit: (event) => {
      event.preventDefault();
      if (!submit.disabled) onRun(request());
    } },
    h("div", { class: "pair" }, labelled("Model", model), labelled("Equation", family)),
    text,
    coefficients,
    ownControl,
    initial.element,
    h("div", { class: "triple" }, labelled("Steps", steps), labelled("Keep every", every), labelled("Points", points)),
    finerControl,
    compareControl,
    ensemble.element,
    submit,
  );

  const chosen = () => ({ card: models.find(({ id }) => id === model.value), equation: families.find(({ id }) => id === family.value) });
  const grid = () => Array(chosen().equation.dimensions).fill(Number(points.value));
  const support = () => chosen().card.families[family.value];

  function chosenModel(wanted) {
    const { card } = chosen();
    fill(family, families.map(({ id, name }) => [id, card.families[id] ? name : `${name} (not known)`, !card.families[id]]), wanted);
    chosenFamily();
  }

  function chosenFamily() {
    const { card, equation: known } = chosen();
    compareControl.hidden = !comparable();
    text.replaceChildren(equation(known.equation));
    const old = new Map(controls.map((control) => [control.name, control.value()]));
    controls = known.coefficients.map((entry) =>
      coefficient(entry, support()?.coefficients[entry.name], old.get(entry.name) ?? entry.default, update),
    );
    coefficients.replaceChildren(...controls.map((control) => control.element));
    const usual = card.resolution ?? Math.min(known.n, known.dimensions === 1 ? 256 : 64);
    const sizes = [...new Set([...POINTS[known.dimensions], usual])].sort((a, b) => a - b);
    fill(points, sizes.map((size) => [String(size), `${Array(known.dimensions).fill(size).join(" × ")}${size === card.resolution ? " (trained)" : ""}`]), String(usual));
    steps.value = Math.max(1, Math.min(LONGEST, Math.round(known.t_final / (support()?.dt ?? known.dt))));
    update();
  }

  function update() {
    const { equation: known } = chosen();
    if (!known) return;
    initial.problem(known, grid());
    const file = initial.kind() === "file";
    ownControl.hidden = !file || controls.length === 0;
    coefficients.hidden = file && !own.checked;
    points.disabled = file;
    finerControl.hidden = file;
    const whole = (field) => Number.isInteger(field.valueAsNumber) && field.valueAsNumber >= 1;
    const wrong = [steps, every].filter((field) => !whole(field) || every.valueAsNumber > steps.valueAsNumber);
    for (const field of [steps, every]) field.setAttribute("aria-invalid", String(wrong.includes(field)));
    const numbers = coefficients.hidden || controls.every((control) => control.value() !== null);
    submit.disabled = wrong.length > 0 || !numbers || !ensemble.valid() || initial.condition() === null;
  }

  function request() {
    const file = initial.kind() === "file";
    const values = coefficients.hidden ? {} : Object.fromEntries(controls.map((control) => [control.name, control.value()]));
    return {
      model: model.value,
      family: family.value,
      coefficients: values,
      ...(file ? {} : { grid: { n: grid() } }),
      initial_condition: initial.condition(),
      n_steps: steps.valueAsNumber,
      save_every: every.valueAsNumber,
      ...(file || finer.value === "1" ? {} : { output_resolution: grid().map((n) => n * Number(finer.value)) }),
      diagnostics: true,
      reference: compare.checked && comparable(),
      ...ensemble.request(),
    };
  }

  /** Is there another method to compare with? */
  function comparable() {
    return model.value !== "numerical" && Boolean(models.find(({ id }) => id === "numerical")?.families[family.value]);
  }

  return {
    element,
    submit: () => element.requestSubmit(),
    running(now) {
      submit.textContent = now ? "Run anew" : "Run";
    },
    family: (id) => families.find((entry) => entry.id === id),
    /** Reads models, equations and files anew, and chooses what the address asks for. */
    async refresh(query) {
      const [listed, known] = await Promise.all([get("v1/models"), get("v1/families")]);
      ({ models, default: defaultModel } = listed);
      families = known.families;
      const wantedFile = query.get("file");
      const fileFamily = await initial.refresh(wantedFile ?? undefined);
      const before = [model.value, family.value].join();
      const fits = (id) => models.find((card) => card.id === id && (!fileFamily || card.families[fileFamily]));
      const wanted = [query.get("model"), model.value, defaultModel, "numerical"].find((id) => id && fits(id));
      fill(model, models.map(({ id }) => [id, id]), wanted);
      const wantedFamily = fileFamily ?? (query.get("family") || family.value);
      const knows = chosen().card.families;
      const next = knows[wantedFamily] ? wantedFamily : families.find(({ id }) => knows[id])?.id;
      if (before !== [model.value, next].join()) chosenModel(next);
      if (fileFamily) initial.choose(wantedFile);
      update();
    },
  };
}
