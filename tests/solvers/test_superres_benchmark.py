"""Grids finer than a model's own: interpolation is exact where it can be, and each path sees what it says it sees."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.superres import Interpolated, ObservedCoarsely
from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, Grid
from ups_server.pde.resampling import coarser, resample, subsampled
from ups_server.solvers.classical import Numerical, Persistence
from ups_server.solvers.solver import Frames, Problem, Solver, rollout

PERIODIC = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
WALLS = BoundaryCondition.uniform(BoundaryKind.NO_FLUX, 1)
LINE = ((0.0, 1.0),)


def wave(grid: Grid) -> Frames:
    x = grid.axes[0]
    return (np.sin(2 * np.pi * 3 * x) + 0.2 * np.cos(2 * np.pi * x))[None, :, None].astype(np.float32)


def advection(grid: Grid) -> Problem:
    return Problem("advection", {"beta": 1.0}, grid, PERIODIC, 0.05)


@pytest.mark.parametrize("offset", [0.5, 0.125, 0.0])
def test_periodic_spline_converges_with_fourth_order_wherever_the_points_lie(offset: float) -> None:
    fine = Grid((480,), LINE)
    errors = []
    for n in (32, 64, 128):
        coarse = Grid((n,), LINE, (offset,))
        errors.append(np.abs(resample(wave(coarse).astype(np.float64), coarse, fine, PERIODIC) - wave(fine)).max())
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (orders > 3.7).all()
    assert errors[-1] < 2e-4


def test_bounded_axis_is_exact_for_a_cubic_and_holds_the_edge_beyond_it() -> None:
    coarse, fine = Grid((16,), LINE), Grid((64,), LINE)
    x, y = coarse.axes[0], fine.axes[0]

    def cubic(s: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Frames:
        return (1 + s - 2 * s**2 + s**3)[None, :, None].astype(np.float32)

    result = resample(cubic(x), coarse, fine, WALLS)
    inside = (y >= x[0]) & (y <= x[-1])
    np.testing.assert_allclose(result[:, inside], cubic(y[inside]), atol=1e-5)
    np.testing.assert_allclose(result[0, y < x[0], 0], cubic(x)[0, 0, 0], atol=1e-6)


def test_shared_points_and_axes_are_left_as_they_are() -> None:
    rng = np.random.default_rng(0)
    plane = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 2)
    fine = Grid((32, 24), (*LINE, *LINE))
    values = rng.standard_normal((2, 32, 24, 3)).astype(np.float32)
    assert resample(values, fine, fine, plane) is values
    coarse, strides = coarser(fine, (16, 24))
    back = resample(subsampled(values, strides), coarse, fine, plane)
    np.testing.assert_allclose(back[:, ::2], values[:, ::2], atol=1e-5)
    with pytest.raises(UserError, match="one box"):
        resample(values, fine, Grid((32, 24), ((0.0, 2.0), *LINE)), plane)


def test_strides_per_axis_keep_the_points_where_they_are() -> None:
    grid, strides = coarser(Grid((32, 24), ((0.0, 1.0), (-1.0, 1.0))), (8, 12))
    assert strides == (4, 2)
    for axis, stride in enumerate(strides):
        np.testing.assert_allclose(grid.axes[axis], Grid((32, 24), ((0.0, 1.0), (-1.0, 1.0))).axes[axis][::stride])
    with pytest.raises(UserError, match="integer-stride"):
        coarser(Grid((32,), LINE), (12,))


def test_interpolation_path_is_the_solver_on_the_coarse_grid() -> None:
    fine = Grid((128,), LINE)
    truth = np.stack([wave(fine), *rollout(Numerical().session(advection(fine), wave(fine)), 4)], axis=1)
    solver: Solver = Interpolated(Numerical(), (64,))
    rolled = np.stack(list(rollout(solver.session(advection(fine), truth[:, 0]), 4)), axis=1)
    one_step = solver.one_step(advection(fine), truth)
    assert one_step is not None
    # The reference solution of advection is exact: what is left is the spline's error at 64 points.
    np.testing.assert_allclose(rolled, truth[:, 1:], atol=2e-3)
    np.testing.assert_allclose(one_step, truth[:, 1:], atol=2e-3)
    coarse, strides = coarser(fine, (64,))
    inner = Numerical().one_step(advection(coarse), subsampled(truth, strides))
    assert inner is not None
    assert np.abs(one_step[:, :, ::2] - inner).max() < 1e-6


def test_what_was_not_observed_is_not_used() -> None:
    fine = Grid((64,), LINE)
    truth = np.stack([wave(fine)] * 3, axis=1)
    hidden = truth.copy()
    hidden[:, :, 1::2] += 5.0
    for solver in (Interpolated(Persistence(), (32,)), ObservedCoarsely(Persistence(), (32,))):
        seen = [solver.one_step(advection(fine), frames) for frames in (truth, hidden)]
        assert seen[0] is not None
        np.testing.assert_array_equal(seen[0], seen[1])
        started = [next(rollout(solver.session(advection(fine), frames[:, 0]), 1)) for frames in (truth, hidden)]
        np.testing.assert_array_equal(started[0], started[1])
        np.testing.assert_allclose(started[0], truth[:, 0], atol=2e-3)


def test_a_grid_that_the_trained_one_does_not_divide_is_refused() -> None:
    problem = replace(advection(Grid((96,), LINE)))
    with pytest.raises(UserError, match="integer-stride"):
        Interpolated(Persistence(), (64,)).session(problem, wave(problem.grid))
