"""Trajectories on their way: what a solver knows of them between two times that somebody looks at them.

A solver often works on finer grids than it is asked on, and carries quantities that no field shows. Between two frames
it keeps all of that, so that looking at a state changes nothing: a rollout frame by frame and a solution of all times
at once are the same thing.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.grid import Array

Rows = NDArray[np.intp]


class Solution(ABC):
    """N trajectories of one family on one grid.

    Attributes:
        initial: (N, X..., C), which is what they show at the start.
        elapsed: the time since then that they have come to.
    """

    def __init__(self, initial: Array) -> None:
        self.initial = initial
        self.elapsed = 0.0

    @final
    def advance(self, elapsed: float) -> Array:
        """The states (N, X..., C) so long after the start: later than those asked for before, or the initial ones."""
        if elapsed == self.elapsed == 0.0:
            return self.initial
        if not elapsed > self.elapsed:
            raise ValueError(f"a solution at {self.elapsed:g} was asked for {elapsed:g}")
        states = self._advance(elapsed)
        self.elapsed = elapsed
        return states

    @final
    def restore(self, elapsed: float, saved: Array) -> None:
        """Goes to where a solution of the same problem was saved: from there the two give the same bits."""
        self._restore(elapsed, saved)
        self.elapsed = elapsed

    @abstractmethod
    def saved(self) -> Array:
        """(N, M): what going on from here takes beside the initial states."""

    @abstractmethod
    def _advance(self, elapsed: float) -> Array:
        """Goes on from `self.elapsed` and shows the states (N, X..., C)."""

    @abstractmethod
    def _restore(self, elapsed: float, saved: Array) -> None: ...


@final
class Exact(Solution):
    """A solution that is known at any time without the way there: `at` gives the states (N, X..., C)."""

    def __init__(self, initial: Array, at: Callable[[float], Array]) -> None:
        super().__init__(initial)
        self._at = at

    def saved(self) -> Array:
        return np.empty((len(self.initial), 0))

    def _advance(self, elapsed: float) -> Array:
        return self._at(elapsed)

    def _restore(self, elapsed: float, saved: Array) -> None:
        """The initial states are enough."""


class Stepped(Solution):
    """A solution in steps, each from the arrays that the last has left."""

    @abstractmethod
    def _carried(self) -> Sequence[Array]:
        """Those arrays, trajectories along the first axis; views, as what was saved is written into them."""

    @final
    def saved(self) -> Array:
        return np.concatenate([part.reshape(len(part), -1) for part in self._carried()], axis=1)

    @final
    def _restore(self, elapsed: float, saved: Array) -> None:
        # In place: the layout of an array in memory decides how numpy sums it up, hence the last bits.
        first = 0
        for part in self._carried():
            size = part[0].size
            part[...] = saved[:, first : first + size].reshape(part.shape)
            first += size


@final
class Grouped(Solution):
    """Trajectories in groups, each of which goes its own way.

    Args:
        groups: rows of `initial`, every one in one group.
        begin: makes the solution of such rows.
    """

    def __init__(self, initial: Array, groups: Sequence[Rows], begin: Callable[[Rows], Solution]) -> None:
        super().__init__(initial)
        self._groups = [(rows, begin(rows)) for rows in groups]

    def saved(self) -> Array:
        found = [(rows, part.saved()) for rows, part in self._groups]
        whole = np.zeros((len(self.initial), max((saved.shape[1] for _, saved in found), default=0)))
        for rows, saved in found:
            whole[rows, : saved.shape[1]] = saved
        return whole

    def _advance(self, elapsed: float) -> Array:
        states = np.empty_like(self.initial)
        for rows, part in self._groups:
            states[rows] = part.advance(elapsed)
        return states

    def _restore(self, elapsed: float, saved: Array) -> None:
        for rows, part in self._groups:
            part.restore(elapsed, saved[rows])


def in_groups(order: Rows, size: int) -> list[Rows]:
    """Rows in this order, so many to a group."""
    return [order[first : first + size] for first in range(0, len(order), size)]


def whole_steps(elapsed: float, step: float) -> tuple[int, float]:
    """How many whole steps this time holds, and what is left over: 0 where that is only rounding."""
    steps = elapsed / step
    whole = math.floor(steps + 1e-6)
    rest = steps - whole
    return whole, rest * step if rest > 1e-6 else 0.0


def at_times(solution: Solution, times: Array) -> Array:
    """The states (N, T, X..., C) at increasing `times`, of a solution that starts at the first."""
    frames = np.empty((len(solution.initial), len(times), *solution.initial.shape[1:]))
    for frame, elapsed in enumerate(times - times[0]):
        frames[:, frame] = solution.advance(float(elapsed))
    return frames
