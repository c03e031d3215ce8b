"""Solutions on grids finer than a model was trained on, two ways. Imports no torch.

*Resolution-free*: the model itself runs on the fine grid. *Interpolation*: the state is brought to the trained grid,
the model runs there, its answer is interpolated to the fine grid (the paper's zero-shot super-resolution). Both are
solvers around a solver. What a coarse state never held, neither can recover: `ObservedCoarsely` is the model on the
fine grid where only the coarse state was given.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, Grid
from ups_server.solvers.solver import Frames, Problem, Session, Solver


def resample(values: Frames, source: Grid, target: Grid, boundary: BoundaryCondition) -> Frames:
    """Values (B, X..., C) on `source` at the points of `target`, another grid of the same box.

    Along each axis a cubic spline, periodic where the axis is; elsewhere points beyond the outermost of the source
    (less than one of its cells) take the value of its edge. An axis that the grids share is left as it is.
    """
    if source.extent != target.extent:
        raise UserError("invalid_grid", "two grids of one box are needed", got=target.extent, expected=source.extent)
    for axis, wraps in enumerate(boundary.periodic):
        given, wanted = source.axes[axis], target.axes[axis]
        if len(given) != len(wanted) or not np.allclose(given, wanted, atol=1e-9 * source.length[axis]):
            values = _spline(values, given, wanted, source.extent[axis], axis + 1, wraps)
    return values


def coarser(grid: Grid, points: Sequence[int]) -> tuple[Grid, tuple[int, ...]]:
    """The grid of every so many-th point that leaves `points` an axis, and the strides.

    Raises:
        UserError: ``resolution_mismatch`` where the strides are no integers.
    """
    if len(points) != grid.ndim or any(n % p for n, p in zip(grid.n, points, strict=True)):
        raise UserError(
            "resolution_mismatch", "lower resolutions are integer-stride subsamples", got=tuple(points),
            expected=f"divisors of {grid.n}",
        )  # fmt: skip
    strides = tuple(n // p for n, p in zip(grid.n, points, strict=True))
    offset = tuple(o / stride for o, stride in zip(grid.offset, strides, strict=True))
    return Grid(tuple(points), grid.extent, offset), strides


def subsampled(frames: Frames, strides: Sequence[int]) -> Frames:
    """(..., X..., C), every so many-th point of each axis."""
    index: tuple[Any, ...] = (..., *(slice(None, None, stride) for stride in strides), slice(None))
    chosen: Frames = frames[index]
    return chosen


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


def _spline(
    values: Frames,
    given: NDArray[np.float64],
    wanted: NDArray[np.float64],
    extent: tuple[float, float],
    axis: int,
    wraps: bool,
) -> Frames:
    from scipy.interpolate import CubicSpline

    low, high = extent
    rows = np.asarray(values, dtype=np.float64)
    if wraps:
        knots = np.append(given, given[0] + high - low)
        closed = np.concatenate([rows, rows.take([0], axis)], axis=axis)
        spline = CubicSpline(knots, closed, axis=axis, bc_type="periodic")
        at = knots[0] + np.mod(wanted - knots[0], high - low)
    else:
        spline = CubicSpline(given, rows, axis=axis, bc_type="not-a-knot")
        at = wanted.clip(given[0], given[-1])
    result: Frames = spline(at).astype(np.float32)
    return result
