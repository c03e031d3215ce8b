"""What to know before trusting an answer: where a request, or a state on the way, leaves the model's training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.catalog import FamilySupport, ModelCard, Range, SeenStates
from ups_server.pde import Family, Grid, families
from ups_server.pde.metrics import error_moments, nrmse_trajectory
from ups_server.solvers.limits import Ended
from ups_server.solvers.solver import Frames
from ups_server.specs import Flag

OUTSIDE = (
    "coefficient_outside_trained_range",
    "resolution_differs_from_training",
    "state_outside_trained_range",
    "state_far_from_training",
    "state_left_trained_range",
    "horizon_beyond_training",
)
"""Codes of flags that say: outside of the training."""

UNRESOLVED = 0.01
"""Relative difference between a state and what its points show of it that is worth a flag."""
SLAB = 2**18
"""Values whose distances are computed at a time: those of a large state need not all be in memory."""
FAR = 10.0
"""Root mean square distance from the training states in units of their spread that is called far. By Markov's
inequality at most one in a hundred training states lies there: the mean of the squared distance is one."""


def flag(code: str, message: str, **details: Any) -> Flag:
    return Flag.model_validate({"code": code, "message": message, **details})


def known_flags(
    equation: Family,
    card: ModelCard,
    support: FamilySupport,
    untrained: Mapping[str, tuple[float | list[float], Range]],
    grid: Grid,
    initial: Frames,
) -> list[Flag]:
    """What is known before the first step, of `initial` (B, X..., C) on the family's own box.

    Args:
        untrained: coefficients that leave what the model was trained on, and that.
    """
    flags = [_coefficient_flag(card, name, given, trained) for name, (given, trained) in untrained.items()]
    trained_at = card.resolution if support.statistics is None else support.statistics.n
    if trained_at is not None and any(points != trained_at for points in grid.n):
        flags.append(
            flag(
                "resolution_differs_from_training",
                f"{card.id} was trained on {equation.id} at {trained_at} points per axis",
                n=list(grid.n),
                trained=trained_at,
            )
        )
    flags += _unusual_values(equation, card, support, initial)
    flags += _far_states(equation, card, support, initial)
    negative = [
        field.name for index, field in enumerate(equation.fields) if field.positive and initial[..., index].min() < 0
    ]
    if negative:
        flags.append(flag("negative_initial_condition", "these fields are positive in nature", fields=negative))
    return flags


def resolving_factor(equation: Family, grid: Grid) -> int:
    """So many times its points show the states that a numerical solver of the equation is made for."""
    return 1 if equation.grid_bound else math.ceil(equation.reference_points / min(grid.n))


def unresolved_flags(equation: Family, grid: Grid, initial: Frames, whole: Frames | None) -> list[Flag]:
    """A flag where the points of states (B, X..., C) do not show all of them to a solver that is exact at any point.

    By how much is measured: for a drawn state against the same at more points; for a given one, from what every second
    of its points would show of it.

    Args:
        whole: the states drawn at `resolving_factor` times the points; None where they are given.
    """
    factor = resolving_factor(equation, grid)
    if factor == 1:
        return []
    if whole is not None:
        interpolated = equation.refine(initial.astype(np.float64), grid, factor)
        what = f"points between the {' x '.join(map(str, grid.n))} of the request would show it"
    elif any(cells % 2 for cells in grid.cells):
        return []
    else:
        half = grid.subsample(2)
        _, places = half.refined(2)
        whole = initial
        interpolated = equation.refine(initial[(slice(None), *places)].astype(np.float64), half, 2)
        what = "every second of its points would show it half as well"
    apart = float(nrmse_trajectory(error_moments(interpolated[:, None], whole[:, None])).max())
    if not apart > UNRESOLVED:
        return []
    return [
        flag(
            "state_not_resolved",
            f"the initial state is finer than its grid: {what}, {100 * apart:.2g} % away; the answer "
            "may be wrong by as much",
            got=apart,
            expected=f"at most {UNRESOLVED:g}",
        )
    ]


def horizon_flags(equation: Family, card: ModelCard, end: float, n_steps: int, save_every: int) -> list[Flag]:
    """A flag for a rollout longer than the trajectories of the training, and for one whose last steps are not kept.

    Args:
        end: time of the last step that is kept.
    """
    flags = []
    known = families().get(equation.id)
    if known is not None and card.kind == "learned" and end > known.t_final * (1.0 + 1e-9) and known.t_final > 0:
        distance = end / known.t_final - 1.0
        flags.append(
            flag(
                "horizon_beyond_training",
                f"{card.id} was trained on trajectories to t = {known.t_final:g}; this one goes to t = {end:g}, "
                f"{distance:.3g} times their length beyond",
                got=end,
                trained=known.t_final,
                distance=distance,
            )
        )
    left = n_steps % save_every
    if left:
        flags.append(
            flag(
                "last_steps_not_kept",
                f"save_every {save_every} does not divide {n_steps} steps: the answer ends at step {n_steps - left}",
                n_steps=n_steps,
                save_every=save_every,
                last_step=n_steps - left,
            )
        )
    return flags


def ended_flag(event: Ended, equation: Family, of: str, dt: float, scale: Sequence[float]) -> Flag:
    """The flag of states that ended early.

    Args:
        of: these states in words; empty where there is but one.
        scale: of each field, what turns its values into those of the request's box.
    """
    names, unit = [equation.fields[index].name for index in event.fields], scale[event.fields[0]]
    what = event.words if event.reason == "not_finite" else f"left its bounds ({event.words})"

    def in_unit(measure: float | None) -> float | None:
        return None if measure is None or not math.isfinite(measure * unit) else measure * unit

    return flag(
        "blow_up",
        f"{', '.join(names)}{f' of {of}' if of else ''} {what} at t = {event.step * dt:g}; the answer ends before",
        reason=event.reason,
        step=event.step,
        time=event.step * dt,
        fields=names,
        states=list(event.states),
        got=in_unit(event.got),
        limit=in_unit(event.limit),
    )


def _coefficient_flag(card: ModelCard, name: str, given: float | list[float], trained: Range) -> Flag:
    """How far outside: in units of the width of the range, logarithmic where its ends and the value are positive.

    Of values by state it is that of the one farthest outside; `states` are all that are outside.
    """
    low, high = trained.low, trained.high

    def away(value: float) -> float | None:
        return None if low is None or high is None else _distance(value, low, high)

    outside = {state: value for state, value in enumerate(np.ravel(given).tolist()) if not trained.contains(value)}
    value = max(outside.values(), key=lambda value: (away(value) or 0.0, abs(value)))
    distance = away(value)
    words = "" if distance is None else f", by {distance:.3g} times its width"
    if distance is not None and low is not None and low > 0 and value > 0:
        words += " on a logarithmic scale"
    ends = f"{'-inf' if low is None else f'{low:.4g}'} to {'inf' if high is None else f'{high:.4g}'}"
    return flag(
        "coefficient_outside_trained_range",
        f"{name} = {value:g} is outside the range {card.id} was trained on, {ends}{words}",
        coefficient=name,
        value=value,
        low=low,
        high=high,
        distance=distance,
        **({"states": list(outside)} if isinstance(given, list) else {}),
    )


def _distance(value: float, low: float, high: float) -> float | None:
    """From a range, in units of its width; None where it has none."""
    if low > 0 and value > 0:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return beyond(value, value, low, high)


def beyond(least: float, greatest: float, low: float, high: float) -> float | None:
    """How far values from `least` to `greatest` leave a range, in units of its width; None where that is not finite."""
    if high <= low:
        return None
    distance = max(low - least, greatest - high, 0.0) / (high - low)
    return distance if math.isfinite(distance) else None


def outside_values(seen: SeenStates | None, values: Frames) -> list[tuple[int, float, float]]:
    """(field, lowest, highest) of states (B, X..., C) where those leave the range of the training data."""
    if seen is None or len(seen.min) != values.shape[-1]:
        return []
    space = tuple(range(values.ndim - 1))
    ends = zip(values.min(space).tolist(), values.max(space).tolist(), strict=True)
    return [(i, low, high) for i, (low, high) in enumerate(ends) if low < seen.min[i] or high > seen.max[i]]


def departures(
    seen: SeenStates | None, relative: NDArray[np.bool_], start: Frames, values: Frames
) -> NDArray[np.float64] | None:
    """Root mean square distance (B, C) of states (B, X..., C) from the training mean in units of the spread.

    Args:
        relative: fields (C,) whose figures are in units of the mean of the first state, `start` (B, X..., C).
    """
    if seen is None or len(seen.std) != values.shape[-1]:
        return None
    space = tuple(range(1, values.ndim - 1))
    level = np.where(relative, start.mean(space, keepdims=True, dtype=np.float64), 1.0)
    points = values.shape[1]
    at_once = max(1, SLAB // (values.size // points))
    total = np.zeros((len(values), values.shape[-1]))
    with np.errstate(all="ignore"):
        for first in range(0, points, at_once):
            distance = (values[:, first : first + at_once] / level - np.asarray(seen.mean)) / np.asarray(seen.std)
            total += np.square(distance).sum(space)
        result: NDArray[np.float64] = np.sqrt(total / np.prod(values.shape[1:-1]))
    return result


def relative_fields(equation: Family, seen: SeenStates | None) -> NDArray[np.bool_]:
    """(C,): are the statistics of a field in units of its level?"""
    return np.array([seen is not None and field.name in seen.relative for field in equation.fields])


def left_training(equation: Family, card: ModelCard, seen: SeenStates, outside: tuple[int, float, float], step: int,
                  time: float) -> Flag:  # fmt: skip
    """The flag of a state on the way whose values leave those of the training."""
    index, low, high = outside
    name = equation.fields[index].name
    return flag(
        "state_left_trained_range",
        f"the field {name} leaves the values {card.id} was trained on at t = {time:g}",
        field=name,
        step=step,
        time=time,
        got=[low, high],
        trained=[seen.min[index], seen.max[index]],
        distance=beyond(low, high, seen.min[index], seen.max[index]),
    )


def _unusual_values(equation: Family, card: ModelCard, support: FamilySupport, initial: Frames) -> list[Flag]:
    """A flag for each field whose initial values leave the range of the training data."""
    seen = support.statistics
    return [
        flag(
            "state_outside_trained_range",
            f"the initial {equation.fields[index].name} leaves the values {card.id} was trained on",
            field=equation.fields[index].name,
            got=[low, high],
            trained=[seen.min[index], seen.max[index]],
            distance=beyond(low, high, seen.min[index], seen.max[index]),
        )
        for index, low, high in outside_values(seen, initial)
        if seen is not None
    ]


def _far_states(equation: Family, card: ModelCard, support: FamilySupport, initial: Frames) -> list[Flag]:
    """A flag for each field whose initial states are unlike the training data as a whole."""
    found = departures(support.statistics, relative_fields(equation, support.statistics), initial, initial)
    largest = [] if found is None else found.max(0).tolist()
    return [
        flag(
            "state_far_from_training",
            f"{field.name} of the initial condition lies {distance:.3g} standard deviations from the states {card.id} "
            "was trained on",
            field=field.name,
            got=distance if np.isfinite(distance) else None,
            expected=f"at most {FAR:g}",
        )
        for field, distance in zip(equation.fields, largest, strict=False)
        if not distance <= FAR
    ]
