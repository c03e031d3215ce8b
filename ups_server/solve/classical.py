"""The two solvers that need no training: persistence, the baseline of every score, and the reference methods."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from ups_server.errors import UserError
from ups_server.pde import Family, Grid, family
from ups_server.pde.family import Array
from ups_server.solve.solver import Frames, Problem, Session, Solver

CHUNK_VALUES = 2**22
"""Largest number of values handed to a reference solver at once."""


@final
class Persistence:
    """``u(t + dt) = u(t)``."""

    name = "persistence"

    def dt(self, family_id: str) -> float:
        """The step of the family.

        Raises:
            UserError: ``unknown_family``.
        """
        return family(family_id).dt

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> "PersistenceSession":
        """A rollout that stays at `initial` (B, X..., C)."""
        return PersistenceSession(initial)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames:
        """truth[:, :-1], as it is."""
        return truth[:, :-1]


@final
class PersistenceSession:
    def __init__(self, initial: Frames) -> None:
        self._state = initial

    def step(self) -> Frames:
        return self._state

    def saved(self) -> Frames:
        return self._state

    def restore(self, step: int, saved: Frames) -> None:
        self._state = saved


@final
class Numerical:
    """The family's reference solver, at the resolution of the problem."""

    name = "numerical"

    def dt(self, family_id: str) -> float:
        """The step of the family; the solver itself takes any.

        Raises:
            UserError: ``unknown_family``.
        """
        return family(family_id).dt

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        """A rollout of `initial` (B, X..., C) that keeps its full state in float64.

        Raises:
            UserError: ``unknown_family``, ``invalid_dt``.
        """
        equation = _Equation.of(problem, len(initial), static)
        state = initial.astype(np.float64)
        return SteppedSession(equation, state) if equation.family.full_state else RestartedSession(equation, state)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        """The reference solution dt after every frame of `truth` but the last; None where frames are not full states.

        Raises:
            UserError: ``unknown_family``, ``invalid_dt``.
        """
        equation = _Equation.of(problem, len(truth), static)
        if not equation.family.full_state:
            return None
        result = np.empty(truth[:, 1:].shape, dtype=np.float32)
        steps = truth.shape[1] - 1
        at_once = max(1, CHUNK_VALUES // truth[:, 0].size)
        for start in range(0, steps, at_once):
            chosen = slice(start, min(start + at_once, steps))
            given = truth[:, chosen]
            # Every frame is an initial state of its own.
            repeated = equation.repeat(given.shape[1])
            states = given.reshape(-1, *given.shape[2:]).astype(np.float64)
            result[:, chosen] = repeated.solve(states, 1)[:, 1].reshape(given.shape)
        return result


@dataclass(frozen=True)
class _Equation:
    """A family with the numbers of B problems: coefficients (B,), static (B, X..., S)."""

    family: Family
    grid: Grid
    dt: float
    coefficients: dict[str, Array]
    static: Array | None

    @classmethod
    def of(cls, problem: Problem, count: int, static: Frames | None) -> "_Equation":
        if not (np.isfinite(problem.dt) and problem.dt > 0):
            raise UserError("invalid_dt", "the time step must be positive", got=problem.dt)
        return cls(
            family(problem.family),
            problem.grid,
            problem.dt,
            problem.coefficient_arrays(count),
            None if static is None else static.astype(np.float64),
        )

    def repeat(self, times: int) -> "_Equation":
        """Each problem so many times in a row."""
        return replace(
            self,
            coefficients={name: np.repeat(values, times) for name, values in self.coefficients.items()},
            static=None if self.static is None else np.repeat(self.static, times, axis=0),
        )

    def solve(self, initial: Array, n_steps: int) -> Array:
        """(B, n_steps + 1, X..., C) from `initial` (B, X..., C), which is the first frame."""
        times = np.arange(n_steps + 1, dtype=np.float64) * self.dt
        return self.family.solve(initial, times, self.grid, self.coefficients, self.static)


@final
class SteppedSession:
    """Each step continues from the state of the last."""

    def __init__(self, equation: _Equation, initial: Array) -> None:
        self._equation = equation
        self._state = initial

    def step(self) -> Frames:
        self._state = self._equation.solve(self._state, 1)[:, 1]
        return self._state.astype(np.float32)

    def saved(self) -> Frames:
        """The bits of float64 (B, X..., C) as twice as many numbers."""
        return np.ascontiguousarray(self._state).view(np.float32)

    def restore(self, step: int, saved: Frames) -> None:
        self._state = saved.copy().view(np.float64)


@final
class RestartedSession:
    """A rollout of fields that leave out part of the state: solved from the start, over a horizon that doubles."""

    def __init__(self, equation: _Equation, initial: Array) -> None:
        self._equation = equation
        self._initial = initial
        self._frames: Frames = initial[:, None].astype(np.float32)
        self._done = 0

    def step(self) -> Frames:
        self._done += 1
        if self._done >= self._frames.shape[1]:
            self._frames = self._equation.solve(self._initial, 2 * self._done).astype(np.float32)
        return self._frames[:, self._done]

    def saved(self) -> Frames:
        """Nothing: the way from the start is solved again."""
        return np.empty((len(self._initial), 0), dtype=np.float32)

    def restore(self, step: int, saved: Frames) -> None:
        self._done = step


BUILTIN: dict[str, Callable[[], Solver]] = {Persistence.name: Persistence, Numerical.name: Numerical}
"""The solvers every installation has, by id."""
