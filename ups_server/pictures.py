"""Pictures of a trajectory: PNG (curves and space-time maps in 1-D, maps in 2-D), GIF and MP4.

Below the fields stand their power spectra and what the equation conserves. Axes carry units, colour maps are
perceptually uniform, diverging from zero where a field changes sign; one colour scale holds for all times of a field.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde import Family, Trajectory
from ups_server.pde.metrics import power_spectrum
from ups_server.pde.registry import known_family

if TYPE_CHECKING:
    from matplotlib.animation import AbstractMovieWriter
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

PICTURES = (".png", ".gif", ".mp4")
COLOUR_MAP = "viridis"
DIVERGING_MAP = "RdBu_r"
"""Of fields that change sign: white is zero."""
CURVES = 6
FEW = 4
"""Coefficients that a title shows whatever they are: an equation in symbols has one for every term there could be."""
TITLE = 80
"""Characters of a line of a title."""
MAPS = 5
FIELDS = 4
"""Of a small picture."""
GIF_FRAMES = 50
"""A longer trajectory is thinned evenly to this many frames."""
FRAMES_PER_SECOND = 12
DPI = 110
DIAGNOSTICS = 2.8
"""Height of the row below the fields, inches."""
RESOLVED = 1e-14
"""Smallest power shown, relative to the largest."""


def save_picture(trajectory: Trajectory, path: Path, model: str | None = None) -> None:
    """Writes a `.png`, or an animated `.gif` or `.mp4`, by the suffix of `path`.

    Args:
        model: that computed it, for the title.

    Raises:
        UserError: ``unknown_format``; ``picture_not_available`` for 3-D states or without one finite value;
            ``extra_missing`` for a video without the package that encodes it.
    """
    draw = {".png": save_png, ".gif": save_animation, ".mp4": save_animation}.get(path.suffix.lower())
    if draw is None:
        raise UserError("unknown_format", "this is no picture", got=path.suffix, expected=[*PICTURES])
    draw(trajectory, path, model)


def save_png(trajectory: Trajectory, path: Path, model: str | None = None) -> None:
    """One row a field. 1-D: curves at several times beside the space-time map; 2-D: maps at several times."""
    draw = _curves_and_map if _ndim(trajectory) == 1 else _maps
    figure = draw(trajectory, known_family(trajectory.family))
    _name(figure, model)
    figure.savefig(path, dpi=DPI)


def save_animation(trajectory: Trajectory, path: Path, model: str | None = None) -> None:
    """A GIF or MP4 with fixed scales; frames are evenly spaced in the trajectory."""
    from matplotlib import rc_context

    writer, program = _encoded(path)
    start = _animated_curves if _ndim(trajectory) == 1 else _animated_maps
    figure, show = start(trajectory, known_family(trajectory.family))
    _name(figure, model)
    show(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout of the first frame holds for all: half the time
    with rc_context({"animation.ffmpeg_path": program}), writer.saving(figure, str(path), dpi=80):
        for step in _evenly(len(trajectory), GIF_FRAMES):
            show(step)
            writer.grab_frame()


def small_picture(
    fields: Mapping[str, NDArray[Any]], times: NDArray[np.float64], extent: Sequence[tuple[float, float]]
) -> tuple[bytes, str]:
    """(PNG, what it shows) of fields (T, X) as maps of space and time, or (T, X, Y) at their last finite frame.

    Args:
        fields: by label, side by side; at most `FIELDS`.
        extent: (first, last) point per axis.

    Raises:
        UserError: ``picture_not_available`` without one finite value.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = dict(list(fields.items())[:FIELDS])
    flat = len(extent) == 1
    figure = Figure(figsize=(2.5 * len(shown), 2.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    finite = np.all([np.isfinite(values).reshape(len(times), -1).all(axis=1) for values in shown.values()], axis=0)
    last = int(np.flatnonzero(finite)[-1]) if finite.any() else 0
    for panel, (label, values) in zip(panels, shown.items(), strict=True):
        colours = _colours(*_limits(values))
        if flat:
            edges = np.linspace(*extent[0], values.shape[1] + 1)
            image = panel.pcolorfast(edges, time_edges(times), values, **colours)
        else:
            ends = (*extent[0], *extent[1])
            image = panel.imshow(values[last].T, origin="lower", extent=ends, interpolation="nearest", **colours)
        panel.set_title(label, fontsize="small")
        panel.tick_params(labelsize="x-small")
        panel.set_xlabel("x", fontsize="small")
        panel.set_ylabel("t" if flat else "y", fontsize="small")
        figure.colorbar(image, ax=panel, shrink=0.9).ax.tick_params(labelsize="x-small")
    written = BytesIO()
    figure.savefig(written, dpi=DPI, format="png")
    return written.getvalue(), "x to the right, t upwards" if flat else f"t = {times[last]:.4g}"


def _encoded(path: Path) -> "tuple[AbstractMovieWriter, str]":
    """The writer of an animation, by its suffix, and the program that it runs, if any.

    Raises:
        UserError: ``extra_missing``.
    """
    from matplotlib.animation import FFMpegWriter, PillowWriter

    if path.suffix.lower() == ".gif":
        return PillowWriter(fps=FRAMES_PER_SECOND), ""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ModuleNotFoundError:
        raise UserError(
            "extra_missing", "a video needs an encoder", got="no imageio_ffmpeg", hint="pip install 'ups-server[video]'"
        ) from None
    # Even numbers of pixels, and colours that every player knows.
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
    writer = FFMpegWriter(fps=FRAMES_PER_SECOND, codec="h264", extra_args=even)
    return writer, get_ffmpeg_exe()


def _name(figure: "Figure", model: str | None) -> None:
    """Puts the model before the title."""
    if model is not None:
        figure.suptitle(f"{model}: {figure.get_suptitle()}")


def _ndim(trajectory: Trajectory) -> int:
    ndim = trajectory.grid.ndim
    if ndim > 2:
        raise UserError("picture_not_available", "only 1-D and 2-D states can be drawn", got=f"{ndim}-D")
    return ndim


def _figure(
    width: float, height: float, trajectory: Trajectory, equation: Family
) -> tuple["Figure", "SubFigure", "SubFigure"]:
    """A figure, its part for the fields, `height` high, and the one below it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height + DIAGNOSTICS), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(trajectory, equation))
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, DIAGNOSTICS))[:, 0]
    return figure, upper, lower


def _title(trajectory: Trajectory, equation: Family) -> str:
    """Name and coefficients; of many coefficients those that are not zero, in lines that fit."""
    given = trajectory.coefficients
    shown = {name: value for name, value in given.items() if value or len(given) <= FEW}
    numbers = ", ".join(f"{name} = {value:g}" for name, value in shown.items())
    return textwrap.fill(f"{equation.name}  {numbers}".strip(), TITLE)


def draw_diagnostics(
    figure: "SubFigure", trajectory: Trajectory, equation: Family, animated: bool = False
) -> Callable[[int], None]:
    """Power spectra of the fields, and what is conserved over time; returns what moves both to another step.

    Not animated, the spectra are those of the first and the last finite step.
    """
    finite = np.isfinite(trajectory.values).reshape(len(trajectory), -1).all(axis=1)
    last = int(np.flatnonzero(finite)[-1]) if finite.any() else 0
    spectral, means = figure.subplots(1, 2)
    steps = np.arange(len(trajectory)) if animated else np.unique([0, last])
    with np.errstate(over="ignore", invalid="ignore"):
        spectra = power_spectrum(trajectory.values[None, steps], trajectory.boundary)[0]
    largest = np.nanmax(spectra[:, 1:], initial=0.0, where=np.isfinite(spectra[:, 1:])) or 1.0
    # What lies below the panel lies there, not at minus infinity.
    spectra = np.maximum(spectra, 1e-3 * RESOLVED * largest)
    colours = [f"C{index}" for index in range(len(equation.fields))]
    waves = np.arange(1, spectra.shape[1])
    lines = []
    for index, (entry, colour) in enumerate(zip(equation.fields, colours, strict=True)):
        spectral.plot(waves, spectra[0, 1:, index], color=colour, linestyle=":", linewidth=1.0)
        lines.append(spectral.plot(waves, spectra[-1, 1:, index], color=colour, label=entry.name)[0])
    spectral.set(
        xscale="log", yscale="log", ylim=(largest * RESOLVED, 3.0 * largest), xlabel="cycles per box", ylabel="power"
    )
    # Plain text and few ticks: most of the time of an animation goes into labels.
    for axis in (spectral.xaxis, spectral.yaxis):
        axis.set_major_formatter("{x:.0e}" if axis is spectral.yaxis else "{x:.0f}")
    spectral.minorticks_off()
    moment = "now" if animated else f"t = {trajectory.times[last]:.4g}"
    spectral.set_title(f"spectra, dotted: t = {trajectory.times[0]:.4g}, drawn: {moment}", fontsize="medium")
    spectral.legend(fontsize="small")
    hand = _draw_means(means, trajectory, equation)

    def follow(step: int) -> None:
        for index, line in enumerate(lines):
            line.set_ydata(spectra[step, 1:, index])
        hand.set_xdata([trajectory.times[step]] * 2)

    hand.set_visible(animated)
    return follow


def _draw_means(panel: "Axes", trajectory: Trajectory, equation: Family) -> "Line2D":
    """How far conserved means have drifted, or every field's mean where nothing is conserved.

    Returns the line that can mark a time.
    """
    values, times = trajectory.values, trajectory.times
    with np.errstate(over="ignore", invalid="ignore"):
        means = equation.conserved_means(values)
        if means:
            for name, mean in means.items():
                panel.plot(times, mean - mean[0], label=f"{name}, {mean[0]:.4g} at start")
            panel.set_title("conserved: drift of the mean", fontsize="medium")
        else:
            for index, entry in enumerate(equation.fields):
                space = tuple(range(1, values.ndim - 1))
                mean = values[..., index].mean(axis=space, dtype=np.float64)
                panel.plot(times, mean, label=_label(entry.name, entry.unit))
            panel.set_title("mean (nothing is conserved)", fontsize="medium")
    panel.set(xlabel=_label("t", equation.time_unit))
    panel.legend(fontsize="small")
    return panel.axvline(times[0], color="0.6", linewidth=1.0)


def _curves_and_map(trajectory: Trajectory, equation: Family) -> "Figure":
    fields = equation.fields
    figure, upper, lower = _figure(10, 3.4 * len(fields), trajectory, equation)
    panels = upper.subplots(len(fields), 2, squeeze=False)
    x, times = trajectory.grid.axes[0], trajectory.times
    for row, (curves, space_time) in enumerate(panels):
        values, label = trajectory.values[..., row], _label(fields[row].name, fields[row].unit)
        low, high = _limits(values)
        for step in _evenly(len(times), CURVES):
            curves.plot(x, values[step], color=_colour(step, len(times)), label=f"t = {times[step]:.4g}")
        curves.set(xlabel=_label("x", equation.length_unit), ylabel=label, ylim=_margin(low, high))
        curves.legend(fontsize="small")
        image = space_time.pcolorfast(np.linspace(*trajectory.grid.extent[0], len(x) + 1), time_edges(times), values,
                                      **_colours(low, high))  # fmt: skip
        space_time.set(xlabel=_label("x", equation.length_unit), ylabel=_label("t", equation.time_unit))
        upper.colorbar(image, ax=space_time, label=label)
    draw_diagnostics(lower, trajectory, equation)
    return figure


def _maps(trajectory: Trajectory, equation: Family) -> "Figure":
    fields, steps = equation.fields, _evenly(len(trajectory), MAPS)
    width = max(2.6 * len(steps) + 1, 8.0)
    figure, upper, lower = _figure(width, 2.6 * len(fields) + 0.6, trajectory, equation)
    panels = upper.subplots(len(fields), len(steps), squeeze=False, sharex=True, sharey=True)
    for row, entry in enumerate(fields):
        limits = _limits(trajectory.values[..., row])
        for panel, step in zip(panels[row], steps, strict=True):
            image = _map(panel, trajectory, equation, trajectory.values[step, ..., row], limits)
            if row == 0:
                panel.set_title(f"t = {trajectory.times[step]:.4g}", fontsize="medium")
            panel.label_outer()
        upper.colorbar(image, ax=panels[row].tolist(), label=_label(entry.name, entry.unit))
    draw_diagnostics(lower, trajectory, equation)
    return figure


def _map(
    panel: "Axes", trajectory: Trajectory, equation: Family, values: NDArray[Any], limits: tuple[float, float]
) -> Any:
    """Draws (X, Y) `values` with x to the right and y upwards."""
    (x_low, x_high), (y_low, y_high) = trajectory.grid.extent
    panel.set(xlabel=_label("x", equation.length_unit), ylabel=_label("y", equation.length_unit))
    return panel.imshow(
        values.T,
        origin="lower",
        extent=(x_low, x_high, y_low, y_high),
        **_colours(*limits),
        interpolation="nearest",
    )


def _animated_curves(trajectory: Trajectory, equation: Family) -> tuple["Figure", Callable[[int], None]]:
    fields = equation.fields
    figure, upper, lower = _figure(8, 2.6 * len(fields), trajectory, equation)
    panels = upper.subplots(len(fields), 1, squeeze=False)[:, 0]
    follow = draw_diagnostics(lower, trajectory, equation, animated=True)
    x, lines = trajectory.grid.axes[0], []
    for row, panel in enumerate(panels):
        values = trajectory.values[..., row]
        panel.plot(x, values[0], color="0.75", label=f"t = {trajectory.times[0]:.4g}")
        lines.append(panel.plot(x, values[0], color=_colour(0, 2))[0])
        panel.set(
            xlabel=_label("x", equation.length_unit),
            ylabel=_label(fields[row].name, fields[row].unit),
            ylim=_margin(*_limits(values)),
        )

    def show(step: int) -> None:
        for row, line in enumerate(lines):
            line.set_ydata(trajectory.values[step, ..., row])
        follow(step)
        panels[0].set_title(_clock(trajectory, step, equation), fontsize="medium")

    return figure, show


def _animated_maps(trajectory: Trajectory, equation: Family) -> tuple["Figure", Callable[[int], None]]:
    fields = equation.fields
    figure, upper, lower = _figure(max(3.8 * len(fields), 8.0), 3.8, trajectory, equation)
    panels = upper.subplots(1, len(fields), squeeze=False)[0]
    follow = draw_diagnostics(lower, trajectory, equation, animated=True)
    images = []
    for row, panel in enumerate(panels):
        values = trajectory.values[..., row]
        images.append(_map(panel, trajectory, equation, values[0], _limits(values)))
        upper.colorbar(images[-1], ax=panel, label=_label(fields[row].name, fields[row].unit))

    def show(step: int) -> None:
        for row, image in enumerate(images):
            image.set_data(trajectory.values[step, ..., row].T)
        follow(step)
        panels[0].set_title(_clock(trajectory, step, equation), fontsize="medium")

    return figure, show


def _clock(trajectory: Trajectory, step: int, equation: Family) -> str:
    unit = "" if equation.time_unit == "1" else f" {equation.time_unit}"
    return f"t = {trajectory.times[step]:.4g}{unit}"


def _label(name: str, unit: str) -> str:
    return name if unit == "1" else f"{name} ({unit})"


def _evenly(length: int, count: int) -> list[int]:
    """At most `count` indices into `length`, evenly spaced, first and last included."""
    return [int(i) for i in np.unique(np.linspace(0, length - 1, min(count, length)).round())]


def _colour(step: int, length: int) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    # The last tenth of viridis is too pale for a line on white.
    red, green, blue, alpha = colormaps[COLOUR_MAP](0.9 * step / max(length - 1, 1))
    return float(red), float(green), float(blue), float(alpha)


def _limits(values: NDArray[Any]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise UserError("picture_not_available", "the trajectory holds no finite value")
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _colours(low: float, high: float) -> dict[str, Any]:
    """Colour map and its ends, those of one that diverges as far from zero."""
    if low < 0 < high:
        most = max(-low, high)
        return {"cmap": DIVERGING_MAP, "vmin": -most, "vmax": most}
    return {"cmap": COLOUR_MAP, "vmin": low, "vmax": high}


def _margin(low: float, high: float) -> tuple[float, float]:
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def time_edges(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T + 1,) between the bands of the map: halfway from each frame to the next, and as far beyond the ends."""
    if len(times) == 1:
        return np.array([times[0] - 0.5, times[0] + 0.5])
    middles = (times[1:] + times[:-1]) / 2
    return np.concatenate([[2 * times[0] - middles[0]], middles, [2 * times[-1] - middles[-1]]])
