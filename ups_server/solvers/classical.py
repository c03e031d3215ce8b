"""The two solvers that need no training: persistence, the baseline of every score, and the reference methods."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from ups_server.errors import UserError
from ups_server.pde import Family, Grid, family
from ups_server.pde.grid import Array
from ups_server.pde.solution import Independent, Rows, Solution
from ups_server.solvers.limits import NOT_FINITE
from ups_server.solvers.solver import Frames, Problem, Session, Solver

CHUNK_VALUES = 2**18
"""Largest number of values handed to a reference solver at once, which may work on many times as many."""


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
        """A rollout of `initial` (B, X..., C) that keeps all that the solver knows, in float64.

        Raises:
            UserError: ``unknown_family``, ``boundary_not_supported``, ``invalid_dt``.
        """
        return NumericalSession(_Equation.of(problem, len(initial), static), initial.astype(np.float64))

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        """The reference solution dt after every frame of `truth` but the last; None where frames are not full states.

        Raises:
            UserError: ``unknown_family``, ``boundary_not_supported``, ``invalid_dt``.
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
            result[:, chosen] = repeated.begin(states).advance(equation.dt).reshape(given.shape)
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
            family(problem.family).under(problem.boundary),
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

    def begin(self, initial: Array) -> Independent:
        """The solution from `initial` (B, X..., C); none of its rows spoils another."""
        given = [initial, *self.coefficients.values()] + ([] if self.static is None else [self.static])
        sound = np.all([np.isfinite(array).reshape(len(initial), -1).all(axis=1) for array in given], axis=0)

        def some(rows: Rows) -> Solution:
            coefficients = {name: values[rows] for name, values in self.coefficients.items()}
            static = None if self.static is None else self.static[rows]
            return self.family.begin(initial[rows], self.grid, coefficients, static)

        return Independent(initial, sound, some)


@final
class NumericalSession:
    """The solution of all times, looked at every dt."""

    def __init__(self, equation: _Equation, initial: Array) -> None:
        self._dt = equation.dt
        self._solution = equation.begin(initial)
        self._done = 0

    def step(self) -> Frames:
        self._done += 1
        states = self._solution.advance(self._done * self._dt)
        with np.errstate(over="ignore"):
            return states.astype(np.float32)

    def why_ended(self) -> dict[int, str]:
        """See `Explained`: of the states at which the solver failed."""
        return {row: f"{NOT_FINITE}: {problem.message}" for row, problem in self._solution.refused.items()}

    def saved(self) -> Frames:
        """The bits of float64 (B, M) as twice as many numbers."""
        return np.ascontiguousarray(self._solution.saved()).view(np.float32)

    def restore(self, step: int, saved: Frames) -> None:
        self._done = step
        self._solution.restore(step * self._dt, np.ascontiguousarray(saved).view(np.float64))


BUILTIN: dict[str, Callable[[], Solver]] = {Persistence.name: Persistence, Numerical.name: Numerical}
"""The solvers every installation has, by id."""
