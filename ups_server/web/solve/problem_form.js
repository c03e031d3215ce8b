// The form of a rollout: model, equation, coefficients, initial state, how far. Its whole state is the address.
import { fill, h, labelled } from "../core/dom.js";
import { equation } from "../core/numbers.js";
import { get } from "../core/service.js";
import { besideControl } from "./beside.js";
import { coefficient } from "./coefficients.js";
import { ensembleControl } from "./ensemble.js";
import { initialState } from "./initial.js";
import { lengthControl } from "./length.js";
import { parsePoints, pointsControl, pointsText } from "./points.js";
import { writtenEquation } from "./written.js";

/** The family of all equations in symbols: here they are written. */
const WRITTEN = "evolution_1d";
/** Points of maps times steps that a model computes in a few seconds on two cores. */
const USUAL_WORK = 80_000;
const LONGEST = 100;
const SHORTEST = 5;

/** `onRun({request, beside, names})`: requests as the service reads them; `onChange()` after every change. */
export function problemForm(onRun, onChange = () => {}) {
  let [models, families, controls, defaultModel, defaults, before, replaced] = [[], [], [], "", {}, "", null];
  /** Did the user, or an address, choose the model? Otherwise it is the service's choice for the equation. */
  let ownModel = false;
  const note = h("div", {});
  const model = h("select", { onChange: () => {
    replaced = null;
    ownModel = true;
    chosenModel();
  } });
  const modelControl = labelled("Model", model, " ");
  const modelRemark = modelControl.querySelector("small");
  const family = h("select", { onChange: () => chosenFamily() });
  const text = h("p", { class: "display" });
  const unknown = h("p", { class: "outside", hidden: true }, "No trained model knows this equation: the numerical solver runs it.");
  const written = writtenEquation(() => readEquation());
  const coefficients = h("div", {});
  const own = h("input", { type: "checkbox", onChange: () => update() });
  const ownControl = h("label", { class: "check" }, own, h("span", {}, "Other coefficients than the trajectory's own"));
  const points = pointsControl(() => update());
  const length = lengthControl(() => update());
  const finer = h("select", { onChange: () => update() });
  fill(finer, [["1", "the same"], ["2", "twice these"], ["4", "4 times these"]], "1");
  const finerControl = labelled("Answer at", finer, " ");
  const finerRemark = finerControl.querySelector("small");
  const compare = h("input", { type: "checkbox", checked: true, onChange: () => update() });
  const compareRemark = h("small", {});
  const compareControl = h("div", {}, h("label", { class: "check" }, compare, h("span", {}, "Compare with the numerical reference")), compareRemark);
  const ensemble = ensembleControl(() => update());
  const beside = besideControl(() => update());
  const submit = h("button", { type: "submit", class: "primary", disabled: true }, "Run");
  const initial = initialState(() => update());
  const element = h(
    "form",
    { class: "panel form", "aria-label": "Problem", novalidate: true, onSubmit: (event) => {
      event.preventDefault();
      if (!submit.disabled) start();
    } },
    note,
    h("div", { class: "pair" }, modelControl, labelled("Equation", family)),
    written.element,
    unknown,
    text,
    coefficients,
    ownControl,
    initial.element,
    length.element,
    h("div", { class: "double top-aligned" }, points.element, finerControl),
    compareControl,
    ensemble.element,
    beside.element,
    submit,
  );

  /** The model that the service would choose for a family, where it knows it. */
  function proposed(id) {
    const usual = defaults[id] ?? defaultModel;
    return models.some((card) => card.id === usual && card.families[id]) ? usual : null;
  }

  /** That, or the solver where no model is chosen for it: what runs an equation unless somebody chooses another. */
  const usual = (id) => proposed(id) ?? models.find((card) => card.id === "numerical" && card.families[id])?.id ?? null;
  const byId = (id) => families.find((entry) => entry.id === id);
  const isWritten = () => family.value === WRITTEN;
  /** Card of the model, and the family that is solved: of a written equation the one it was recognised as. */
  const chosen = () => ({
    card: models.find(({ id }) => id === model.value),
    equation: byId(isWritten() ? written.answer()?.family ?? WRITTEN : family.value),
  });
  const support = () => chosen().card.families[chosen().equation.id];
  const trained = () => support()?.statistics?.n ?? chosen().card.resolution;

  function listFamilies(wanted) {
    const { card } = chosen();
    const known = families.filter(({ id }) => id !== WRITTEN);
    const open = (id) => card.families[id] || (!ownModel && usual(id));
    const options = known.map(({ id, name }) => [id, open(id) ? name : `${name} (not known)`, !open(id)]);
    const writable = byId(WRITTEN) ? [[WRITTEN, "Your own: write it …"]] : [];
    fill(family, [...options, ...writable], wanted);
  }

  function chosenModel(wanted) {
    listFamilies(wanted);
    chosenFamily();
  }

  function chosenFamily() {
    if (isWritten() && !written.answer()) written.read();
    if (isWritten()) chooseSolver();
    else {
      unknown.hidden = models.some(({ kind, families: able }) => kind !== "builtin" && able[family.value]);
      const knows = models.find(({ id }) => id === replaced)?.families[family.value];
      if (knows) model.value = replaced;
      replaced = null;
      const next = ownModel ? null : usual(family.value);
      if (next && next !== model.value) {
        model.value = next;
        listFamilies(family.value);
      }
    }
    listModels();
    const { card, equation: known } = chosen();
    text.hidden = isWritten();
    written.element.hidden = !isWritten();
    text.replaceChildren(equation(known.equation));
    const old = new Map(controls.map((control) => [control.name, control.value()]));
    controls = isWritten() ? [] : known.coefficients.map((entry) =>
      coefficient(entry, support()?.coefficients[entry.name], old.get(entry.name) ?? entry.default, update),
    );
    coefficients.replaceChildren(...controls.map((control) => control.element));
    const count = trained() ?? Math.min(known.n, known.dimensions === 1 ? 128 : 64);
    points.problem(known.dimensions, trained(), count);
    const dt = support()?.dt ?? known.dt;
    const affordable = known.dimensions === 1 ? LONGEST : Math.max(SHORTEST, Math.floor(USUAL_WORK / count ** known.dimensions));
    length.problem(dt, known.time_unit, Math.max(1, Math.min(LONGEST, affordable, Math.round(known.t_final / dt))));
    compare.checked = known.dimensions === 1 && known.fields.length === 1;
    compareRemark.textContent = compare.checked ? "" : "A fine grid is solved for it; that takes longer than the model, up to minutes.";
    listBeside();
    before = [card.id, known.id].join();
    update();
  }

  /** Of a written equation only some models know the family. */
  function listModels() {
    const { equation: known } = chosen();
    fill(model, models.map(({ id, families: able }) => [id, isWritten() && !able[known.id] ? `${id} (not for it)` : id, isWritten() && !able[known.id]]));
  }

  function listBeside() {
    const { card, equation: known } = chosen();
    const others = models.filter((entry) => entry.id !== card.id && entry.families[known.id]).map(({ id }) => id);
    beside.problem(others, controls.map((control) => {
      const entry = known.coefficients.find(({ name }) => name === control.name);
      return [entry, support()?.coefficients[entry.name], control.value() ?? entry.default];
    }));
  }

  /** A model that knows the written equation: the chosen one, or else the service's own choice, or else the solver. */
  function chooseSolver() {
    const { card, equation: known } = chosen();
    const able = models.filter((entry) => entry.families[known.id]);
    const usual = able.find(({ id }) => id === (proposed(known.id) ?? "numerical"));
    // The model that the solver stood in for comes back where it knows the equation.
    const next = able.find(({ id }) => id === replaced) ?? (card.families[known.id] ? card : usual);
    if (next && next !== card) {
      replaced = replaced === next.id ? null : replaced ?? card.id;
      listModels();
      model.value = next.id;
    }
    unknown.hidden = able.some(({ kind }) => kind !== "builtin");
  }

  /** After each edit of the text: another family may solve it. */
  function readEquation() {
    if (!isWritten()) return;
    const id = written.answer() && [model.value, chosen().equation.id].join();
    if (id && id !== before) chosenFamily();
    else update();
  }

  function problem() {
    if (isWritten()) return { equation: written.text(), coefficients: written.coefficients() };
    const values = coefficients.hidden ? {} : Object.fromEntries(controls.map((control) => [control.name, control.value()]));
    return { family: family.value, coefficients: values };
  }

  function update() {
    const { equation: known } = chosen();
    if (!known) return;
    modelRemark.textContent = remark(isWritten() ? null : proposed(known.id), known.id);
    const grid = points.value();
    if (grid) initial.problem(known, grid, problem());
    const file = initial.kind() === "file";
    compareControl.hidden = !comparable();
    ownControl.hidden = !file || controls.length === 0;
    coefficients.hidden = file && !own.checked;
    finerControl.hidden = file;
    finerRemark.textContent = finer.value === "1" ? "" : "The model itself there, and interpolation.";
    const fine = [length.valid(), points.judge(file), beside.valid(), ensemble.valid()];
    const numbers = isWritten() ? written.valid() : coefficients.hidden || controls.every((control) => control.value() !== null);
    submit.disabled = !(fine.every(Boolean) && numbers && initial.condition() !== null);
    onChange();
  }

  /** Why this model, or which one the service would choose. */
  function remark(next, id) {
    if (!next) return "";
    if (next !== model.value) return `The service's own choice for this equation is ${next}.`;
    return defaults[id] ? `The service's choice: at this equation it was measured to be better than ${defaultModel}.` : "";
  }

  function request() {
    const file = initial.kind() === "file";
    const grid = points.value();
    return {
      model: model.value,
      ...problem(),
      ...(file ? {} : { grid: { n: grid } }),
      initial_condition: initial.condition(),
      ...length.request(),
      ...(file || finer.value === "1" ? {} : { output_resolution: grid.map((n) => n * Number(finer.value)) }),
      diagnostics: true,
      reference: compare.checked && comparable(),
      ...ensemble.request(),
    };
  }

  function start() {
    const first = request();
    const second = beside.request(first);
    // Models have steps of their own: the second goes by those of the first.
    if (second?.n_steps !== undefined) second.dt = support()?.dt ?? chosen().equation.dt;
    onRun({ request: first, beside: second, names: second && beside.names(first, second), address: state().toString() });
  }

  /** Is there another method to compare with? */
  function comparable() {
    return model.value !== "numerical" && Boolean(models.find(({ id }) => id === "numerical")?.families[chosen().equation.id]);
  }

  /** What is chosen, as the query of the address: it gives the same form, and the same run. */
  function state() {
    const values = isWritten() ? Object.entries(written.coefficients()) : coefficients.hidden ? [] : controls.map(({ name, value }) => [name, value()]);
    const file = initial.kind() === "file";
    return new URLSearchParams({
      model: model.value,
      ...(isWritten() ? { equation: written.text() } : { family: family.value }),
      ...Object.fromEntries(values.filter(([, value]) => value !== null).map(([name, value]) => [`c.${name}`, value])),
      ...(file ? {} : { n: points.value() ? pointsText(points.value()) : points.text() }),
      ...initial.state(),
      ...length.state(),
      ...(file || finer.value === "1" ? {} : { finer: finer.value }),
      ...(comparable() ? { reference: compare.checked ? "1" : "0" } : {}),
      ...ensemble.state(),
      ...beside.state(),
    });
  }

  /** What an address says beyond model, family and file. */
  function apply(query) {
    const { equation: known } = chosen();
    for (const control of controls) if (query.has(`c.${control.name}`)) control.set(query.get(`c.${control.name}`));
    own.checked = query.has("file") && [...query.keys()].some((name) => name.startsWith("c."));
    if (query.has("n") && parsePoints(query.get("n"), known.dimensions)) points.set(query.get("n"));
    finer.value = ["2", "4"].includes(query.get("finer")) ? query.get("finer") : "1";
    length.set(query);
    if (query.has("reference")) compare.checked = query.get("reference") === "1";
    ensemble.set(query);
    initial.set(query);
    beside.set(query);
  }

  function complain(lines) {
    note.replaceChildren(...(lines.length ? [h("div", { class: "note problem", role: "alert" }, lines.map((line) => h("p", {}, line)))] : []));
  }

  return {
    element,
    state,
    running(now) {
      submit.textContent = now ? "Run anew" : "Run";
    },
    initialText: (condition) => initial.text(condition),
    fileName: (id) => initial.fileName(id),
    family: (id) => byId(id),
    /** The family that the form is about. */
    solved: () => chosen().equation,
    /** Reads models, equations and files anew, and chooses what the address asks for. */
    async refresh(query) {
      const [listed, known] = await Promise.all([get("v1/models"), get("v1/families")]);
      ({ models, default: defaultModel, defaults } = listed);
      families = known.families;
      const wantedFile = query.get("file");
      const fileFamily = await initial.refresh(wantedFile ?? undefined);
      const asked = query.has("equation") ? WRITTEN : query.get("family");
      const wantedFamily = fileFamily ?? (asked || family.value);
      const needed = fileFamily ?? (asked === WRITTEN ? null : byId(asked)?.id ?? null);
      const fits = (id) => models.find((card) => card.id === id && (!needed || card.families[needed]));
      const next = usual(wantedFamily) ?? defaultModel;
      if (query.size) ownModel = query.has("model") && query.get("model") !== next;
      const wanted = [query.get("model"), ...(ownModel ? [model.value, next] : [next, model.value]), "numerical"].find((id) => id && fits(id));
      complain([
        ...(query.has("model") && !models.some(({ id }) => id === query.get("model")) ? [`There is no model ${query.get("model")}.`] : []),
        ...(needed && query.has("model") && models.some(({ id }) => id === query.get("model")) && !fits(query.get("model")) ? [`${query.get("model")} does not know this equation${wanted ? `: ${wanted} runs it` : ""}.`] : []),
        ...(query.has("family") && !byId(query.get("family")) ? [`There is no equation ${query.get("family")}.`] : []),
        ...(wantedFile && !fileFamily ? [`There is no file ${wantedFile} to start from.`] : []),
      ]);
      fill(model, models.map(({ id }) => [id, id]), wanted);
      const knows = chosen().card.families;
      const nextFamily = knows[wantedFamily] || wantedFamily === WRITTEN ? wantedFamily : families.find(({ id }) => knows[id])?.id;
      if (query.has("equation")) {
        const values = [...query].filter(([name]) => name.startsWith("c.")).map(([name, value]) => [name.slice(2), value]);
        listFamilies(WRITTEN);
        await written.set(query.get("equation"), Object.fromEntries(values));
      }
      if (query.size || before !== [model.value, isWritten() ? chosen().equation.id : nextFamily].join()) chosenModel(nextFamily);
      if (fileFamily) initial.choose(wantedFile);
      // An address that says nothing leaves the form as it was.
      if (query.size) apply(query);
      update();
    },
  };
}
