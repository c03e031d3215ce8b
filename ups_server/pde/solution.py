"""Trajectories on their way: what a solver knows of them between two times that somebody looks at them.

A solver often works on finer grids than it is asked on, and carries quantities that no field shows. Between two frames
it keeps all of that, so that looking at a state changes nothing: a rollout frame by frame and a solution of all times
at once are the same thing.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde.grid import Array

logger = logging.getLogger("ups_server.pde")

Rows = NDArray[np.intp]

FAILURES = (UserError, ArithmeticError, ValueError, RuntimeError)
"""What a solver raises at a state that it cannot go on from: what it objects to, or what comes of numbers too large."""


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


@final
class Independent(Solution):
    """Trajectories that go together for as long as all go well; what fails ends alone.

    A row that is not finite, or at which the solver fails, is not a number from there on and computed no more. Where an
    advance shows such a row it is made again in halves, down to single rows: the others get what they get without it.

    Args:
        sound: (N,): is all that is given of a row finite?
        begin: makes the solution of such rows.

    Attributes:
        refused: why, of each row at which the solver failed.

    Raises:
        UserError: and whatever else the solver raises, here and from `advance`, where it fails at all rows at once.
    """

    def __init__(self, initial: Array, sound: NDArray[np.bool_], begin: Callable[[Rows], Solution]) -> None:
        super().__init__(initial)
        self.refused: dict[int, UserError] = {}
        self._begin = begin
        self._parts: list[tuple[Rows, Solution]] = []
        self._attempt(lambda: self._begun(np.flatnonzero(sound)))

    def saved(self) -> Array:
        """Of each row the number of its part, from one on, before what the part saves."""
        found = [(rows, part.saved()) for rows, part in self._parts]
        whole = np.zeros((len(self.initial), 1 + max((saved.shape[1] for _, saved in found), default=0)))
        for number, (rows, saved) in enumerate(found, start=1):
            whole[rows, 0] = number
            whole[rows, 1 : 1 + saved.shape[1]] = saved
        return whole

    def _restore(self, elapsed: float, saved: Array) -> None:
        # What has ended may have been overwritten, with anything that is no such number.
        number = saved[:, 0]
        parts = []
        for own in range(1, len(saved) + 1):
            rows = np.flatnonzero(number == own)
            if rows.size:
                part = next((part for known, part in self._parts if np.array_equal(known, rows)), None)
                parts.append((rows, part or self._begin(rows)))
                parts[-1][1].restore(elapsed, saved[rows, 1:])
        if not parts:
            raise ValueError("this was not saved from a solution that goes on")
        self._parts = parts

    def _advance(self, elapsed: float) -> Array:
        states = np.full(self.initial.shape, np.nan)

        def go() -> list[tuple[Rows, Solution]]:
            return [piece for rows, part in self._parts for piece in self._gone(rows, part, elapsed, states)]

        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self._attempt(go)
        return states

    def _attempt(self, make: Callable[[], list[tuple[Rows, Solution]]]) -> None:
        """Makes the parts anew; raises what the solver did where it fails at all rows."""
        self._failures: list[Exception] = []
        self._parts = make()
        if len(self._failures) == len(self.initial):
            raise self._failures[0]

    def _begun(self, rows: Rows) -> list[tuple[Rows, Solution]]:
        """Solutions of these rows, as few as can be."""
        if not rows.size:
            return []
        try:
            return [(rows, self._begin(rows))]
        except FAILURES as error:
            if len(rows) == 1:
                self._refuse(rows, error)
                return []
        return [piece for half in np.array_split(rows, 2) for piece in self._begun(half)]

    def _gone(self, rows: Rows, part: Solution, elapsed: float, states: Array) -> list[tuple[Rows, Solution]]:
        """Advances a part and writes its states; what it goes on as."""
        place = part.saved() if len(rows) > 1 else None
        try:
            found = part.advance(elapsed)
        except FAILURES as error:
            if place is None:
                self._refuse(rows, error)
                return []
        else:
            if np.isfinite(found).all():
                states[rows] = found
                return [(rows, part)]
            if place is None:
                return []
        pieces = []
        for chosen in np.array_split(np.arange(len(rows)), 2):
            half = self._begin(rows[chosen])
            if self.elapsed:
                half.restore(self.elapsed, place[chosen])
            pieces += self._gone(rows[chosen], half, elapsed, states)
        return pieces

    def _refuse(self, rows: Rows, error: Exception) -> None:
        self._failures.append(error)
        if not isinstance(error, UserError):
            logger.warning("a solver failed at one state", exc_info=error)
            error = UserError("not_solved", "the solver failed at this state", got=f"{type(error).__name__}: {error}")
        self.refused[int(rows[0])] = error


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
