// One job, live: state, curves, outcome; cancel and resume.
import { lineChart } from "../charts/line_chart.js";
import { h, table } from "../core/dom.js";
import { when } from "../core/numbers.js";
import { guarded, problemNote, sentence } from "../core/problems.js";
import { download } from "../core/save.js";
import { ask, get, Problem, segment, send } from "../core/service.js";
import { figures, tuningTable } from "../models/scores.js";
import { follow, jobAddress } from "./history.js";

const RESULTS = [["NetCDF", "application/x-netcdf", "nc"], ["npz", "application/x-npz", "npz"], ["HDF5", "application/x-hdf5", "h5"]];

/** `follow(id)` shows a job from its first event on; `onChange(job)` is called when its state changes. */
export function jobPanel(onChange) {
  let stopping = null;
  const fileCells = new Map();
  const title = h("h2", {});
  const state = h("span", { class: "state" });
  const status = h("p", { role: "status" });
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Progress of the job" });
  const cancel = h("button", { type: "button", class: "quiet danger" }, "Cancel");
  const resume = h("button", { type: "button" }, "Resume");
  const note = h("div", {});
  const outcome = h("div", {});
  const loss = lineChart({ title: "Loss", xLabel: "step", logY: true });
  const scores = lineChart({ title: "Validation error", xLabel: "step", logY: true });
  const charts = h("div", { class: "curves" }, loss.element, scores.element);
  const facts = h("dl", { class: "facts" });
  const element = h("section", { class: "panel job", "aria-label": "Job", hidden: true },
    h("div", { class: "row spread" }, title, state), status, bar, h("div", { class: "row" }, cancel, resume), note, charts, outcome, facts);

  /** The name of a file of a job, once it is known. */
  async function nameFile(cell, id) {
    try {
      const record = await get(`v1/files/${segment(id)}`);
      cell.replaceChildren(h("a", { href: `#/files/${segment(id)}` }, `${record.name} (${record.family})`));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      cell.textContent = `${id}, which is deleted`;
    }
  }

  function tell(job) {
    state.className = `state ${job.state}`;
    state.textContent = job.state;
    const open = job.finished_at === null;
    cancel.hidden = !open;
    cancel.disabled = job.cancel_requested;
    resume.hidden = open || job.state === "succeeded";
    bar.hidden = !open;
    const fileCell = (id) => {
      if (!fileCells.has(id)) {
        fileCells.set(id, h("span", {}, id));
        nameFile(fileCells.get(id), id);
      }
      return fileCells.get(id);
    };
    const { spec } = job;
    const file = spec.training_file ?? spec.file;
    const parts = [["Model", job.model], ...(spec.family ? [["Equation", spec.family], ["Steps", spec.n_steps]] : []), ...(file ? [["File", fileCell(file)]] : []), ...(spec.validation_file ? [["Held out", fileCell(spec.validation_file)]] : []), ["Begun", when(job.started_at)], ["Ended", when(job.finished_at)], ["Attempts", job.attempt]];
    facts.replaceChildren(...parts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value instanceof Node ? value : String(value ?? "–"))]));
    outcome.replaceChildren(...ending(job));
    onChange(job);
  }

  const save = (job, type, suffix) => guarded(note, async () => {
    const answer = await ask(`${jobAddress(job.id)}/result`, { headers: { Accept: type } });
    download(`${job.id}.${suffix}`, [await answer.blob()], type);
  });

  function ending(job) {
    if (job.error) return [problemNote(new Problem(job.error))];
    if (!job.result) return [];
    if (job.kind === "rollout") {
      const button = ([name, type, suffix]) => h("button", { type: "button", title: `Save the result as ${name}`, onClick: () => save(job, type, suffix) }, name);
      return [h("div", { class: "row" }, RESULTS.map(button))];
    }
    if (job.kind === "evaluation") {
      const rows = [[job.model, ...figures(job.result)], ["persistence", ...figures(job.result.persistence ?? {})]];
      return [table("Scores", ["model", "one-step nRMSE", "skill", "rollout nRMSE"], rows)];
    }
    const { model, verdict } = job.result;
    return [
      h("p", { class: "verdict" }, sentence(verdict)),
      tuningTable(job.result),
      h("div", { class: "row" },
        h("a", { class: "button primary", href: `#/solve?model=${segment(model)}&file=${segment(job.spec.training_file)}` }, "Solve with the new model"),
        h("a", { class: "button", href: `#/models/${segment(model)}` }, "Its card")),
    ];
  }

  async function watch(id) {
    stopping?.abort();
    const mine = (stopping = new AbortController());
    const curves = { loss: [[], []], one: [[], []], rollout: [[], []], still: [[], []] };
    const point = ([x, y], step, value) => {
      x.push(step);
      y.push(value ?? NaN);
    };
    let pending = 0;
    const draw = () => {
      pending = 0;
      const curve = (name, [x, y], ink, dash = false) => ({ name, x, y, ink, dash });
      loss.update([curve("", curves.loss, "--curve-1")]);
      scores.update(curves.one[0].length ? [curve("one-step", curves.one, "--curve-1"), curve("rollout", curves.rollout, "--curve-2"), curve("persistence", curves.still, "--muted", true)] : []);
    };
    element.hidden = false;
    title.textContent = id;
    status.textContent = "";
    bar.value = 0;
    charts.hidden = !id.startsWith("ft-");
    draw();
    const act = (verb) => () => guarded(note, async () => {
      tell(await send("POST", `${jobAddress(id)}/${verb}`));
      if (verb === "resume") watch(id);
    });
    cancel.onclick = act("cancel");
    resume.onclick = act("resume");

    const reports = {
      state: () => get(jobAddress(id)).then((job) => stopping === mine && tell(job)),
      phase: ({ phase }) => (status.textContent = sentence(phase.replaceAll("_", " "))),
      progress: ({ what, done, total }) => {
        const words = id.startsWith("ro-") ? what : `scoring${what ? ` (${what.replaceAll("_", " ")})` : ""}`;
        status.textContent = sentence(`${words}: ${done} of ${total}`);
        bar.value = done / total;
      },
      step: (data) => {
        point(curves.loss, data.step, data.loss);
        bar.value = data.step / data.steps;
      },
      validation: (data) => {
        point(curves.one, data.step, data.one_step);
        point(curves.rollout, data.step, data.rollout);
        point(curves.still, data.step, data.persistence);
      },
    };
    await guarded(note, async () => {
      tell(await get(jobAddress(id)));
      const job = await follow(id, mine.signal, (name, data) => {
        if (stopping !== mine) return;
        reports[name]?.(data);
        pending ||= requestAnimationFrame(draw);
      });
      if (stopping !== mine) return;
      status.textContent = `The job has ${job.state === "succeeded" ? "succeeded" : job.state === "failed" ? "failed" : "been cancelled"}.`;
      tell(job);
    });
  }

  return {
    element,
    follow: watch,
    leave() {
      stopping?.abort();
      stopping = null;
      element.hidden = true;
    },
  };
}
