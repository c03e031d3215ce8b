"""Diffusion-reaction against its two exact limits and an independent integrator."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ups_server.pde.families import diffusion_reaction_1d
from ups_server.pde.families.diffusion_reaction_1d import DiffusionReaction1D
from ups_server.pde.grid import Array

FAMILY = DiffusionReaction1D()
TIMES = np.array([0.0, 0.01, 0.13, 1.0])


def coefficients(nu: float, rho: float) -> dict[str, Array]:
    return {"nu": np.array([nu]), "rho": np.array([rho])}


def test_without_growth_waves_decay() -> None:
    grid = FAMILY.default_grid(128)
    k, x = 4.0 * np.pi, grid.axes[0]
    solution = FAMILY.solve((0.5 + 0.4 * np.sin(k * x))[None, :, None], TIMES, grid, coefficients(0.05, 0.0))
    exact = 0.5 + 0.4 * np.exp(-0.05 * k**2 * TIMES)[:, None] * np.sin(k * x)
    np.testing.assert_allclose(solution[0, ..., 0], exact, atol=1e-12)


def test_without_diffusion_points_grow() -> None:
    grid = FAMILY.default_grid(128)
    start = FAMILY.sample_initial(np.random.default_rng(0), 1, grid)
    solution = FAMILY.solve(start, TIMES, grid, coefficients(0.0, 3.0))
    factor = np.exp(3.0 * TIMES)[:, None, None]
    np.testing.assert_allclose(solution, start[:, None] * factor / (1.0 + start[:, None] * (factor - 1.0)), atol=1e-12)


def smooth_start(x: Array) -> Array:
    return 0.5 + 0.5 * np.sin(2.0 * np.pi * x + 1.0)


@pytest.mark.parametrize(("nu", "rho"), [(0.5, 1.0), (5.0, 10.0), (0.01, 10.0)])
def test_an_independent_integrator(nu: float, rho: float) -> None:
    grid = FAMILY.default_grid(64)
    x = grid.axes[0]
    k2 = (2.0 * np.pi * np.fft.fftfreq(64, 1.0 / 64.0)) ** 2
    laplacian = np.real(np.fft.ifft(-k2[:, None] * np.fft.fft(np.eye(64), axis=0), axis=0))

    def velocity(_: float, u: Array) -> Array:
        rate: Array = nu * laplacian @ u + rho * u * (1.0 - u)
        return rate

    reference = solve_ivp(velocity, (0.0, 1.0), smooth_start(x), method="BDF", t_eval=TIMES, rtol=1e-9, atol=1e-11).y.T
    solution = FAMILY.solve(smooth_start(x)[None, :, None], TIMES, grid, coefficients(nu, rho))[0, ..., 0]
    np.testing.assert_allclose(solution, reference, atol=5e-6)


def test_second_order_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = FAMILY.default_grid(64)
    start, times = smooth_start(grid.axes[0])[None, :, None], np.array([0.0, 0.2])
    monkeypatch.setattr(diffusion_reaction_1d, "GROWTH_PER_STEP", np.inf)

    def solve(decay_per_step: float) -> Array:
        monkeypatch.setattr(diffusion_reaction_1d, "DECAY_PER_STEP", decay_per_step)
        return FAMILY.solve(start, times, grid, coefficients(0.1, 10.0))[0, 1, :, 0]

    exact = solve(0.001)
    coarse, fine = (np.abs(solve(step) - exact).max() for step in (0.08, 0.04))
    assert np.log2(coarse / fine) == pytest.approx(2.0, abs=0.1)


def test_states_stay_in_the_unit_interval_and_keep_their_symmetry() -> None:
    grid = FAMILY.default_grid(256)
    start = FAMILY.sample_initial(np.random.default_rng(1), 6, grid)
    chosen = {"nu": np.full(6, 0.5), "rho": np.full(6, 10.0)}
    solution = FAMILY.solve(start, FAMILY.frame_times(), grid, chosen)
    # A windowed state has edges ten points wide: its interpolant overshoots a little.
    assert solution.min() > -1e-3
    assert solution.max() < 1.001
    mirrored = FAMILY.solve(start[:, ::-1], FAMILY.frame_times(), grid, chosen)
    np.testing.assert_allclose(mirrored, solution[:, :, ::-1], atol=1e-12)
