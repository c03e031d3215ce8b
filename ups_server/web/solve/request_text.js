// A request as others send it: Python, curl, command line. Each is exactly the request that the page sends.
import { pointsText } from "./points.js";

/** A value in Python's notation. */
function python(value, indent = "") {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map((entry) => python(entry, indent)).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, entry]) => `${JSON.stringify(key)}: ${python(entry, indent)}`).join(", ")}}`;
  return JSON.stringify(value);
}

const given = (request) => Object.fromEntries(Object.entries(request).filter(([, value]) => value !== undefined));

export function asPython(request, url) {
  const lines = Object.entries(given(request)).map(([name, value]) => `        ${name}=${python(value)},`);
  return `from ups_server.client import Client

with Client(${JSON.stringify(url)}) as client:
    solution = client.rollout(
${lines.join("\n")}
    )
print(solution)
`;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function asCurl(request, url) {
  return `curl -s ${url}/v1/rollouts -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(given(request)))}\n`;
}

/** The command; comments say what it cannot take. `fileName(id)` is the name of an uploaded file. */
export function asCommand(request, fileName) {
  const { initial_condition: start, grid, ensemble } = request;
  const lacking = [];
  const options = [];
  const add = (name, value) => options.push(value === undefined ? name : `${name} ${value}`);
  const subject = request.equation === undefined ? request.family : `--equation ${quoted(request.equation)}`;
  if (["numerical", "persistence"].includes(request.model)) add("--method", request.model);
  else add("--model", request.model);
  for (const [name, value] of Object.entries(request.coefficients)) add("--coef", `${name}=${value}`);
  if (start.sample) add("--seed", start.sample.seed);
  if (start.file) {
    add("--initial", quoted(fileName(start.file) ?? start.file));
    add("--trajectory", start.trajectory);
  }
  if (start.values) lacking.push("a state drawn by hand: give a file with --initial");
  if (grid) add("--resolution", pointsText(grid.n).replaceAll(" ", ""));
  if (request.n_steps !== undefined) add("--n-steps", request.n_steps);
  else add("--times", (request.times ?? [request.t_final]).join(","));
  if (request.dt !== undefined) add("--dt", request.dt);
  if (request.save_every > 1) add("--save-every", request.save_every);
  if (request.output_resolution) add("--output-resolution", request.output_resolution.join("x"));
  if (request.method) add("--finer-by", request.method);
  if (ensemble) {
    add("--ensemble", ensemble.members);
    add("--amplitude", ensemble.amplitude);
  }
  if (request.diagnostics) add("--diagnostics");
  if (request.reference) add("--reference");
  const notes = lacking.map((text) => `# not in this command: ${text}\n`).join("");
  return `${notes}ups solve ${[subject, ...options, `-o ${request.family ?? "equation"}.nc`].join(" \\\n  ")}\n`;
}
