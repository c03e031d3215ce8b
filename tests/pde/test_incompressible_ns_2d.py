"""Incompressible flow against an exact solution with walls, its invariants and symmetries, and PDEBench's file."""

from pathlib import Path

import numpy as np
import pytest

from ups_server.errors import UserError
from ups_server.pde import Grid
from ups_server.pde.families.incompressible_ns_2d import IncompressibleNs2D
from ups_server.pde.grid import Array
from ups_server.pde.incompressible import STEP, incompressible_solution, to_faces
from ups_server.pde.solution import at_times

FAMILY = IncompressibleNs2D()


def draw(n: int, count: int = 1, seed: int = 0) -> tuple[Grid, Array, Array]:
    grid = FAMILY.default_grid(n)
    initial = FAMILY.sample_initial(np.random.default_rng(seed), count, grid)
    return grid, initial, FAMILY.sample_static(np.random.default_rng([seed, 1]), count, grid)


def nu(value: float, count: int = 1) -> dict[str, Array]:
    return {"nu": np.full(count, value)}


def divergence(states: Array, grid: Grid) -> Array:
    """Net outflow (N, X, Y) per area of each cell."""
    u, v = to_faces(states[..., 0], 1), to_faces(states[..., 1], 2)
    across = np.diff(np.pad(u, ((0, 0), (1, 1), (0, 0))), axis=1) / grid.spacing[0]
    along = np.diff(np.pad(v, ((0, 0), (0, 0), (1, 1))), axis=2) / grid.spacing[1]
    result: Array = across + along
    return result


def held_vortex(n: int, viscosity: float) -> tuple[Grid, Array, Array]:
    """A steady flow of stream function sin^2(pi x) sin^2(pi y) / pi: at rest on the walls, held by its force.

    Particles are 1 everywhere, so the force is v . grad v - nu lap v, up to a gradient.
    """
    grid = FAMILY.default_grid(n)
    x, y = np.meshgrid(*grid.axes, indexing="ij")
    s, c = np.sin, np.cos
    p = np.pi
    u, v = s(p * x) ** 2 * s(2 * p * y), -s(2 * p * x) * s(p * y) ** 2
    u_x, u_y = p * s(2 * p * x) * s(2 * p * y), 2 * p * s(p * x) ** 2 * c(2 * p * y)
    v_x, v_y = -2 * p * c(2 * p * x) * s(p * y) ** 2, -p * s(2 * p * x) * s(2 * p * y)
    lap_u = 2 * p**2 * c(2 * p * x) * s(2 * p * y) - 4 * p**2 * s(p * x) ** 2 * s(2 * p * y)
    lap_v = 4 * p**2 * s(2 * p * x) * s(p * y) ** 2 - 2 * p**2 * s(2 * p * x) * c(2 * p * y)
    force = np.stack([u * u_x + v * u_y - viscosity * lap_u, u * v_x + v * v_y - viscosity * lap_v], axis=-1)
    return grid, np.stack([u, v, np.ones_like(u)], axis=-1)[None], force[None]


@pytest.mark.parametrize("viscosity", [0.01, 0.1])
def test_first_order_towards_a_steady_vortex_between_walls(viscosity: float) -> None:
    errors = []
    for n in (16, 32, 64):
        grid, state, force = held_vortex(n, viscosity)
        solution = FAMILY.solve(state, np.array([0.0, 0.2]), grid, nu(viscosity), force)
        errors.append(np.sqrt(((solution[0, 1] - state[0])[..., :2] ** 2).mean()))
        np.testing.assert_allclose(solution[..., 2], 1.0, atol=1e-12)
    assert errors[-1] < 0.03
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 0.8).all()


def test_steps_are_of_first_order() -> None:
    grid, initial, force = draw(24, seed=1)
    start = FAMILY.solve(initial, np.array([0.0, 0.05]), grid, nu(0.01), force)[:, 1]
    times, ends = np.array([0.0, 0.1]), []
    for step in (0.02, 0.01, 0.005, 0.000625):
        ends.append(at_times(incompressible_solution(start, grid, np.array([0.01]), force, step), times)[0, 1])
    errors = [np.sqrt(((end - ends[-1]) ** 2).mean()) for end in ends[:-1]]
    assert np.log2(errors[1] / errors[2]) == pytest.approx(1.0, abs=0.3)


def test_waves_between_walls_decay_as_the_scheme_says() -> None:
    # Too slow to carry itself; free of divergence, and its diffusion has no gradient: a wave of the whole channel.
    n, viscosity = 16, 0.03
    grid = Grid((n, n), FAMILY.extent)
    u = np.zeros((1, n - 1, n))
    u[0] = 1e-9 * np.sin(np.pi * np.arange(1, n) / n)[:, None] * np.sin(np.pi * np.arange(1, n + 1) / (n + 1))
    centred = 0.5 * (np.pad(u, ((0, 0), (1, 0), (0, 0))) + np.pad(u, ((0, 0), (0, 1), (0, 0))))
    state = np.stack([centred, np.zeros_like(centred), np.zeros_like(centred)], axis=-1)
    after = FAMILY.solve(state, np.array([0.0, STEP]), grid, nu(viscosity))[:, 1]
    rate = 4.0 * n**2 * (np.sin(0.5 * np.pi / n) ** 2 + np.sin(0.5 * np.pi / (n + 1)) ** 2)
    decayed = state * (1.0 - viscosity * STEP * rate)
    # The projection removes a gradient; what is left of the curl has decayed by the factor.
    np.testing.assert_allclose(curl(after), curl(decayed), atol=1e-9 * np.abs(curl(state)).max())


def curl(states: Array) -> Array:
    """Circulation around the inner corners of cells."""
    u, v = to_faces(states[..., 0], 1), to_faces(states[..., 1], 2)
    result: Array = np.diff(v, axis=1) - np.diff(u, axis=2)
    return result


def test_flow_is_free_of_divergence_after_the_first_step() -> None:
    grid, initial, force = draw(32, 3)
    assert np.abs(divergence(initial, grid)).max() > 1.0
    solution = FAMILY.solve(initial, np.array([0.0, STEP, 0.05]), grid, nu(0.01, 3), force)
    for frame in (1, 2):
        assert np.abs(divergence(solution[:, frame], grid)).max() < 1e-10


def test_projection_is_orthogonal() -> None:
    # Without time to move, the first step takes away a gradient: the rest is orthogonal to what was taken.
    grid, initial, _ = draw(32)
    projected = incompressible_solution(initial, grid, np.zeros(1), None, 1e-12).advance(1e-12)
    before, after = ([to_faces(s[..., 0], 1), to_faces(s[..., 1], 2)] for s in (initial, projected))
    product = sum((a * (b - a)).sum() for a, b in zip(after, before, strict=True))
    assert abs(product) < 1e-8 * sum((b**2).sum() for b in before)


def test_velocity_vanishes_towards_the_walls() -> None:
    slips = []
    for n in (32, 64, 128):
        grid, initial, force = draw(n, seed=3)
        late = FAMILY.solve(initial, np.array([0.0, 0.1]), grid, nu(0.05), force)[0, 1]
        slips.append(np.abs([late[0, :, 1], late[-1, :, 1], late[:, 0, 0], late[:, -1, 0]]).mean())
        # Flow through a wall is zero exactly: cells' means of faces that end in zero alternate to nothing.
        alternating = (-1.0) ** np.arange(n)
        np.testing.assert_allclose(alternating @ late[..., 0], 0.0, atol=1e-12)
        np.testing.assert_allclose(late[..., 1] @ alternating, 0.0, atol=1e-12)
    assert slips[1] < 0.65 * slips[0]
    assert slips[2] < 0.65 * slips[1]


def test_energy_decays_without_force_and_particles_do_not_matter() -> None:
    grid, initial, _ = draw(32, 2)
    times = np.array([0.0, 0.1, 0.3])
    solution = FAMILY.solve(initial, times, grid, nu(0.0, 2))
    energy = (solution[..., :2] ** 2).sum(axis=(2, 3, 4))
    assert (np.diff(energy, axis=1) < 0.0).all()
    initial[..., 2] = 5.0
    again = FAMILY.solve(initial, times, grid, nu(0.0, 2), np.zeros((2, 32, 32, 2)))
    np.testing.assert_allclose(again[:, 1:, ..., :2], solution[:, 1:, ..., :2], atol=1e-13)


def test_the_force_acts_on_particles() -> None:
    grid, initial, force = draw(24)
    turned = initial * np.array([1.0, 1.0, -1.0])
    straight, other = (
        FAMILY.solve(state, np.array([0.0, 0.2]), grid, nu(0.01), f)
        for state, f in ((initial, force), (turned, -force))
    )
    np.testing.assert_allclose(other * np.array([1.0, 1.0, -1.0]), straight, atol=1e-13)
    # A force that is a gradient on uniform particles is balanced by pressure alone.
    rest = np.zeros((1, 24, 24, 3))
    rest[..., 2] = 2.0
    u = np.broadcast_to(np.diff(np.sin(np.pi * grid.axes[0]))[:, None], (23, 24)) * 24
    v = np.broadcast_to(np.diff(grid.axes[1] ** 2), (24, 23)) * 24
    centred = np.zeros((1, 24, 24, 2))
    centred[0, :-1, :, 0] += 0.5 * u
    centred[0, 1:, :, 0] += 0.5 * u
    centred[0, :, :-1, 1] += 0.5 * v
    centred[0, :, 1:, 1] += 0.5 * v
    np.testing.assert_allclose(
        FAMILY.solve(rest, np.array([0.0, 0.05]), grid, nu(0.01), centred)[:, 1], rest, atol=1e-11
    )


def test_particles_keep_between_their_extremes() -> None:
    grid, initial, force = draw(32, 2, seed=5)
    late = FAMILY.solve(initial, np.array([0.0, 0.1, 0.5]), grid, nu(0.001, 2), 3.0 * force)[..., 2]
    assert (late.max(axis=(2, 3)) <= initial[..., 2].max(axis=(1, 2))[:, None]).all()
    assert (late.min(axis=(2, 3)) >= initial[..., 2].min(axis=(1, 2))[:, None]).all()


def test_reflections_and_the_exchange_of_axes() -> None:
    grid, initial, force = draw(24, seed=6)
    times = np.array([0.0, 0.1])
    straight = FAMILY.solve(initial, times, grid, nu(0.01), force)[:, 1]
    signs = np.array([-1.0, 1.0, 1.0])
    mirrored = FAMILY.solve(initial[:, ::-1] * signs, times, grid, nu(0.01), force[:, ::-1] * signs[:2])[:, 1]
    np.testing.assert_allclose(mirrored[:, ::-1] * signs, straight, atol=1e-12)
    turned = initial.swapaxes(1, 2)[..., [1, 0, 2]], force.swapaxes(1, 2)[..., [1, 0]]
    exchanged = FAMILY.solve(turned[0], times, grid, nu(0.01), turned[1])[:, 1]
    np.testing.assert_allclose(exchanged.swapaxes(1, 2)[..., [1, 0, 2]], straight, atol=1e-12)


def test_a_rescaled_box_is_the_same_flow() -> None:
    n, times = (16, 24), np.array([0.0, 0.05])
    grid, large = Grid(n, ((0.0, 1.0), (0.0, 1.5))), Grid(n, ((0.0, 2.0), (0.0, 3.0)))
    initial, force = FAMILY.sample_initial(np.random.default_rng(0), 1, grid), 0.3 * np.ones((1, *n, 2))
    scale = np.array([2.0, 2.0, 1.0])
    straight = FAMILY.solve(initial, times, grid, nu(0.01), force)
    rescaled = FAMILY.solve(initial * scale, times, large, nu(0.04), force * scale[:2])
    np.testing.assert_allclose(rescaled / scale, straight, atol=1e-12)


def test_frames_are_states_to_start_from_and_do_not_change_the_steps() -> None:
    grid, initial, force = draw(24, 2, seed=7)
    times = STEP * np.array([5.0, 5.4, 7.0, 9.5, 12.0])
    whole = FAMILY.solve(initial, times, grid, nu(0.01, 2), force)
    np.testing.assert_array_equal(FAMILY.solve(initial, times[[0, 4]], grid, nu(0.01, 2), force)[:, 1], whole[:, 4])
    again = FAMILY.solve(whole[:, 2], times[2:5:2], grid, nu(0.01, 2), force)
    np.testing.assert_allclose(again[:, 1], whole[:, 4], atol=1e-12)
    assert np.abs(whole[:, 1] - whole[:, 0]).max() > 0.0


def test_a_batch_with_force_and_any_viscosity_is_its_trajectories() -> None:
    grid, initial, force = draw(32, 40)
    viscosity, times = np.geomspace(1e-4, 10.0, 40), np.array([0.0, 0.003])
    together = FAMILY.solve(initial, times, grid, {"nu": viscosity}, force)
    for row in (0, 17, 39):
        one = slice(row, row + 1)
        alone = FAMILY.solve(initial[one], times, grid, {"nu": viscosity[one]}, force[one])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-12)


def test_implicit_diffusion_is_that_of_many_explicit_steps() -> None:
    grid, initial, _ = draw(32)
    start = FAMILY.solve(initial, np.array([0.0, 0.01]), grid, nu(0.3))[:, 1]
    coarse, fine = (
        incompressible_solution(start, grid, np.array([0.3]), None, step).advance(0.01)[0, ..., :2]
        for step in (STEP, STEP / 16)  # nu dt / dx^2 = 0.31 and 0.02
    )
    assert np.sqrt(((coarse - fine) ** 2).mean()) < 0.02 * np.sqrt((fine**2).mean())


def test_fast_flow_stays_bounded() -> None:
    grid, initial, force = draw(24)
    fast = initial * np.array([1e3, 1e3, 1.0])
    solution = FAMILY.solve(fast, np.array([0.0, 0.01]), grid, nu(0.01), force)
    assert np.isfinite(solution).all()
    assert np.abs(solution[:, 1, ..., :2]).max() < 4.0 * np.abs(fast[..., :2]).max()


def test_states_and_forces_follow_their_spectra() -> None:
    _, states, forces = draw(64, 24, seed=8)
    assert np.abs(states[..., 2].mean(axis=(1, 2))).max() < 1e-12
    np.testing.assert_allclose((states[..., 2] ** 2).mean(axis=(1, 2)), 1.0, atol=1e-12)
    for fields in (states[..., :2], forces):
        assert (fields**2).mean() == pytest.approx(1.0, abs=0.1)
    assert np.corrcoef(states[..., 0].ravel(), states[..., 1].ravel())[0, 1] == pytest.approx(0.0, abs=0.3)
    faces = np.pad(to_faces(forces[..., 0], 1), ((0, 0), (1, 0), (0, 0)))
    power = (np.abs(np.fft.fft2(faces)) ** 2).mean(axis=0)
    k = np.fft.fftfreq(64, 1 / 64)
    square = k[:, None] ** 2 + k**2
    assert power[square == 5].sum() > 0.85 * power.sum()


def test_samples_are_the_same_functions_on_every_grid() -> None:
    fine, coarse = draw(96)[1], draw(32)[1]
    np.testing.assert_allclose(fine[:, 1::3, 1::3, 2], coarse[..., 2], atol=1e-12)
    u_fine, u_coarse = to_faces(fine[..., 0], 1), to_faces(coarse[..., 0], 1)
    np.testing.assert_allclose(u_fine[:, 2::3, 1::3], u_coarse, atol=1e-10)


def test_a_single_cell_across_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        FAMILY.solve(np.zeros((1, 1, 8, 3)), np.array([0.0, 0.05]), Grid((1, 8), FAMILY.extent), nu(0.01))
    assert caught.value.code == "invalid_grid"


@pytest.mark.parametrize("first", [0, 1], ids=["before the projection", "after"])
def test_frames_of_pdebench(pdebench: Path, first: int) -> None:
    import h5py

    with h5py.File(pdebench / "ns_incom_inhom_2d_64-0.h5", "r") as file:
        frames = slice(first, first + 31)
        truth = np.concatenate([file["velocity"][:, frames], file["particles"][:, frames]], axis=-1).astype(np.float64)
        force = file["force"][:].astype(np.float64)
    ours = FAMILY.solve(truth[:, 0], FAMILY.frame_times()[:31], FAMILY.default_grid(64), nu(0.01), force)
    error = np.linalg.norm((ours - truth).reshape(-1, 3), axis=0) / np.linalg.norm(truth.reshape(-1, 3), axis=0)
    assert (error < 3e-4).all()


def test_wide_states_and_forces_have_other_strengths() -> None:
    """Flow and particles by factors of 0.5 to 2, the force of 0.3 to 3, log-uniform."""
    grid, count = FAMILY.default_grid(16), 400
    nu = {"nu": np.full(count, 0.01)}
    usual = FAMILY.draw_initial(np.random.default_rng(3), count, grid, nu)
    wide = FAMILY.draw_initial(np.random.default_rng(3), count, grid, nu, "wide")
    force, strong = (FAMILY.draw_static(np.random.default_rng(4), count, grid, kind) for kind in ("rand", "wide"))
    assert force is not None
    assert strong is not None
    for values, others, low, high in (
        (usual[..., :2], wide[..., :2], 0.5, 2.0),
        (usual[..., 2:], wide[..., 2:], 0.5, 2.0),
        (force, strong, 0.3, 3.0),
    ):
        sizes, varied = (np.sqrt(np.square(v).mean(axis=(1, 2, 3))) for v in (values, others))
        spread = np.log(varied).std() ** 2 - np.log(sizes).std() ** 2
        assert spread == pytest.approx(np.log(high / low) ** 2 / 12.0, rel=0.3)
