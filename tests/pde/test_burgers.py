"""Burgers' equation against Cole and Hopf's solution."""

import numpy as np
import pytest
from scipy.special import ive

from ups_server.errors import UserError
from ups_server.pde import Grid
from ups_server.pde.families import burgers
from ups_server.pde.families.burgers import Burgers
from ups_server.pde.family import Array

FAMILY = Burgers()


def cole_hopf(x: Array, time: float, nu: float, amplitude: float, mean: float) -> Array:
    """From u = mean + amplitude sin(2 pi x): -2 mu phi_x / phi, where phi_t = mu phi_xx and mu = nu / pi."""
    mu = nu / np.pi
    moved = x - mean * time
    order = np.arange(1, 200)
    k = 2.0 * np.pi * order
    start = amplitude / (4.0 * np.pi * mu)
    weight = 2.0 * ive(order, start) * np.exp(-mu * k**2 * time)
    phi = ive(0, start) + np.cos(k * moved[:, None]) @ weight
    slope = -np.sin(k * moved[:, None]) @ (k * weight)
    result: Array = mean - 2.0 * mu * slope / phi
    return result


@pytest.mark.parametrize(("nu", "amplitude"), [(0.01, 0.2), (0.05, 1.0), (1.0, 1.0), (4.0, 2.0)])
@pytest.mark.parametrize("n", [64, 100, 1024])
def test_cole_hopf(nu: float, amplitude: float, n: int) -> None:
    grid = FAMILY.default_grid(n)
    x, times = grid.axes[0], np.array([0.0, 0.05, 0.3, 1.0])
    initial = 0.7 + amplitude * np.sin(2.0 * np.pi * x)
    solution = FAMILY.solve(initial[None, :, None], times, grid, {"nu": np.array([nu])})
    exact = np.stack([cole_hopf(x, time, nu, amplitude, 0.7) for time in times])
    np.testing.assert_allclose(solution[0, ..., 0], exact, atol=2e-8 * amplitude)


def test_fourth_order_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, errors = FAMILY.default_grid(), []
    x = grid.axes[0]
    monkeypatch.setattr(burgers, "MAX_POINTS", 1024)
    for courant in (60.0, 30.0):
        monkeypatch.setattr(burgers, "COURANT", courant)
        solution = FAMILY.solve(
            np.sin(2.0 * np.pi * x)[None, :, None], np.array([0.0, 0.4]), grid, {"nu": np.array([0.2])}
        )
        errors.append(np.abs(solution[0, 1, :, 0] - cole_hopf(x, 0.4, 0.2, 1.0, 0.0)).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.7)


def test_shocks_conserve_mass_lose_energy_and_obey_the_maximum_principle() -> None:
    grid = FAMILY.default_grid()
    initial = FAMILY.sample_initial(np.random.default_rng(0), 6, grid)
    solution = FAMILY.solve(initial, np.arange(0.0, 1.01, 0.05), grid, {"nu": np.full(6, 0.001)})
    np.testing.assert_allclose(np.ptp(solution.mean(axis=2), axis=1), 0.0, atol=1e-12)
    assert (np.diff((solution**2).mean(axis=2), axis=1) < 0.0).all()
    overshoot = solution.max(axis=(1, 2)) - initial.max(axis=1)
    assert overshoot.max() < 0.05 * np.ptp(initial, axis=1).max()


def test_mirror_symmetry() -> None:
    grid = FAMILY.default_grid(256)
    initial = FAMILY.sample_initial(np.random.default_rng(4), 2, grid)
    times, nu = np.array([0.0, 0.2]), {"nu": np.full(2, 0.01)}
    mirrored = FAMILY.solve(-initial[:, ::-1], times, grid, nu)
    np.testing.assert_allclose(mirrored, -FAMILY.solve(initial, times, grid, nu)[:, :, ::-1], atol=1e-10)


def test_rescaling_the_box() -> None:
    """x -> L x, u -> L u, nu -> L^2 nu."""
    grid, large = FAMILY.default_grid(256), Grid((256,), ((0.0, 4.0),))
    initial = FAMILY.sample_initial(np.random.default_rng(4), 2, grid)
    times, nu = np.array([0.0, 0.2]), np.full(2, 0.01)
    np.testing.assert_allclose(
        FAMILY.solve(4.0 * initial, times, large, {"nu": 16.0 * nu}),
        4.0 * FAMILY.solve(initial, times, grid, {"nu": nu}),
        atol=1e-9,
    )


def test_thin_shocks_get_more_points() -> None:
    """At a third of PDEBench's smallest viscosity the answer is still the converged one."""
    grid = FAMILY.default_grid()
    x = grid.axes[0]
    initial = np.sin(2.0 * np.pi * x)[None, :, None]
    nu, times = {"nu": np.array([0.0003])}, np.array([0.0, 0.3])
    solution = FAMILY.solve(initial, times, grid, nu)
    finer = FAMILY.solve(
        np.sin(2.0 * np.pi * FAMILY.default_grid(3072).axes[0])[None, :, None], times, FAMILY.default_grid(3072), nu
    )[:, :, 1::3]
    assert np.linalg.norm(solution - finer) < 0.005 * np.linalg.norm(finer)


def test_coarse_grids_are_solved_like_fine_ones() -> None:
    fine = FAMILY.default_grid()
    times, nu = np.array([0.0, 0.3]), {"nu": np.array([0.001])}
    initial = 0.5 + np.sin(2.0 * np.pi * fine.axes[0])[None, :, None]
    coarse = FAMILY.solve(initial[:, ::8], times, fine.subsample(8), nu)
    np.testing.assert_allclose(coarse, FAMILY.solve(initial, times, fine, nu)[:, :, ::8], atol=1e-9)


def test_a_coarse_state_with_a_shock_stays_stable() -> None:
    grid = FAMILY.default_grid(128)
    state = np.where(grid.axes[0] < 0.5, 1.0, -0.5)[None, :, None]
    solution = FAMILY.solve(state, np.arange(0.0, 0.5, 0.05), grid, {"nu": np.array([0.001])})
    assert np.abs(solution).max() < 1.5


def test_what_cannot_be_resolved_is_refused() -> None:
    grid = FAMILY.default_grid()
    state = np.sin(2.0 * np.pi * grid.axes[0])[None, :, None]
    with pytest.raises(UserError, match="too thin") as caught:
        FAMILY.solve(state, np.array([0.0, 0.1]), grid, {"nu": np.array([1e-6])})
    assert caught.value.code == "viscosity_too_small"
