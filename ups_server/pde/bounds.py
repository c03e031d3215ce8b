"""What no solution of an equation does, whatever its discretisation: bounds that its initial state implies.

A bound limits one measure of one field of a state (X...): the least or the greatest value, the mean, or the root mean
square. An answer counts as beyond it from `SLACK` times the bound's scale on: approximate solutions overshoot a little
(a step sampled on a grid by 14 % of its height between the points, where it is moved as a sum of waves).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.grid import Array, Floats

Measure = Literal["least", "greatest", "mean", "rms"]

SLACK = 0.2
"""How far beyond a bound an answer may be, in units of the bound's scale."""


@dataclass(frozen=True)
class Bound:
    """One bound of each of N states.

    Attributes:
        field: index of the field.
        limit: (N,): for `least` the smallest, else the largest value of the measure.
        scale: (N,): what errors of this field are measured in.
        reason: the law behind it, in words.
    """

    field: int
    measure: Measure
    limit: Array
    scale: Array
    reason: str


def measured(measure: Measure, values: Floats) -> Array:
    """The measure (N,) of one field of N states (N, X...)."""
    space = tuple(range(1, values.ndim))
    with np.errstate(all="ignore"):
        match measure:
            case "least":
                found = values.min(space)
            case "greatest":
                found = values.max(space)
            case "mean":
                found = values.mean(space, dtype=np.float64)
            case "rms":
                found = np.sqrt(np.square(values, dtype=np.float64).mean(space))
    return np.asarray(found, dtype=np.float64)


def exceeds(measure: Measure, found: Array, limit: Array) -> NDArray[np.bool_]:
    """(N,): is the measure found beyond its limit?"""
    return found < limit if measure == "least" else found > limit


def between(field: int, low: Array, high: Array, reason: str) -> list[Bound]:
    """Values from `low` to `high`, each (N,), where those are finite."""
    with np.errstate(all="ignore"):
        size = 0.5 * np.maximum(np.abs(low), np.abs(high))
        scale = np.where(np.isfinite(high - low), np.maximum(high - low, size), size)
    ends: Sequence[tuple[Measure, Array]] = (("least", low), ("greatest", high))
    return [Bound(field, measure, end, scale, reason) for measure, end in ends if np.isfinite(end).any()]


def at_most(field: int, measure: Measure, limit: Array, reason: str) -> Bound:
    """A mean or a root mean square that is at most `limit` (N,)."""
    return Bound(field, measure, limit, np.abs(limit), reason)


def extremes(initial: Floats, field: int) -> tuple[Array, Array]:
    """Least and greatest value (N,) of a field of states (N, X..., C)."""
    values = initial[..., field]
    return measured("least", values), measured("greatest", values)


def positive(initial: Floats, field: int) -> Bound:
    """A field stays positive where it started so."""
    low, high = extremes(initial, field)
    return Bound(field, "least", np.minimum(low, 0.0), np.maximum(np.abs(low), high), "it is positive in nature")
