"""Solutions on grids finer than a model was trained on, two ways. Imports no torch.

*Resolution-free*: the model itself runs on the fine grid. *Interpolation*: the state is brought to the trained grid,
the model runs there, its answer is interpolated to the fine grid (the paper's zero-shot super-resolution). Both are
solvers around a solver. What a coarse state never held, neither can recover: `ObservedCoarsely` is the model on the
fine grid where only the coarse state was given.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from ups_server.pde.resampling import coarser, resample, subsampled
from ups_server.solvers.solver import Frames, Problem, Session, Solver


@final
class Interpolated:
    """The interpolation path: predicts on every so many-th point, `points` an axis, and interpolates the answer."""

    def __init__(self, solver: Solver, points: Sequence[int]) -> None:
        self.solver = solver
        self.points = tuple(points)
        self.name = f"{solver.name} (interpolated from {'x'.join(map(str, points))})"

    def dt(self, family: str) -> float:
        return self.solver.dt(family)

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        """A rollout on the coarse grid; every state is interpolated as it is asked for.

        Raises:
            UserError: ``resolution_mismatch``, and what the solver raises.
        """
        coarse, strides = self._coarse(problem)
        fixed = None if static is None else subsampled(static, strides)
        return _InterpolatedSession(self.solver.session(coarse, subsampled(initial, strides), fixed), coarse, problem)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        coarse, strides = self._coarse(problem)
        fixed = None if static is None else subsampled(static, strides)
        predicted = self.solver.one_step(coarse, subsampled(truth, strides), fixed)
        if predicted is None:
            return None
        flat = predicted.reshape(-1, *predicted.shape[2:])
        fine = resample(flat, coarse.grid, problem.grid, problem.boundary)
        return fine.reshape(*predicted.shape[:2], *fine.shape[1:])

    def _coarse(self, problem: Problem) -> tuple[Problem, tuple[int, ...]]:
        grid, strides = coarser(problem.grid, self.points)
        return replace(problem, grid=grid), strides


class _InterpolatedSession:
    def __init__(self, session: Session, coarse: Problem, fine: Problem) -> None:
        self._session, self._coarse, self._fine = session, coarse, fine

    def step(self) -> Frames:
        return resample(self._session.step(), self._coarse.grid, self._fine.grid, self._fine.boundary)


@final
class ObservedCoarsely:
    """The resolution-free path where only every so many-th point was observed: those, interpolated, are the input."""

    def __init__(self, solver: Solver, points: Sequence[int]) -> None:
        self.solver = solver
        self.points = tuple(points)
        self.name = f"{solver.name} (observed at {'x'.join(map(str, points))})"

    def dt(self, family: str) -> float:
        return self.solver.dt(family)

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        """A rollout on the fine grid from what the coarse points show of `initial`.

        Raises:
            UserError: ``resolution_mismatch``, and what the solver raises.
        """
        return self.solver.session(problem, self._seen(problem, initial), static)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        flat = self._seen(problem, truth.reshape(-1, *truth.shape[2:]))
        return self.solver.one_step(problem, flat.reshape(truth.shape), static)

    def _seen(self, problem: Problem, states: Frames) -> Frames:
        grid, strides = coarser(problem.grid, self.points)
        return resample(subsampled(states, strides), grid, problem.grid, problem.boundary)
