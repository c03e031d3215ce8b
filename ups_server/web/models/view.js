// Models: cards with trained ranges and scores.
import { h, table } from "../core/dom.js";
import { markdown } from "../core/markdown.js";
import { number } from "../core/numbers.js";
import { guarded } from "../core/problems.js";
import { get, segment, send } from "../core/service.js";
import { scoreTable } from "./scores.js";

export function modelsView() {
  const problem = h("div", {});
  const list = h("nav", { class: "cards", "aria-label": "Models" });
  const card = h("section", { class: "panel card", "aria-live": "polite", "aria-label": "Model card" });
  const element = h("div", { class: "narrow" }, h("h1", {}, "Models"), problem, list, card);

  async function show(rest) {
    await guarded(problem, async () => {
      const { models, default: chosen } = await get("v1/models");
      const id = rest[0] ?? chosen;
      list.replaceChildren(...models.map((model) => tile(model, model.id === id)));
      card.replaceChildren(...describe(await get(`v1/models/${segment(id)}`)));
    });
  }

  function tile(model, current) {
    const kind = model.kind === "builtin" ? "without a model" : model.adaptation ? `adapted from ${model.adaptation.parent}` : "trained";
    const known = Object.keys(model.families).length;
    return h("a", { class: "panel tile", href: `#/models/${segment(model.id)}`, "aria-current": current ? "true" : null },
      h("strong", {}, model.id), h("span", { class: "quietly" }, kind, ", ", known === 1 ? "1 family" : `${known} families`));
  }

  function describe(model) {
    const ends = ({ low, high }) => (low === null && high === null ? "any" : low === high ? number(low) : `${number(low)} to ${number(high)}`);
    const ranges = Object.entries(model.families).map(([id, support]) => [
      id, number(support.dt), Object.entries(support.coefficients).map(([name, range]) => `${name} ${ends(range)}`).join(", ") || "none",
    ]);
    const note = h("div", {});
    const facts = [["Version", model.version], ["Points per axis", model.resolution ?? "any"], ["Language model", model.base]];
    const { adaptation } = model;
    if (adaptation) facts.push(["Tuned from", adaptation.parent], ["Trajectories", adaptation.n_trajectories], ["Steps", adaptation.steps], ["Alignment", adaptation.alignment]);
    const remove = adaptation && h("button", { type: "button", class: "quiet danger", onClick: () => {
      if (confirm(`Delete ${model.id}?`)) {
        guarded(note, () => send("DELETE", `v1/models/${segment(model.id)}`)).then((fine) => fine && (location.hash = "#/models"));
      }
    } }, "Delete");
    return [
      h("h2", {}, model.id),
      model.description ? h("p", {}, model.description) : null,
      h("dl", { class: "facts" }, facts.filter(([, value]) => value !== null).map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])),
      h("div", { class: "row" }, h("a", { class: "button primary", href: `#/solve?model=${segment(model.id)}` }, "Solve with it"), remove),
      note,
      table(model.kind === "builtin" ? "Families" : "Families and trained ranges", ["family", "step", "coefficients"], ranges),
      scoreTable(model.scores),
      model.readme ? h("details", {}, h("summary", {}, "The whole card"), h("div", { class: "prose" }, markdown(model.readme, model.id))) : null,
    ].filter(Boolean);
  }

  return { element, show };
}
