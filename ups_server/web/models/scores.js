// Scores of models as tables.
import { h, table } from "../core/dom.js";
import { number } from "../core/numbers.js";

const COLUMNS = ["one-step nRMSE", "skill", "rollout nRMSE"];

/** One-step error, skill (1: no better than standing still), error of the whole rollout. */
export function figures(scores) {
  return [number(scores.one_step?.nrmse, 3), number(scores.one_step?.skill, 3), number(scores.rollout?.nrmse_trajectory, 3)];
}

/** Scores before and after tuning, beside persistence. */
export function tuningTable(report) {
  const rows = [["before tuning", "zero_shot"], ["tuned", "tuned"], ["persistence", "persistence"]]
    .filter(([, part]) => report[part])
    .map(([name, part]) => [name, ...figures(report[part])]);
  return table("Scores on held-out trajectories", ["model", ...COLUMNS], rows);
}

/** The scores of a card, whichever of the known forms they have; null where it has none. */
export function scoreTable(scores) {
  if (scores?.tuned) return tuningTable(scores);
  if (!Array.isArray(scores?.cases)) return null;
  const rows = scores.cases.filter((entry) => entry.model).map(({ role, model }) => {
    const values = Object.entries(model.coefficients ?? {}).map(([name, value]) => `${name} ${number(value)}`).join(", ");
    return [h("span", {}, model.family, values ? ` (${values})` : ""), role, ...figures(model)];
  });
  return table("Measured scores", ["problem", "role", ...COLUMNS], rows);
}
