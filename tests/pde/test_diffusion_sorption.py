"""Diffusion-sorption against its steady state and an independent integrator."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.sparse import diags_array

from ups_server.pde import Grid
from ups_server.pde.families import diffusion_sorption
from ups_server.pde.families.diffusion_sorption import DIFFUSION, OUTSIDE, DiffusionSorption, retardation
from ups_server.pde.grid import Array

FAMILY = DiffusionSorption()


def constant(level: float, n: int) -> Array:
    return np.full((1, n, 1), level)


def test_retardation_is_the_freundlich_isotherm() -> None:
    assert retardation(np.ones(1))[0] == pytest.approx(1.0 + 0.71 / 0.29 * 2880.0 * 3.5e-4 * 0.874, rel=1e-6)
    levels = retardation(np.array([0.0, 1e-3, 0.1, 1.0]))
    assert (np.diff(levels) < 0.0).all()
    assert np.isfinite(levels).all()


def test_an_independent_integrator(monkeypatch: pytest.MonkeyPatch) -> None:
    n, times = 256, np.array([0.0, 5.0, 25.0, 200.0, 500.0])
    monkeypatch.setattr(diffusion_sorption, "MIN_CELLS", n)
    dx = 1.0 / n
    second = diags_array([np.ones(n - 1), np.full(n, -2.0), np.ones(n - 1)], offsets=[-1, 0, 1]).tolil()
    # Images of the outermost cells: u - h u_x = 1 at the left end, u + (D + h) u_x = 0 at the right one.
    half, left, right = 0.5, OUTSIDE / dx, (DIFFUSION + OUTSIDE) / dx
    second[0, 0] += (left - half) / (left + half)
    second[-1, -1] += (right - half) / (right + half)
    second, source = second.tocsr(), np.eye(n)[0] / (left + half)

    def velocity(_: float, u: Array) -> Array:
        rate: Array = DIFFUSION / dx**2 * (second @ u + source) / retardation(u)
        return rate

    reference = solve_ivp(
        velocity, (0.0, 500.0), np.full(n, 0.1), "Radau", times, rtol=1e-8, atol=1e-10, jac_sparsity=second
    ).y.T
    solution = FAMILY.solve(constant(0.1, n), times, FAMILY.default_grid(n), {})[0, ..., 0]
    np.testing.assert_allclose(solution, reference, atol=2e-5)


def test_any_points_see_the_same_solution() -> None:
    times, cells = np.array([0.0, 25.0, 300.0]), FAMILY.default_grid()
    truth = FAMILY.solve(constant(0.1, cells.n[0]), times, cells, {})[0, ..., 0]
    dx = cells.spacing[0]
    known = np.concatenate([[-0.5 * dx], cells.axes[0], [1.0 + 0.5 * dx]])
    box = FAMILY.extent
    for grid in (Grid((128,), box), Grid((128,), box, (0.0625,)), Grid.nodes((128,), box, (False,))):
        found = FAMILY.solve(constant(0.1, 128), times, grid, {})[0, ..., 0]
        for frame in (1, 2):
            drained = DIFFUSION / dx * (truth[frame, -2] - truth[frame, -1])
            expected = np.interp(grid.axes[0], known, [1.0, *truth[frame], drained])
            np.testing.assert_allclose(found[frame], expected, atol=1e-4)


def test_it_ends_in_a_straight_line() -> None:
    grid = FAMILY.default_grid()
    dx = grid.spacing[0]
    solution = FAMILY.solve(constant(0.1, 1024), np.array([0.0, 5e4]), grid, {})[0, 1, :, 0]
    slope = 1.0 / (1.0 + dx + DIFFUSION)
    np.testing.assert_allclose(solution, 1.0 - slope * (grid.axes[0] + 0.5 * dx), atol=1e-5)


def test_fronts_are_monotone_and_ordered() -> None:
    grid = FAMILY.default_grid()
    initial = np.array([0.02, 0.1, 0.19])[:, None, None] * np.ones((1, 1024, 1))
    solution = FAMILY.solve(initial, FAMILY.frame_times(), grid, {})
    assert (np.diff(solution, axis=2) < 1e-6).all()
    assert (np.diff(solution, axis=0) > -1e-6).all()
    assert solution.min() >= 0.0
    assert solution.max() <= 1.0


def test_the_order_of_convergence_is_two_up_to_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a profile that meets the boundary values, late enough for the solute to leave on the right."""
    times, least = np.array([0.0, 200.0]), 128
    ends = np.empty((5, 3))
    monkeypatch.setattr(diffusion_sorption, "MIN_CELLS", least)
    for row, n in enumerate(least * 2 ** np.arange(5)):
        grid = FAMILY.default_grid(int(n))
        u = FAMILY.solve(1.0 - 0.9 * grid.axes[0][None, :, None] ** 2, times, grid, {})[0, 1, :, 0]
        # Cubic through the four nearest cells: of higher order than the solver.
        x = (np.arange(4) + 0.5) / n
        ends[row] = [
            np.polyval(np.polyfit(x, u[:4], 3), 0.0),
            np.polyval(np.polyfit(x, u[::-1][:4], 3), 0.0),
            np.polyval(np.polyfit(x, u[n // 2 - 2 : n // 2 + 2], 3), 2.0 / n),
        ]
    steps = np.abs(np.diff(ends, axis=0))
    left, right, centre = np.log2(steps[:-1] / steps[1:]).T
    assert (left > 1.8).all()
    assert (centre > 1.8).all()
    assert right[-1] > 1.8, "where the cells resolve the layer at the right end, D + h wide"


def test_few_cells_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 of them show what eight times as many do, to 1e-4 from the first step of a model on."""
    times, states = np.array([0.0, 25.0, 100.0]), np.array([0.02, 0.15])[:, None, None] * np.ones((1, 512, 1))
    found = FAMILY.solve(states, times, FAMILY.default_grid(512), {})
    monkeypatch.setattr(diffusion_sorption, "MIN_CELLS", 4096)
    truth = FAMILY.solve(states, times, FAMILY.default_grid(512), {})
    assert np.linalg.norm(found - truth) < 1e-4 * np.linalg.norm(truth)


@pytest.mark.parametrize(("stride", "first", "bound"), [(2, 0, 2e-4), (8, 0, 1e-3), (8, 7, 2e-3)])
def test_subsampled_states_continue_like_the_fine_ones(stride: int, first: int, bound: float) -> None:
    fine = FAMILY.default_grid()
    times = np.arange(0.0, 101.0, 25.0)
    whole = FAMILY.solve(constant(0.1, 1024), times, fine, {})
    for start in (0, 1):
        state = whole[:, start, first::stride]
        coarse = FAMILY.solve(state, times[start:], fine.subsample(stride, first), {})
        truth = whole[:, start:, first::stride]
        assert np.linalg.norm(coarse - truth) < bound * np.linalg.norm(truth)


def test_initial_states_are_constants_below_a_fifth() -> None:
    states = FAMILY.sample_initial(np.random.default_rng(0), 2000, FAMILY.default_grid(8))
    assert (np.ptp(states, axis=1) == 0.0).all()
    levels = states[:, 0, 0]
    assert levels.min() >= 0.0
    assert levels.max() < 0.2
    assert levels.mean() == pytest.approx(0.1, abs=0.005)
    np.testing.assert_array_equal(
        states[:5], FAMILY.sample_initial(np.random.default_rng(0), 5, FAMILY.default_grid(8))
    )
