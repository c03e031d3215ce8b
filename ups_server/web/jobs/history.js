// The history of a job as it is written: a stream that is taken up again where it broke.
import { ask, get, Problem, segment, UNREACHABLE } from "../core/service.js";
import { events } from "../core/streams.js";

const PAUSE = 1000;

const KINDS = { eval: "v1/evaluations", ft: "v1/fine-tuning/jobs", ro: "v1/rollouts" };

/** The address of a job, by the first part of its id. */
export function jobAddress(id) {
  return `${KINDS[id.split("-")[0]] ?? KINDS.ft}/${segment(id)}`;
}

/** Calls `onEvent(name, data)` for every event once, in order, until the job has ended; the job then. */
export async function follow(id, signal, onEvent) {
  let after = 0;
  for (;;) {
    try {
      const headers = { Accept: "text/event-stream", "Last-Event-ID": String(after) };
      const response = await ask(`${jobAddress(id)}/events`, { headers, signal });
      for await (const { name, data } of events(response)) {
        after = data.seq;
        onEvent(name, data);
      }
      const job = await get(jobAddress(id));
      if (job.finished_at !== null) return job;
    } catch (error) {
      if (!(error instanceof Problem) || error.document.code !== UNREACHABLE.code) throw error;
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
    signal.throwIfAborted();
  }
}
