"""A solver asked for the state a longer time ahead: by one call where it can, else by steps of its own."""

import math
from dataclasses import replace
from typing import Protocol, final, runtime_checkable

from ups_server.errors import UserError
from ups_server.solvers.solver import Frames, Problem, Session, Solver

TOLERANCE = 1e-6


@runtime_checkable
class AnyLead(Protocol):
    """A solver that goes ahead by any time up to a horizon at once."""

    def horizon(self, family: str) -> float: ...


@final
class _Every:
    """Every so many-th state of a rollout."""

    def __init__(self, session: Session, count: int) -> None:
        self._session, self._count = session, count

    def step(self) -> Frames:
        for _ in range(self._count - 1):
            self._session.step()
        return self._session.step()


@final
class Ahead:
    """`count` steps of a solver as one."""

    def __init__(self, solver: Solver, count: int, dt: float) -> None:
        self.name = solver.name
        self._solver, self._count, self._dt = solver, count, dt

    def dt(self, family: str) -> float:
        return self._dt

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        return _Every(self._solver.session(self._inner(problem), initial, static), self._count)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        """From each true state; of one step in all, what a rollout is too."""
        if self._count == 1:
            return self._solver.one_step(self._inner(problem), truth, static)
        if truth.shape[1] != 2:
            return None
        return self.session(problem, truth[:, 0], static).step()[:, None]

    def _inner(self, problem: Problem) -> Problem:
        return replace(problem, dt=problem.dt / self._count)


def ahead(solver: Solver, family: str, dt: float) -> Solver:
    """The solver with the step `dt` for a family.

    Raises:
        UserError: ``family_not_in_model``; ``dt_mismatch`` where dt is no multiple of its own step.
    """
    if isinstance(solver, AnyLead):
        return Ahead(solver, max(1, math.ceil(dt / solver.horizon(family) * (1 - TOLERANCE))), dt)
    return Ahead(solver, steps_to(dt, solver.dt(family), solver.name), dt)


def steps_to(dt: float, own: float, name: str) -> int:
    """Steps of `own` that make one of `dt`. Raises UserError ``dt_mismatch``."""
    count = round(dt / own)
    if count < 1 or not math.isclose(count * own, dt, rel_tol=TOLERANCE):
        raise UserError(
            "dt_mismatch",
            f"{name} does not reach the last state by steps of its own",
            got=dt,
            expected=f"a multiple of {own:g}",
        )
    return count
