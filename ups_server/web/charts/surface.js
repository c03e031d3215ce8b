// A canvas that is sharp on every screen and redrawn when its size or the theme changes.
import { onThemeChange } from "../core/theme.js";

/** Calls `draw(context, width, height)` in CSS pixels; the returned function asks for another drawing. */
export function surface(canvas, draw) {
  let pending = 0;
  const paint = () => {
    pending = 0;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width || !height) return;
    const scale = devicePixelRatio || 1;
    const [pixels, lines] = [Math.round(width * scale), Math.round(height * scale)];
    if (canvas.width !== pixels || canvas.height !== lines) Object.assign(canvas, { width: pixels, height: lines });
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    draw(context, width, height);
  };
  const redraw = () => {
    pending ||= requestAnimationFrame(paint);
  };
  new ResizeObserver(redraw).observe(canvas);
  onThemeChange(redraw);
  return redraw;
}
