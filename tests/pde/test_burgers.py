"""Burgers' equation against Cole and Hopf's solution."""

import numpy as np
import pytest
from scipy.special import ive

from ups_server.errors import UserError
from ups_server.pde import Grid
from ups_server.pde.families.burgers import Burgers
from ups_server.pde.grid import Array
from ups_server.pde.integrators import ETDRK4, Spectrum

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


def pseudo_spectral(u: Array, length: float, nu: float, time: float, points: int) -> Array:
    """u (X,) after a time, by ETDRK4 on so many points, products on 3/2 as many."""
    modes, given = points // 2, np.fft.rfft(u, norm="forward")
    wave = 2.0 * np.pi / length * np.arange(modes)
    spectrum = np.zeros((1, modes), dtype=np.complex128)
    spectrum[0, : len(given)] = given[:modes]
    if len(u) < points:
        spectrum[0, len(u) // 2] *= 0.5
    count = int(np.ceil(wave[-1] * np.abs(u).max() * time))
    method = ETDRK4.prepare((-(nu / np.pi) * wave**2)[None].astype(np.complex128), time / count)

    def flux(v: Spectrum) -> Spectrum:
        square = np.fft.irfft(v, n=3 * modes, norm="forward") ** 2
        result: Spectrum = -0.5j * wave * np.fft.rfft(square, norm="forward")[:, :modes]
        return result

    for _ in range(count):
        spectrum = method.advance(spectrum, flux)
    return np.fft.irfft(spectrum, n=points, norm="forward")[0, :: points // len(u)]


@pytest.mark.parametrize(("seed", "nu", "bound"), [(0, 0.01, 1e-9), (13, 0.01, 1e-9), (6, 0.004, 1e-7)])
def test_an_independent_method_in_fourier_space(seed: int, nu: float, bound: float) -> None:
    """Smooth, rectified and windowed states, with a mean."""
    grid, time = FAMILY.default_grid(256), 0.25
    u = 0.3 + FAMILY.sample_initial(np.random.default_rng(seed), 1, grid)
    ours = FAMILY.solve(u, np.array([0.0, time]), grid, {"nu": np.array([nu])})[0, 1, :, 0]
    np.testing.assert_allclose(ours, pseudo_spectral(u[0, :, 0], 1.0, nu, time, 2048), atol=bound)


def test_shocks_conserve_mass_lose_energy_and_obey_the_maximum_principle() -> None:
    grid = FAMILY.default_grid(4096)
    initial = FAMILY.sample_initial(np.random.default_rng(0), 3, grid)
    solution = FAMILY.solve(initial, np.arange(0.0, 1.01, 0.1), grid, {"nu": np.full(3, 0.001)})
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


def test_thin_shocks_are_sharp() -> None:
    """At a third of PDEBench's smallest viscosity the answer is the one on any other grid."""
    grid = FAMILY.default_grid()
    x = grid.axes[0]
    initial = np.sin(2.0 * np.pi * x)[None, :, None]
    nu, times = {"nu": np.array([0.0003])}, np.array([0.0, 0.3])
    solution = FAMILY.solve(initial, times, grid, nu)
    finer = FAMILY.solve(
        np.sin(2.0 * np.pi * FAMILY.default_grid(3072).axes[0])[None, :, None], times, FAMILY.default_grid(3072), nu
    )[:, :, 1::3]
    np.testing.assert_allclose(solution, finer, atol=1e-9)


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
        FAMILY.solve(state, np.array([0.0, 0.1]), grid, {"nu": np.array([1e-11])})
    assert caught.value.code == "viscosity_too_small"
