"""Diffusion-reaction in two dimensions against its linear and its well-mixed limit, and an independent integrator."""

from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from ups_server.errors import UserError
from ups_server.pde import Grid
from ups_server.pde.families import diffusion_reaction_2d
from ups_server.pde.families.diffusion_reaction_2d import DiffusionReaction2D, heat_propagator
from ups_server.pde.grid import Array

FAMILY = DiffusionReaction2D()


def coefficients(count: int = 1, **chosen: float) -> dict[str, Array]:
    return {name: np.full(count, value) for name, value in FAMILY.complete(chosen).items()}


def noise(seed: int, count: int, grid: Grid) -> Array:
    return FAMILY.sample_initial(np.random.default_rng(seed), count, grid)


def laplacian(values: Array, grid: Grid) -> Array:
    """Five points, walls without flux."""
    padded = np.pad(values, 1, mode="edge")
    along_x = padded[2:, 1:-1] - 2.0 * values + padded[:-2, 1:-1]
    along_y = padded[1:-1, 2:] - 2.0 * values + padded[1:-1, :-2]
    result: Array = along_x / grid.spacing[0] ** 2 + along_y / grid.spacing[1] ** 2
    return result


def cosine(grid: Grid, p: int, q: int) -> Array:
    x, y = (np.pi * (axis - lo) / (hi - lo) for axis, (lo, hi) in zip(grid.axes, grid.extent, strict=True))
    return np.cos(p * x)[:, None] * np.cos(q * y)


def linear_amplitudes(decay: float, start: tuple[float, float], times: Array) -> Array:
    """(T, 2) where the cubic term is negligible and the Laplacian multiplies by -decay."""
    chosen = FAMILY.complete(None)
    matrix = np.array([[1.0 - chosen["D_u"] * decay, -1.0], [1.0, -1.0 - chosen["D_v"] * decay]])
    return np.stack([expm(matrix * time) @ start for time in times])


@pytest.mark.parametrize(("p", "q"), [(0, 1), (3, 2), (11, 5)])
def test_small_waves_are_linear(p: int, q: int) -> None:
    grid = Grid((24, 36), FAMILY.extent)
    times = np.array([0.0, 0.05, 0.1, 0.6])
    wave = cosine(grid, p, q)
    decay = -(laplacian(wave, grid) / wave).mean()
    small = 1e-6 * np.array([1.0, -0.5])
    solution = FAMILY.solve((wave[..., None] * small)[None], times, grid, coefficients(k=0.0))[0]
    exact = linear_amplitudes(decay, tuple(small), times)
    np.testing.assert_allclose(solution, wave[None, ..., None] * exact[:, None, None], atol=1e-6 * 1e-4)


def test_second_order_in_space() -> None:
    times = np.array([0.0, 0.5])
    errors = []
    for n in (16, 32):
        grid = FAMILY.default_grid(n)
        wave = cosine(grid, 5, 3)
        start = (1e-6 * np.stack([wave, wave], axis=-1))[None]
        solution = FAMILY.solve(start, times, grid, coefficients(k=0.0))[0, 1, ..., 1]
        exact = linear_amplitudes(34.0 * (np.pi / 2.0) ** 2, (1e-6, 1e-6), times)[1, 1] * wave
        errors.append(np.abs(solution - exact).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)


def test_a_well_mixed_state_follows_the_ordinary_equations() -> None:
    grid, times = Grid((6, 5), FAMILY.extent), np.linspace(0.0, 5.0, 11)
    starts = np.array([[1.3, -0.7], [-4.0, 3.0], [0.1, 0.0]])
    states = np.broadcast_to(starts[:, None, None], (3, *grid.n, 2))
    solution = FAMILY.solve(states, times, grid, coefficients(3, k=0.2))
    assert np.ptp(solution, axis=(2, 3)).max() < 1e-12

    def velocity(_: float, state: Array) -> list[float]:
        u, v = state
        return [u - u**3 - 0.2 - v, u - v]

    for row, start in enumerate(starts):
        exact = solve_ivp(velocity, (0.0, 5.0), start, t_eval=times, rtol=1e-11, atol=1e-12).y.T
        np.testing.assert_allclose(solution[row, :, 0, 0], exact, atol=5e-5)


def test_an_independent_integrator() -> None:
    grid, times = Grid((12, 10), FAMILY.extent), np.array([0.0, 0.05, 0.1, 1.0, 3.0])
    start = noise(0, 1, grid)
    d_u, d_v, k = 0.02, 0.1, 0.05

    def velocity(_: float, flat: Array) -> Array:
        u, v = flat.reshape(2, *grid.n)
        u_t = d_u * laplacian(u, grid) + u - u**3 - k - v
        v_t = d_v * laplacian(v, grid) + u - v
        return np.stack([u_t, v_t]).ravel()

    flat = np.moveaxis(start[0], -1, 0).ravel()
    reference = solve_ivp(velocity, (0.0, 3.0), flat, t_eval=times, rtol=1e-9, atol=1e-11).y.T
    solution = FAMILY.solve(start, times, grid, coefficients(D_u=d_u, D_v=d_v, k=k))[0]
    np.testing.assert_allclose(np.moveaxis(solution, -1, 1).reshape(len(times), -1), reference, atol=2e-5)


def test_fourth_order_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = FAMILY.default_grid(16)
    smooth = np.stack([cosine(grid, 2, 1), 0.5 * cosine(grid, 1, 3)], axis=-1)[None]

    def end(steps: int) -> Array:
        times = np.linspace(0.0, 0.8, steps + 1)
        return FAMILY.solve(smooth, times, grid, coefficients())[:, -1]

    monkeypatch.setattr(diffusion_reaction_2d, "TOLERANCE", np.inf)
    monkeypatch.setattr(diffusion_reaction_2d, "MAX_STEP", 1.0)
    reference = end(64)
    errors = [np.abs(end(steps) - reference).max() for steps in (4, 8)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.5)


@pytest.mark.parametrize("n", [1, 2, 17])
def test_heat_without_flux_conserves_and_smooths(n: int) -> None:
    walls = np.zeros((n, n)) if n == 1 else np.diag(np.full(n, -2.0)) + np.eye(n, k=1) + np.eye(n, k=-1)
    if n > 1:
        walls[0, 0] = walls[-1, -1] = -1.0
    propagator = heat_propagator(n, 0.7)
    np.testing.assert_allclose(propagator, expm(0.7 * walls), atol=1e-13)
    np.testing.assert_allclose(propagator.sum(axis=0), 1.0, atol=1e-13)
    np.testing.assert_allclose(propagator, propagator.T, atol=1e-14)


@pytest.mark.parametrize("mirror", [np.s_[:, ::-1], np.s_[:, :, ::-1], "transpose"])
def test_symmetries(mirror: tuple[slice, ...] | str) -> None:
    grid, times = FAMILY.default_grid(32), np.array([0.0, 0.05, 0.2])
    start = noise(1, 1, grid)

    def mirrored(values: Array) -> Array:
        return values.swapaxes(1, 2) if isinstance(mirror, str) else values[mirror]

    straight = FAMILY.solve(start, times, grid, coefficients())
    through_mirror = FAMILY.solve(mirrored(start), times, grid, coefficients())
    for frame in range(3):
        np.testing.assert_allclose(through_mirror[:, frame], mirrored(straight[:, frame]), atol=1e-12)


def test_trajectories_of_a_batch_keep_their_own_coefficients() -> None:
    grid, times = FAMILY.default_grid(24), np.array([0.0, 0.05, 0.15])
    start = noise(2, 3, grid)
    chosen = {"D_u": np.array([1e-3, 0.0, 1e-2]), "D_v": np.array([5e-3, 1e-2, 0.0]), "k": np.array([0.0, 0.1, -0.3])}
    together = FAMILY.solve(start, times, grid, chosen)
    for row in range(3):
        alone = FAMILY.solve(start[row : row + 1], times, grid, {k: v[row : row + 1] for k, v in chosen.items()})
        np.testing.assert_array_equal(alone[0], together[row])


def test_the_error_is_controlled_whatever_the_frames() -> None:
    grid = FAMILY.default_grid(32)
    start = noise(3, 1, grid)
    fine = FAMILY.solve(start, np.linspace(0.0, 0.5, 201), grid, coefficients())
    for times in ([0.0, 0.5], [0.0, 0.05, 0.3, 0.5]):
        solution = FAMILY.solve(start, np.array(times), grid, coefficients())
        np.testing.assert_allclose(solution[:, -1], fine[:, -1], atol=3e-5)


def test_irregular_frames_share_a_bounded_store(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = FAMILY.default_grid(16)
    start, times = noise(4, 1, grid), np.array([0.0, 0.05, 0.11, 0.13, 0.2])
    whole = FAMILY.solve(start, times, grid, coefficients())
    monkeypatch.setattr(diffusion_reaction_2d, "MAX_PREPARED", 2)
    np.testing.assert_array_equal(FAMILY.solve(start, times, grid, coefficients()), whole)


def test_states_too_large_to_follow_are_refused() -> None:
    grid = FAMILY.default_grid(4)
    with pytest.raises(UserError) as caught:
        FAMILY.solve(np.full((1, 4, 4, 2), 1e9), np.array([0.0, 0.05]), grid, coefficients())
    assert caught.value.code == "state_too_large"


def test_noise_is_white_with_unit_variance() -> None:
    grid = FAMILY.default_grid()
    states = noise(5, 4, grid)
    np.testing.assert_allclose(states.mean(axis=(1, 2)), 0.0, atol=5.0 / 128.0)
    np.testing.assert_allclose(states.std(axis=(1, 2)), 1.0, atol=0.03)
    assert abs((states[:, 1:] * states[:, :-1]).mean()) < 0.01


def test_frames_of_pdebench(pdebench: Path) -> None:
    import h5py

    with h5py.File(pdebench / "2D_diff-react_NA_NA.h5", "r") as file:
        data = next(iter(file.values()))["data"][:21].astype(np.float64)
    truth = data.swapaxes(1, 2)  # stored (t, y, x)
    ours = FAMILY.solve(truth[:1], FAMILY.frame_times()[:21], FAMILY.default_grid(), coefficients())[0]
    error = np.linalg.norm((ours - truth).reshape(-1, 2), axis=0) / np.linalg.norm(truth.reshape(-1, 2), axis=0)
    assert (error < 2e-4).all()
