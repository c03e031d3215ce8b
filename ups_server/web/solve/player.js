// Play, pause, scrub, speed.
import { h, unique } from "../core/dom.js";
import { number } from "../core/numbers.js";

const SPEEDS = [["5", "slow"], ["15", "normal"], ["30", "fast"], ["60", "fastest"]];

const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** Calls `onFrame(index)` whenever another frame is to be seen. `extend(times)` says which there are so far. */
export function player(onFrame) {
  let [times, frame, playing, last, timeUnit] = [[], 0, false, 0, ""];
  const button = h("button", { type: "button", class: "play", onClick: () => (playing ? pause() : play()) });
  const slider = h("input", {
    type: "range", min: 0, max: 0, value: 0, "aria-label": "Frame", onInput: () => {
      pause();
      go(Number(slider.value));
    },
  });
  const speed = h("select", { id: unique("speed") }, SPEEDS.map(([value, text]) => h("option", { value }, text)));
  speed.value = "15";
  const clock = h("span", { class: "clock" });
  const element = h(
    "div",
    { class: "player", role: "group", "aria-label": "Animation" },
    button,
    slider,
    clock,
    h("label", { for: speed.id, class: "hidden" }, "Speed"),
    speed,
  );

  function sign() {
    button.textContent = playing ? "❚❚" : "▶";
    button.setAttribute("aria-label", playing ? "Pause" : "Play");
  }

  function go(index) {
    frame = Math.max(0, Math.min(index, times.length - 1));
    slider.value = frame;
    const text = `t = ${number(times[frame] ?? 0)}${timeUnit}`;
    slider.setAttribute("aria-valuetext", text);
    clock.textContent = text;
    onFrame(frame);
  }

  function tick(now) {
    if (!playing) return;
    if (now - last >= 1000 / Number(speed.value)) {
      last = now;
      if (frame < times.length - 1) go(frame + 1);
      else if (!waiting) return pause();
    }
    requestAnimationFrame(tick);
  }

  let waiting = false;

  function play() {
    if (!waiting && frame >= times.length - 1) go(0);
    playing = true;
    sign();
    requestAnimationFrame(tick);
  }

  function pause() {
    playing = false;
    sign();
  }

  sign();
  return {
    element,
    /** A new rollout: plays as frames come. */
    restart(unit) {
      [times, frame, waiting, timeUnit] = [[], 0, true, unit === "1" ? "" : ` ${unit}`];
      slider.max = 0;
      if (!playing && !calm.matches) play();
    },
    extend(known) {
      times = known;
      slider.max = Math.max(0, times.length - 1);
      if (calm.matches && waiting) go(times.length - 1);
      else if (times.length === 1 || frame >= times.length) go(0);
    },
    /** No more frames will come. */
    finish() {
      waiting = false;
    },
    toggle: () => (playing ? pause() : play()),
  };
}
