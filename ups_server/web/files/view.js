// Files: upload, report, preview, removal.
import { fill, h, labelled } from "../core/dom.js";
import { bytes, when } from "../core/numbers.js";
import { guarded, problemNote } from "../core/problems.js";
import { ask, get, Problem, segment, send } from "../core/service.js";
import { fileReport } from "./report.js";
import { together, upload } from "./upload.js";

const LOOK_AGAIN = 400;
const STATES = { uploading: "bytes are missing", validating: "being examined", ready: "ready", refused: "refused" };

export function filesView() {
  let families = [];
  const family = h("select", {});
  const one = h("input", { type: "checkbox", id: "one-set" });
  const input = h("input", { type: "file", id: "upload", multiple: true, class: "hidden", onChange: () => {
    take(input.files);
    input.value = "";
  } });
  const zone = h(
    "div",
    { class: "drop" },
    h("p", {}, h("strong", {}, "Drop files here"), " or ", input, h("label", { for: "upload", class: "button" }, "choose files")),
    h("p", { class: "quietly" }, "HDF5 as PDEBench writes it, and other files of arrays. An upload that breaks off goes on where it stopped when the same file is chosen again."),
  );
  const uploads = h("div", { class: "uploads" });
  const problem = h("div", {});
  const room = h("p", { class: "quietly" });
  const list = h("div", { class: "records" });
  const live = h("p", { class: "hidden", role: "status" });
  const element = h(
    "div",
    { class: "narrow" },
    h("h1", {}, "Files"),
    h("section", { class: "panel", "aria-label": "Upload" }, zone, labelled("Equation", family, "Names of published files and the structure inside tell most equations."),
      h("label", { for: "one-set" }, one, " Files chosen together are one data set"), uploads),
    problem, live, list, room,
  );

  for (const name of ["dragenter", "dragover"]) {
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files);
  });

  function take(chosen) {
    const files = one.checked && chosen.length > 1 ? [together(chosen)] : chosen;
    for (const file of files) transfer(file, family.value ? { family: family.value } : {});
  }

  function transfer(file, declaration) {
    let stopping = null;
    const bar = h("progress", { max: Math.max(1, file.size), value: 0, "aria-label": `Upload of ${file.name}` });
    const text = h("span", { class: "quietly" });
    const toggle = h("button", { type: "button", class: "quiet", onClick: () => (stopping ? stopping.abort() : go()) });
    const note = h("div", {});
    const row = h("div", { class: "upload" }, h("div", { class: "row spread" }, h("strong", {}, file.name), text, toggle), bar, note);
    uploads.append(row);

    async function go() {
      stopping = new AbortController();
      toggle.textContent = "Pause";
      toggle.setAttribute("aria-label", `Pause ${file.name}`);
      const fine = await guarded(note, async () => {
        const record = await upload(file, declaration, stopping.signal, (done) => {
          bar.value = done;
          text.textContent = `${bytes(done)} of ${bytes(file.size)}`;
        });
        row.remove();
        live.textContent = `${file.name} has arrived.`;
        await refresh(record.id);
      });
      stopping = null;
      if (fine) return;
      toggle.textContent = "Go on";
      toggle.setAttribute("aria-label", `Go on with ${file.name}`);
    }
    go();
  }

  async function refresh(opened) {
    await guarded(problem, async () => {
      const found = await get("v1/files");
      room.textContent = `${bytes(found.bytes_used)} of ${bytes(found.bytes_allowed)} in use.`;
      const open = new Set([opened, ...[...list.querySelectorAll("details[open]")].map((entry) => entry.dataset.id)]);
      list.replaceChildren(...found.files.map((record) => entry(record, open.has(record.id))));
      if (!found.files.length) list.append(h("p", { class: "empty" }, "There are no files yet."));
    });
  }

  function entry(record, open) {
    const state = h("span", { class: `state ${record.state}` }, STATES[record.state]);
    const content = h("div", { class: "content" });
    const about = h("span", { class: "quietly about" });
    const describeRow = ({ family: id, size, created_at: made }) => {
      const held = id && (families.find((known) => known.id === id)?.name ?? id);
      about.textContent = [held, bytes(size), when(Date.parse(made) / 1000)].filter(Boolean).join(" · ");
    };
    describeRow(record);
    const details = h("details", { class: "panel", open, "data-id": record.id }, h("summary", {}, h("strong", {}, record.name), about, state), content);
    const tell = async () => {
      const current = await get(`v1/files/${segment(record.id)}`);
      state.className = `state ${current.state}`;
      state.textContent = STATES[current.state];
      describeRow(current);
      content.replaceChildren(...describe(current));
      if (current.state !== "validating") live.textContent = `${current.name} is ${STATES[current.state]}.`;
      else if (content.isConnected) setTimeout(() => details.open && guarded(content, tell), LOOK_AGAIN);
    };
    details.addEventListener("toggle", () => details.open && guarded(content, tell));
    return details;
  }

  function describe(record) {
    const remove = h("button", { type: "button", class: "quiet danger", onClick: () => {
      if (confirm(`Delete ${record.name} and what is stored of it?`)) {
        guarded(problem, async () => {
          await send("DELETE", `v1/files/${segment(record.id)}`);
          live.textContent = `${record.name} is deleted.`;
        }).then((fine) => fine && refresh());
      }
    } }, "Delete");
    if (record.state === "ready") {
      const known = families.some(({ id }) => id === record.report.check.family);
      const actions = h("div", { class: "row" },
        known ? h("a", { class: "button primary", href: `#/solve?file=${segment(record.id)}` }, "Solve from it") : null,
        h("a", { class: "button", href: `#/jobs?file=${segment(record.id)}` }, "Adapt a model to it"),
        remove);
      return [fileReport(record), actions];
    }
    if (record.state === "refused") return [problemNote(new Problem(record.problem)), redeclare(record), h("div", { class: "row" }, remove)];
    const text = record.state === "validating" ? "It is read by a process that can reach nothing but this file."
      : `${bytes(record.offset)} of ${bytes(record.size)} have arrived. Choose the same file again to go on.`;
    return [h("p", {}, text), h("div", { class: "row" }, remove)];
  }

  function redeclare(record) {
    const other = h("select", {});
    fill(other, families.map(({ id, name }) => [id, name]));
    const note = h("div", {});
    const again = h("button", { type: "button", onClick: () => guarded(note, async () => {
      await send("PUT", `v1/files/${segment(record.id)}/declaration`, { family: other.value });
      await refresh(record.id);
    }) }, "Examine again");
    return h("div", {}, h("div", { class: "row end" }, labelled("It holds", other), again), meaning(record, note), note);
  }

  /** What the arrays of a file mean, where it does not explain itself: the service proposes it, people correct it. */
  function meaning(record, note) {
    const text = h("textarea", { rows: 14, spellcheck: "false" });
    text.value = record.problem.proposal ?? "";
    const examine = h("button", { type: "button", onClick: () => guarded(note, async () => {
      await ask(`v1/files/${segment(record.id)}/declaration`, { method: "PUT", body: text.value, headers: { "Content-Type": "application/yaml" } });
      ({ families } = await get("v1/families"));
      await refresh(record.id);
    }) }, "Examine with this mapping");
    const remark = record.problem.proposal ? "Proposed from the names and shapes of its arrays: look at every line." : "YAML: family or equation, fields, axes, time, space.";
    return h("details", { open: Boolean(record.problem.proposal) }, h("summary", {}, "What its arrays mean"), labelled("Mapping", text, remark), examine);
  }

  return {
    element,
    async show(rest) {
      await guarded(problem, async () => {
        ({ families } = await get("v1/families"));
        fill(family, [["", "tell by the file"], ...families.map(({ id, name }) => [id, name])]);
        await refresh(rest[0]);
        if (rest[0] && !list.querySelector(`[data-id="${CSS.escape(rest[0])}"]`)) problem.replaceChildren(h("p", { class: "note problem", role: "alert" }, `There is no file ${rest[0]}.`));
      });
    },
  };
}
