"""Compressible Navier-Stokes in one and two dimensions against exact solutions, symmetries and PDEBench's files."""

from pathlib import Path

import numpy as np
import pytest

from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, Grid, gas
from ups_server.pde.compressible import compressible_solution
from ups_server.pde.families.compressible_ns import CompressibleNs1D, CompressibleNs2D
from ups_server.pde.gas import GAMMA
from ups_server.pde.grid import Array
from ups_server.pde.solution import at_times

LINE, SQUARE = CompressibleNs1D(), CompressibleNs2D()


def solve(initial: Array, times: list[float], grid: Grid, eta: float = 0.0, zeta: float = 0.0) -> Array:
    """One trajectory (T, X..., C) on the grid's own points."""
    solution = compressible_solution(
        initial[None], grid, periodic(grid.ndim), np.array([eta]), np.array([zeta]), points=grid.n[0]
    )
    result: Array = at_times(solution, np.array(times))[0]
    return result


def periodic(ndim: int) -> BoundaryCondition:
    return BoundaryCondition.uniform(BoundaryKind.PERIODIC, ndim)


def unit(n: int, ndim: int = 1) -> Grid:
    return Grid((n,) * ndim, ((0.0, 1.0),) * ndim)


def stack(*fields: Array | float) -> Array:
    return np.stack(np.broadcast_arrays(*fields), axis=-1).astype(np.float64)


def order(errors: list[float]) -> float:
    return float(np.log2(errors[-2] / errors[-1]))


def exact_simple_wave(x: Array, time: float, amplitude: float) -> Array:
    """Velocity, density and pressure of an isentropic wave to the right, before it breaks; p = rho = 1 where v = 0."""
    sound = np.sqrt(GAMMA)
    v = np.zeros_like(x)
    for _ in range(200):
        v = amplitude * np.sin(2.0 * np.pi * (x - (sound + 0.5 * (GAMMA + 1.0) * v) * time))
    local = 1.0 + 0.5 * (GAMMA - 1.0) * v / sound
    return stack(v, local ** (2.0 / (GAMMA - 1.0)), local ** (2.0 * GAMMA / (GAMMA - 1.0)))


def test_second_order_on_a_simple_wave() -> None:
    errors = []
    for n in (64, 128, 256):
        x = unit(n).axes[0]
        solution = solve(exact_simple_wave(x, 0.0, 0.1), [0.0, 0.4], unit(n))
        errors.append(float(np.abs(solution[1] - exact_simple_wave(x, 0.4, 0.1)).mean()))
    assert order(errors) == pytest.approx(2.0, abs=0.4)
    assert errors[-1] < 1e-4


def test_second_order_on_an_entropy_wave_across_the_square() -> None:
    errors = []
    for n in (16, 32, 64):
        x, y = np.meshgrid(*unit(n, 2).axes, indexing="ij")
        start, end = (
            stack(1.0, -0.5, 1.0 + 0.2 * np.sin(2.0 * np.pi * (x + y - 0.5 * time)), 1.0) for time in (0.0, 0.5)
        )
        errors.append(float(np.abs(solve(start, [0.0, 0.5], unit(n, 2))[1] - end).mean()))
    assert order(errors) == pytest.approx(2.0, abs=0.5)


@pytest.mark.slow
def test_second_order_on_a_travelling_isentropic_vortex() -> None:
    errors = []
    for n in (32, 64, 128):
        grid = Grid((n, n), ((-5.0, 5.0),) * 2)
        x, y = np.meshgrid(*grid.axes, indexing="ij")
        start, end = (vortex(x - shift, y - shift) for shift in (0.0, 1.0))
        errors.append(float(np.abs(solve(start, [0.0, 1.0], grid)[1] - end).mean()))
    assert order(errors) == pytest.approx(2.0, abs=0.4)


def vortex(x: Array, y: Array) -> Array:
    """An isentropic vortex in a stream (1, 1), at the origin of a box 10 wide."""
    strength = 2.0
    x, y = (np.mod(value + 5.0, 10.0) - 5.0 for value in (x, y))
    swirl = strength / (2.0 * np.pi) * np.exp(0.5 * (1.0 - x**2 - y**2))
    temperature = 1.0 - (GAMMA - 1.0) / (2.0 * GAMMA) * swirl**2
    density = temperature ** (1.0 / (GAMMA - 1.0))
    return stack(1.0 - y * swirl, 1.0 + x * swirl, density, density * temperature)


def test_second_order_of_friction_on_a_shear_wave() -> None:
    """v_y = sin(2 pi x) decays like exp(-eta (2 pi)^2 t) where the gas is too hot to be moved by the heat."""
    errors, eta = [], 0.05
    for n in (16, 32, 64):
        grid = Grid((n, 4), ((0.0, 1.0), (0.0, 0.25)))
        x = grid.axes[0][:, None] + np.zeros((1, 4))
        start = stack(0.0, 1e-3 * np.sin(2.0 * np.pi * x), 1.0, 1.0)
        final = compressible_solution(start[None], grid, periodic(2), np.array([eta]), np.array([7.0]), 4).advance(0.3)[
            0
        ]
        exact = start[..., 1] * np.exp(-eta * (2.0 * np.pi) ** 2 * 0.3)
        errors.append(float(np.abs(final[..., 1] - exact).mean()))
    assert order(errors) == pytest.approx(2.0, abs=0.3)


def test_damped_sound() -> None:
    """omega = +-sqrt(c^2 k^2 - (nu k^2 / 2)^2) - i nu k^2 / 2, with nu = zeta + 4/3 eta and no heat conduction."""
    n, eta, zeta, small = 256, 0.01, 0.02, 1e-5
    x, k = unit(n).axes[0], 2.0 * np.pi
    nu = zeta + 4.0 / 3.0 * eta
    damping = 0.5 * nu * k**2
    omega = np.sqrt(GAMMA * k**2 - damping**2)
    start = stack(small * np.sin(k * x), 1.0, 1.0)
    time = 0.7
    velocity = solve(start, [0.0, time], unit(n), eta, zeta)[1, :, 0]
    factor = np.exp(-damping * time) * (np.cos(omega * time) - damping / omega * np.sin(omega * time))
    np.testing.assert_allclose(velocity, factor * start[:, 0], atol=2e-3 * small)


def test_runge_kutta_legendre_is_of_second_order_and_stable_with_few_stages() -> None:
    n = 64
    x = unit(n).axes[0]
    state = gas.conserved(stack(1.0 + 0.3 * np.cos(2.0 * np.pi * x), np.sin(2.0 * np.pi * x), 5.0).T[..., None])
    eta, zeta, spacing = np.array([0.02]), np.array([0.0]), (1.0 / n,)
    rough = gas.density_roughness(state[0], (True,))

    def after(count: int) -> Array:
        step = np.array([0.5 / count])
        stages = int(gas.friction_stages(step, eta, zeta, spacing, rough)[0])
        assert stages % 2 == 1
        result = state
        for _ in range(count):
            result = gas.advance_friction(result, step, stages, eta, zeta, spacing, (True,))
        return result

    exact = after(4096)
    errors = [float(np.abs(after(count) - exact).max()) for count in (8, 16, 32)]
    assert order(errors) == pytest.approx(2.0, abs=0.4)
    assert np.abs(after(1)[1]).max() < np.abs(state[1]).max()


@pytest.mark.parametrize("viscosity", [0.0, 0.1])
def test_mass_momentum_and_energy_are_conserved(viscosity: float) -> None:
    grid = SQUARE.default_grid(32)
    initial = SQUARE.fit_initial(SQUARE.sample_initial(np.random.default_rng(0), 1, grid), {"M": np.array([1.0])})[0]
    solution = solve(initial, [0.0, 0.1, 0.2], grid, viscosity, viscosity)
    density, pressure = solution[..., 2], solution[..., 3]
    energy = pressure / (GAMMA - 1.0) + 0.5 * density * (solution[..., :2] ** 2).sum(axis=-1)
    for quantity in (density, energy):
        total = quantity.mean(axis=(1, 2))
        np.testing.assert_allclose(total, total[0], rtol=1e-12)
    momentum = (density[..., None] * solution[..., :2]).mean(axis=(1, 2))
    means = SQUARE.conserved_means(solution)
    assert list(means) == ["density", "momentum x", "momentum y", "energy"]
    np.testing.assert_allclose(means["energy"], energy.mean(axis=(1, 2)))
    np.testing.assert_allclose(means["momentum y"], momentum[:, 1])
    np.testing.assert_allclose(momentum, momentum[:1].repeat(3, axis=0), atol=1e-11)


def test_a_strip_of_the_square_is_the_line() -> None:
    grid = Grid((64,), ((0.0, 1.0),))
    x = grid.axes[0]
    line = stack(np.sin(2.0 * np.pi * x), 1.0 + 0.5 * np.cos(2.0 * np.pi * x), 2.0)
    expected = solve(line, [0.0, 0.05], grid, 0.02, 0.01)[1]
    strip = np.insert(line, 1, 0.0, axis=-1)
    # A second axis of one huge cell takes nothing from the step of the first.
    for along_y in (False, True):
        box = Grid((4, 64) if along_y else (64, 4), ((0.0, 4e6), (0.0, 1.0)) if along_y else ((0.0, 1.0), (0.0, 4e6)))
        initial = np.stack([strip[..., [1, 0, 2, 3]] if along_y else strip] * 4, axis=0 if along_y else 1)
        eta, zeta = np.array([0.02]), np.array([0.01])
        final = compressible_solution(initial[None], box, periodic(2), eta, zeta, points=4).advance(0.05)[0]
        if along_y:
            final = final.swapaxes(0, 1)[..., [1, 0, 2, 3]]
        for row in range(4):
            np.testing.assert_allclose(final[:, row, [0, 2, 3]], expected, rtol=0.0, atol=2e-6)
            np.testing.assert_array_equal(final[:, row, 1], 0.0)


def test_turning_the_square_turns_the_solution() -> None:
    grid = SQUARE.default_grid(32)
    initial = SQUARE.sample_initial(np.random.default_rng(1), 1, grid)[0]
    turned = initial.swapaxes(0, 1)[..., [1, 0, 2, 3]]
    expected = solve(initial, [0.0, 0.05], grid, 0.01, 0.02)[1].swapaxes(0, 1)[..., [1, 0, 2, 3]]
    np.testing.assert_allclose(solve(turned, [0.0, 0.05], grid, 0.01, 0.02)[1], expected, atol=1e-9)


@pytest.mark.parametrize("family", [LINE, SQUARE])
def test_mirrored_states_stay_mirrored(family: CompressibleNs1D | CompressibleNs2D) -> None:
    grid = family.default_grid(32)
    initial = family.sample_initial(np.random.default_rng(2), 1, grid)[0]
    expected = solve(initial, [0.0, 0.03], grid, 0.05, 0.05)[1]
    for axis, signs in enumerate(family.reflections):
        mirrored = solve(np.flip(initial, axis) * signs, [0.0, 0.03], grid, 0.05, 0.05)[1]
        np.testing.assert_allclose(mirrored, np.flip(expected, axis) * signs, atol=1e-9)


@pytest.mark.parametrize("viscosity", [0.0, 1e-3])
def test_gas_torn_apart_stays_positive(viscosity: float) -> None:
    x = unit(200).axes[0]
    # 4 / (gamma - 1) sound speeds and more between the two streams: a vacuum opens at the centre.
    initial = stack(np.where(x < 0.5, -12.0, 12.0), np.where(np.abs(x - 0.5) < 0.1, 1e-4, 1.0), 0.4)
    solution = solve(initial, [0.0, 0.01, 0.03], unit(200), viscosity, viscosity)
    assert np.isfinite(solution).all()
    assert (solution[..., 1:] > 0.0).all()
    total = solution[..., 1].mean(axis=1)
    np.testing.assert_allclose(total, total[0], rtol=1e-12)


def test_a_blast_in_a_thin_square_stays_positive() -> None:
    x, y = np.meshgrid(*unit(32, 2).axes, indexing="ij")
    initial = stack(0.0, 0.0, 1e-3, np.where(np.hypot(x - 0.5, y - 0.5) < 0.1, 1e3, 1e-6))
    solution = solve(initial, [0.0, 5e-5], unit(32, 2))
    assert (solution[..., 2:] > 0.0).all()


def test_rescaling_the_box() -> None:
    """x -> L x at the same times: v -> L v, p -> L^2 p, eta -> L^2 eta."""
    grid, large = LINE.default_grid(64), Grid((64,), ((-4.0, 4.0),))
    initial = LINE.sample_initial(np.random.default_rng(3), 1, grid)[0]
    scale = np.array([4.0**-field.length_power for field in LINE.fields])
    expected = solve(initial, [0.0, 0.05], grid, 0.01, 0.02)
    np.testing.assert_allclose(solve(initial * scale, [0.0, 0.05], large, 0.16, 0.32), expected * scale, rtol=1e-8)


def test_coarse_states_are_solved_as_well_as_fine_ones() -> None:
    fine = LINE.default_grid(512)
    coefficients = {name: np.array([0.1]) for name in ("eta", "zeta")}
    times = np.array([0.0, 0.05])
    # A state of few waves, without windows.
    x = fine.axes[0]
    initial = stack(np.sin(np.pi * x), 3.0 + np.cos(2.0 * np.pi * x), 10.0 + np.sin(3.0 * np.pi * x))[None]
    expected = LINE.solve(initial, times, fine, coefficients)
    coarse = LINE.solve(initial[:, ::8], times, fine.subsample(8), coefficients)
    np.testing.assert_allclose(coarse, expected[:, :, ::8], atol=1e-9)


def test_refinement_leaves_density_and_pressure_positive() -> None:
    x = unit(32).axes[0]
    peaked = np.where(np.abs(x - 0.5) < 0.1, 10.0, 0.01)
    solution = LINE.solve(
        stack(0.0, peaked, peaked)[None], np.array([0.0, 1e-3]), unit(32), {k: np.zeros(1) for k in ("eta", "zeta")}
    )
    assert (solution[..., 1:] > 0.0).all()


@pytest.mark.parametrize("family", [LINE, SQUARE])
def test_trajectories_do_not_depend_on_their_company(family: CompressibleNs1D | CompressibleNs2D) -> None:
    """Whatever their speeds and viscosities, none among them: to the last bits but those of sums."""
    grid, count = family.default_grid(64), 6
    viscosity = np.array([0.0, 0.1, 0.0, 1e-3, 0.02, 0.1])
    coefficients = {"M": np.linspace(0.1, 1.0, count), "eta": viscosity, "zeta": viscosity}
    initial = family.draw_initial(np.random.default_rng(12), count, grid, coefficients)
    together = family.begin(initial, grid, coefficients).advance(0.02)
    for row in range(count):
        one = {name: values[row : row + 1] for name, values in coefficients.items()}
        alone = family.begin(initial[row : row + 1], grid, one).advance(0.02)[0]
        np.testing.assert_allclose(together[row], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("family", "n", "time"), [(LINE, 512, 0.2), (SQUARE, 64, 0.1)])
def test_single_precision_is_right_to_a_few_parts_in_ten_thousand(
    family: CompressibleNs1D | CompressibleNs2D, n: int, time: float
) -> None:
    grid = family.default_grid(n)
    coefficients = {"M": np.array([0.1, 1.0]), "eta": np.array([0.1, 1e-3]), "zeta": np.array([0.1, 1e-3])}
    initial = family.draw_initial(np.random.default_rng(11), 2, grid, coefficients)
    exact, single = (entry.begin(initial, grid, coefficients).advance(time) for entry in (family, family.in_single()))
    assert not np.array_equal(single, exact)
    space = tuple(range(1, initial.ndim - 1))
    error = np.sqrt(np.square(single - exact).mean(axis=space) / np.square(exact).mean(axis=space))
    assert (error[:, : family.ndim] < 3e-4).all()
    assert (error[:, family.ndim :] < 2e-5).all()
    for mean in family.conserved_means(np.stack([initial[1], single[1]])).values():
        assert mean[1] == pytest.approx(mean[0], rel=1e-5, abs=1e-5 * np.abs(initial[1]).max())


def test_negative_pressure_is_the_users_mistake() -> None:
    with pytest.raises(UserError) as caught:
        solve(stack(np.zeros(8), 1.0, -1.0), [0.0, 0.1], unit(8))
    assert caught.value.code == "state_not_positive"


FILES = {
    "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5": (LINE, 21, 0.005, 0.0013),
    "2D_CFD_Rand_M0.1_Eta0.1_Zeta0.1_periodic_128_Train.hdf5": (SQUARE, 3, 0.01, 0.0009),
}


@pytest.mark.parametrize("name", FILES)
def test_solutions_agree_with_pdebench(name: str, pdebench: Path) -> None:
    import h5py

    family, frames, bar, increment_bar = FILES[name]
    with h5py.File(pdebench / name, "r") as file:
        truth = np.stack([file[field.name][:1, :frames] for field in family.fields], axis=-1).astype(np.float64)
    grid, times = family.default_grid(), family.frame_times()[:frames]
    ours = family.solve(truth[:, 0], times, grid, {key: np.array([0.1]) for key in ("M", "eta", "zeta")})
    over = (0, 1, *range(2, truth.ndim - 1))
    error = np.sqrt(((ours - truth) ** 2).mean(axis=over) / (truth**2).mean(axis=over))
    assert (error < bar).all()
    step = round(family.dt / family.frame_dt)
    assert np.linalg.norm(ours[:, step] - truth[:, step]) < increment_bar * np.linalg.norm(truth[:, step])


def test_friction_never_takes_more_heat_than_a_cell_has() -> None:
    """Windowed waves at Mach 3 with strong friction: at the window's edge the work at faces exceeds a cell's heat."""
    grid = Grid((64, 64), SQUARE.extent)
    x, y = np.meshgrid(*grid.axes, indexing="ij")
    inside = (np.abs(x - 0.5) < 0.22) & (np.abs(y - 0.5) < 0.22)
    waves = [np.sin(2 * np.pi * (2 * x + y)) * inside, np.cos(2 * np.pi * (x - 2 * y)) * inside]
    state = np.stack([*waves, np.full_like(x, 5.0), np.full_like(x, 0.3)], axis=-1)
    answer = solve(state, [0.0, 0.02], grid, 0.16, 0.16)
    assert answer[-1, ..., 3].min() > 0.0
    energy = SQUARE.conserved_means(answer)["energy"]
    np.testing.assert_allclose(energy, energy[0], rtol=1e-12)
