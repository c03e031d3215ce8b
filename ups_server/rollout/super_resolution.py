"""Answers on finer grids than their states were given at: which way, from what, and what to expect of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ups_server.catalog import TABLE_FILE, ModelCard, invalid_model
from ups_server.errors import UserError
from ups_server.pde import Family, Grid
from ups_server.pde.resampling import resample
from ups_server.solvers.solver import Frames
from ups_server.specs import Method, SuperResolution


@dataclass(frozen=True)
class Refinement:
    """A rollout whose states are known on `coarse` and asked for on `fine`, both on the family's own box.

    Attributes:
        initial, static: on `fine`, what the coarse points show.
        summary: what the answer says about it.
    """

    method: Method
    coarse: Grid
    fine: Grid
    initial: Frames
    static: Frames | None
    summary: SuperResolution

    @property
    def interpolates(self) -> bool:
        return self.method is Method.INTERPOLATION


def refinement(
    points: tuple[int, ...],
    asked: Method | None,
    card: ModelCard,
    equation: Family,
    coefficients: Mapping[str, float | Sequence[float]],
    coarse: Grid,
    initial: Frames,
    static: Frames | None,
) -> Refinement:
    """Of states on `coarse` to so many points per axis, by the method that is asked for or the one to choose.

    Raises:
        UserError: ``output_resolution_mismatch``.
    """
    if len(points) != coarse.ndim or any(out < given for out, given in zip(points, coarse.n, strict=True)):
        raise UserError(
            "output_resolution_mismatch",
            "output_resolution needs at least the points of the state along every axis",
            got=points,
            expected=f"{coarse.ndim} number(s), at least {coarse.n}",
        )
    fine = Grid(points, coarse.extent)
    method, reason = (asked, "asked for") if asked else chosen_method(card, equation, coefficients)
    summary = SuperResolution(
        method=method,
        reason=reason,
        given=list(coarse.n),
        output=list(points),
        observed_cycles=[n // 2 for n in coarse.n],
        explained=explained(method, card.id, coarse.n, points),
    )
    boundary = equation.boundary
    fixed = None if static is None else resample(static, coarse, fine, boundary)
    return Refinement(method, coarse, fine, resample(initial, coarse, fine, boundary), fixed, summary)


def chosen_method(
    card: ModelCard, equation: Family, coefficients: Mapping[str, float | Sequence[float]]
) -> tuple[Method, str]:
    """Resolution-free where it was measured to be at least as good as interpolation on every finer grid.

    The measured equation whose coefficients are nearest, by their ratio, decides; of coefficients by state, any of them
    for which resolution-free was worse.
    """
    if card.kind == "builtin":
        return Method.RESOLUTION_FREE, f"{card.id} runs on any grid"
    if card.compared is None:
        return Method.INTERPOLATION, f"the two methods were not compared for {card.id}"
    try:
        found = [_measured(card.compared, equation, state) for state in _by_state(coefficients)]
    except (LookupError, TypeError, ValueError, AttributeError, UserError) as error:
        raise invalid_model(Path(card.source) / TABLE_FILE, error) from error
    compared = [entry for entry in found if entry is not None]
    if not compared:
        return Method.INTERPOLATION, f"the two methods were not compared for {equation.id} with {card.id}"
    nearest, better = min(compared, key=lambda entry: entry[1])
    if better:
        return Method.RESOLUTION_FREE, f"it was measured to be at least as good as interpolation for {nearest}"
    return Method.INTERPOLATION, f"resolution-free was measured to be worse for {nearest} on some finer grid"


def _by_state(coefficients: Mapping[str, float | Sequence[float]]) -> list[dict[str, float]]:
    """The coefficients of each state; of all of them at once, where they have the same."""
    columns = np.broadcast_arrays(*(np.ravel(np.asarray(value, np.float64)) for value in coefficients.values()))
    rows = zip(*(column.tolist() for column in columns), strict=True) if columns else [()]
    return [dict(zip(coefficients, row, strict=True)) for row in dict.fromkeys(rows)]


def _measured(table: Any, equation: Family, coefficients: Mapping[str, float]) -> tuple[str, bool] | None:
    """The nearest equation of a table, and whether resolution-free was at least as good there on every finer grid."""
    asked = [entry for entry in table["asked"] if "interpolated" in entry["answers"]]
    own = {entry["equation"] for entry in asked if entry["equation"].split()[0] == equation.id}
    if not own:
        return None
    nearest = min(sorted(own), key=lambda label: _distance(coefficients, _measured_at(equation, label)))
    return nearest, all(
        entry["answers"]["observed coarsely"][kind] <= entry["answers"]["interpolated"][kind]
        for entry in asked
        if entry["equation"] == nearest
        for kind in ("one_step", "rollout")
    )


def _measured_at(equation: Family, label: str) -> dict[str, float]:
    """The coefficients of a line of the table, such as "burgers nu=0.01"."""
    _, *given = label.split()
    return equation.complete({name: float(value) for name, value in (part.split("=") for part in given)})


def _distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The largest logarithm of a ratio of coefficients, or difference where one of the two is not positive."""
    pairs = [(value, other[name]) for name, value in one.items()]
    return max((abs(math.log(a / b)) if min(a, b) > 0 else abs(a - b) for a, b in pairs), default=0.0)


def explained(method: Method, model: str, given: Sequence[int], output: Sequence[int]) -> list[str]:
    """What of the detail on the fine grid can be had, in sentences."""
    size, finer = " x ".join(map(str, given)), " x ".join(map(str, output))
    waves = " x ".join(str(n // 2) for n in given)
    lost = (
        f"The state was given at {size} points, which tell waves of up to {waves} cycles per box. Shorter ones that it "
        "may have had were not observed, and no method brings them back."
    )
    if method is Method.INTERPOLATION:
        own = (
            f"{model} ran at these points, and its answer was interpolated to {finer}: it is smoother there, not more "
            "detailed. A front thinner than a cell of the given grid stays as wide as that cell."
        )
    else:
        own = (
            f"{model} itself ran at {finer} points, from the interpolated state. Shorter waves in the answer are those "
            "that it makes out of the observed ones, such as a front that steepens; they are its prediction, and no "
            "detail of the given state."
        )
    return [lost, own]
