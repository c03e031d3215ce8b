"""Where a state of a rollout ends: at values that are not finite, beyond what its equation allows, far from training.

Each state of a batch ends by itself, and reads as NaN from there on; the others go on. Numerical solvers have no other
limits than finite numbers: between the points of a grid a solution may be larger than at them. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ups_server.catalog import SeenStates
from ups_server.pde import Family
from ups_server.pde.bounds import SLACK, Measure, exceeds, extremes, measured
from ups_server.pde.grid import Array
from ups_server.solvers.solver import Frames

Reason = Literal["not_finite", "outside_bounds", "outside_trained_range"]

NOT_FINITE = "stopped being finite"

WIDTHS = 1.0
"""How far a state may leave the values of the training (and of its own start), in units of their width."""
SMALLEST = 0.02
"""Least scale of a bound in units of the width of the training: errors of a model do not vanish with the state."""


@dataclass(frozen=True)
class StateLimit:
    """A measure of one field that ends a state where it is beyond `values`: one number, or one for each state."""

    field: int
    measure: Measure
    values: tuple[float, ...]
    reason: Reason
    words: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "StateLimit":
        return cls(**{**document, "values": tuple(document["values"])})


@dataclass(frozen=True)
class Ended:
    """These states ended at a step: theirs are no frames from it on.

    Attributes:
        fields, states: indices.
        words: what they left, or that they are not finite, and why, where it is known.
        got, limit: of the first of these states, the measure and what it may be; None where it is not finite.
    """

    step: int
    fields: tuple[int, ...]
    states: tuple[int, ...]
    reason: Reason = "not_finite"
    words: str = NOT_FINITE
    got: float | None = None
    limit: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Ended":
        lists = {name: tuple(document[name]) for name in ("fields", "states")}
        return cls(**{**document, **lists})


def state_limits(
    equation: Family,
    seen: SeenStates | None,
    coefficients: Mapping[str, float | Sequence[float]],
    initial: Frames,
    static: Frames | None,
) -> tuple[StateLimit, ...]:
    """Of states (B, X..., C) on the family's own box; the training counts where it is known."""
    known = seen is not None and len(seen.min) == len(equation.fields)
    width = [high - low for low, high in zip(seen.min, seen.max, strict=True)] if seen is not None and known else None
    limits = []
    with np.errstate(all="ignore"):
        for bound in equation.bounds(initial, _arrays(coefficients), static):
            least = SMALLEST * width[bound.field] if width is not None else 0.0
            slack = SLACK * np.maximum(bound.scale, least)
            limit = bound.limit - slack if bound.measure == "least" else bound.limit + slack
            limits.append(_limit(bound.field, bound.measure, limit, "outside_bounds", bound.reason))
        if seen is not None and width is not None:
            for index in range(len(width)):
                limits += _trained(index, seen.min[index], seen.max[index], initial)
    return tuple(limits)


def _arrays(coefficients: Mapping[str, float | Sequence[float]]) -> dict[str, Array]:
    return {name: np.asarray(value, dtype=np.float64) for name, value in coefficients.items()}


def _trained(index: int, least: float, greatest: float, initial: Frames) -> list[StateLimit]:
    """The values of the training, or those the state starts with, and their width on either side."""
    low, high = extremes(initial, index)
    low, high = np.minimum(low, least), np.maximum(high, greatest)
    room = WIDTHS * (high - low)
    words = f"values of the training, {least:.4g} to {greatest:.4g}, left by more than their width"
    return [
        _limit(index, "least", low - room, "outside_trained_range", words),
        _limit(index, "greatest", high + room, "outside_trained_range", words),
    ]


def _limit(field: int, measure: Measure, values: Array, reason: Reason, words: str) -> StateLimit:
    same = bool((values == values[0]).all())
    return StateLimit(field, measure, tuple(values[:1].tolist() if same else values.tolist()), reason, words)


class Survivors:
    """The states of a rollout, as long as they last.

    Attributes:
        alive: (B,), those that go on.
    """

    def __init__(self, limits: Sequence[StateLimit], rows: int) -> None:
        self.alive: NDArray[np.bool_] = np.ones(rows, dtype=bool)
        self._limits = [(limit, np.asarray(limit.values)) for limit in limits]

    def end(self, states: Sequence[int]) -> None:
        """These ended before."""
        self.alive[list(states)] = False

    def check(self, step: int, values: Frames, first: int = 0, why: Mapping[int, str] | None = None) -> list[Ended]:
        """States (N, X..., C) after a step, the first of them number `first`: which of those that went on end here.

        Args:
            why: by row of `values`, why it is not finite, where its solver knows.
        """
        rows = slice(first, first + len(values))
        going = self.alive[rows].copy()
        finite = np.isfinite(values)
        found = []
        whole = finite.all(axis=tuple(range(1, values.ndim)))
        broken = going & ~whole
        words = np.array([(why or {}).get(row, NOT_FINITE) for row in range(len(values))])
        for said in dict.fromkeys(words[broken].tolist()):
            alike = broken & (words == said)
            fields = np.flatnonzero(~finite[alike].all(axis=tuple(range(values.ndim - 1))))
            found.append(Ended(step, tuple(fields.tolist()), _numbers(alike, first), words=said))
        going &= whole
        for limit, given in self._limits:
            if not going.any():
                break
            bound = given if len(given) == 1 else given[rows]
            measure = measured(limit.measure, values[..., limit.field])
            beyond = going & exceeds(limit.measure, measure, bound)
            if beyond.any():
                row = int(beyond.argmax())
                at = float(bound[0] if len(bound) == 1 else bound[row])
                states, got = _numbers(beyond, first), float(measure[row])
                found.append(Ended(step, (limit.field,), states, limit.reason, limit.words, got, at))
                going &= ~beyond
        self.alive[rows] &= going
        return found

    def masked(self, values: Frames, first: int = 0) -> Frames:
        """The states (N, X..., C), or what goes on from them, with NaN for those that have ended."""
        alive = self.alive[first : first + len(values)]
        if alive.all():
            return values
        masked = values.copy()
        masked[~alive] = np.nan
        return masked


def _numbers(chosen: NDArray[np.bool_], first: int) -> tuple[int, ...]:
    return tuple((first + np.flatnonzero(chosen)).tolist())
