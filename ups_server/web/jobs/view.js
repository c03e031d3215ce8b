// Jobs: start one, watch one, and the tables of all.
import { h, table } from "../core/dom.js";
import { when } from "../core/numbers.js";
import { guarded } from "../core/problems.js";
import { get, segment } from "../core/service.js";
import { figures } from "../models/scores.js";
import { jobForm } from "./forms.js";
import { jobPanel } from "./job.js";

export function jobsView() {
  const problem = h("div", {});
  const lists = h("div", { class: "records" });
  const panel = jobPanel(() => refresh());
  const form = jobForm((job) => (location.hash = `#/jobs/${segment(job.id)}`));
  const element = h("div", { class: "narrow" }, h("h1", {}, "Jobs"), problem, panel.element, form.element, lists);

  const link = (job) => h("a", { href: `#/jobs/${segment(job.id)}` }, job.id);
  const state = (job) => h("span", { class: `state ${job.state}` }, job.state);

  async function refresh() {
    await guarded(problem, async () => {
      const [tunings, evaluations, rollouts, stored] = await Promise.all(["v1/fine-tuning/jobs", "v1/evaluations", "v1/rollouts", "v1/files"].map(get));
      const files = new Map(stored.files.map((record) => [record.id, record]));
      const on = (id) => (files.has(id) ? h("a", { href: `#/files/${segment(id)}` }, `${files.get(id).name} (${files.get(id).family})`) : "a deleted file");
      const rows = tunings.jobs.map((job) => [link(job), state(job), job.model, on(job.spec.training_file), job.result?.model ?? "–", when(job.created_at)]);
      const scored = evaluations.jobs.map((job) => [link(job), state(job), job.model, on(job.spec.file), ...figures(job.result ?? {}), when(job.created_at)]);
      const solved = rollouts.jobs.map((job) => [link(job), state(job), job.model, job.spec.family, job.spec.n_steps, when(job.created_at)]);
      lists.replaceChildren(
        ...(rows.length ? [h("section", { class: "panel" }, table("Adaptations", ["job", "state", "model", "on", "new model", "made"], rows))] : []),
        ...(scored.length ? [h("section", { class: "panel" }, table("Evaluations", ["job", "state", "model", "on", "one-step nRMSE", "skill", "rollout nRMSE", "made"], scored))] : []),
        ...(solved.length ? [h("section", { class: "panel" }, table("Rollouts that nobody waits for", ["job", "state", "model", "equation", "steps", "made"], solved))] : []),
      );
    });
  }

  return {
    element,
    async show(rest, query) {
      await guarded(problem, async () => {
        await form.refresh(query);
        await refresh();
      });
      if (rest[0]) panel.follow(rest[0]);
      else panel.leave();
    },
    hide: () => panel.leave(),
  };
}
