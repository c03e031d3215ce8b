// How far a rollout goes: steps of the model, or a final time and how many times until there.
import { fill, h, labelled } from "../core/dom.js";
import { number, unit } from "../core/numbers.js";

const whole = (field) => Number.isInteger(field.valueAsNumber) && field.valueAsNumber >= 1;

/** `request()` is what it adds to a request; `state()` and `set(query)` are the same as text. */
export function lengthControl(onChange) {
  let [dt, timeUnit] = [1, "1"];
  const kind = h("select", { onChange: () => {
    if (kind.value === "time" && !final.value) final.value = Number((dt * steps.valueAsNumber).toPrecision(6));
    changed();
  } });
  fill(kind, [["steps", "in steps"], ["time", "to a time"]], "steps");
  const field = (attributes) => h("input", { type: "number", min: 1, step: 1, onInput: () => changed(), ...attributes });
  const steps = field({ max: 10000, value: 40 });
  const every = field({ value: 1 });
  const final = field({ min: 0, step: "any" });
  const times = field({ value: 10 });
  const remark = h("small", { class: "beneath", "aria-live": "polite" });
  const bySteps = [labelled("Steps", steps), labelled("Keep every", every)];
  const byTime = [labelled("Final time", final), labelled("Times", times)];
  const element = h("div", {}, h("div", { class: "triple" }, labelled("How far", kind), bySteps, byTime), remark);

  const wrong = () => (kind.value === "steps"
    ? [steps, every].filter((entry) => !whole(entry) || every.valueAsNumber > steps.valueAsNumber)
    : [...(final.valueAsNumber > 0 ? [] : [final]), ...(whole(times) ? [] : [times])]);

  function judge() {
    const byStep = kind.value === "steps";
    for (const part of bySteps) part.hidden = !byStep;
    for (const part of byTime) part.hidden = byStep;
    const faults = wrong();
    for (const entry of [steps, every, final, times]) entry.setAttribute("aria-invalid", String(faults.includes(entry)));
    remark.textContent = faults.length ? "" : byStep
      ? `A step is ${number(dt)}${unit(timeUnit)}: to t = ${number(dt * steps.valueAsNumber)}.`
      : `Every ${number(final.valueAsNumber / times.valueAsNumber)}${unit(timeUnit)}; a step of the model is ${number(dt)}.`;
    return faults.length === 0;
  }

  function changed() {
    judge();
    onChange();
  }

  return {
    element,
    valid: judge,
    problem(nextDt, nextUnit, usual) {
      [dt, timeUnit] = [nextDt, nextUnit];
      steps.value = usual;
      every.value = 1;
      if (kind.value === "time") final.value = Number((dt * usual).toPrecision(6));
      judge();
    },
    request() {
      if (kind.value === "steps") return { n_steps: steps.valueAsNumber, save_every: every.valueAsNumber };
      const count = times.valueAsNumber;
      if (count === 1) return { t_final: final.valueAsNumber };
      return { times: Array.from({ length: count }, (_, index) => Number((((index + 1) * final.valueAsNumber) / count).toPrecision(12))) };
    },
    state: () => (kind.value === "steps" ? { steps: steps.value, every: every.value } : { t: final.value, times: times.value }),
    set(query) {
      if (query.has("steps")) [kind.value, steps.value, every.value] = ["steps", query.get("steps"), query.get("every") ?? "1"];
      if (query.has("t")) [kind.value, final.value, times.value] = ["time", query.get("t"), query.get("times") ?? "10"];
      judge();
    },
  };
}
