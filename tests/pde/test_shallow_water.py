"""Shallow water against Stoker's dam break, simple waves and the linear limit; volume, positivity, symmetry."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq

from ups_server.errors import UserError
from ups_server.pde import Grid
from ups_server.pde.families.shallow_water import STEP, ShallowWater, advance
from ups_server.pde.grid import Array

FAMILY = ShallowWater()
EXTENT = FAMILY.extent


def strip(n: int, axis: int) -> Grid:
    """n cells along one axis, three across."""
    return Grid((n, 3) if axis == 0 else (3, n), EXTENT)


def along(profile: Array, grid: Grid, axis: int) -> Array:
    """The state (X, Y) that varies along one axis only."""
    values = profile[:, None] if axis == 0 else profile[None, :]
    return np.broadcast_to(values, grid.n).copy()


def flow(grid: Grid, depth: Array, u: Array, v: Array) -> Array:
    return np.stack(np.broadcast_arrays(depth, depth * u, depth * v))


def stoker(x: Array, time: float, left: float, right: float) -> Array:
    """Depth of the dam break over a wet bed: a rarefaction, a plateau and a bore."""

    def mismatch(middle: float) -> float:
        behind = 2.0 * (np.sqrt(left) - np.sqrt(middle))
        return float(behind - (middle - right) * np.sqrt(0.5 * (1.0 / middle + 1.0 / right)))

    middle = brentq(mismatch, right, left, xtol=1e-14)
    u = 2.0 * (np.sqrt(left) - np.sqrt(middle))
    bore = middle * u / (middle - right)
    fan = (2.0 * np.sqrt(left) - x / time) ** 2 / 9.0
    head, tail = -np.sqrt(left) * time, (u - np.sqrt(middle)) * time
    conditions = [x < head, x < tail, x < bore * time]
    return np.select(conditions, [np.full_like(x, left), fan, np.full_like(x, middle)], right)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("right", [1.0, 0.05, 0.002], ids=["subcritical", "transonic", "nearly dry"])
def test_a_dam_break_is_stokers(axis: int, right: float) -> None:
    errors = []
    for n in (100, 200):
        grid = strip(n, axis)
        x = grid.axes[axis]
        start = along(np.where(x < 0.0, 2.0, right), grid, axis)
        solution = FAMILY.solve(start[None, ..., None], np.array([0.0, 0.8]), grid, {})[0, 1, ..., 0]
        profile = solution[:, 1] if axis == 0 else solution[1]
        assert np.ptp(solution, axis=1 - axis).max() == 0.0
        assert profile.min() > 0.5 * right
        assert profile.max() <= 2.0 + 1e-12
        errors.append(np.abs(profile - stoker(x, 0.8, 2.0, right)).mean())
    assert errors[1] < 0.005
    assert errors[1] < 0.65 * errors[0]


def test_a_lake_at_rest_stays_at_rest() -> None:
    grid = FAMILY.default_grid(16)
    depth = np.array([1.7, 0.3])[:, None, None, None] * np.ones((2, 16, 16, 1))
    solution = FAMILY.solve(depth, np.array([0.0, 0.013, 0.5]), grid, {})
    np.testing.assert_array_equal(solution, np.broadcast_to(depth[:, None], solution.shape))


@pytest.mark.parametrize("axis", [0, 1])
def test_small_waves_travel_at_the_square_root_of_the_depth(axis: int) -> None:
    grid, depth, time = strip(256, axis), 0.8, 1.0
    x = grid.axes[axis]

    def hump(position: Array) -> Array:
        result: Array = 1e-6 * np.exp(-8.0 * position**2)
        return result

    start = along(depth + hump(x), grid, axis)
    solution = FAMILY.solve(start[None, ..., None], np.array([0.0, time]), grid, {})[0, 1, ..., 0]
    way = np.sqrt(depth) * time
    exact = along(depth + 0.5 * (hump(x - way) + hump(x + way)), grid, axis)
    np.testing.assert_allclose(solution, exact, atol=0.02e-6)


def wave(x: Array) -> Array:
    """Depth at time 0 of a simple wave: u - 2 sqrt(h) is the same everywhere."""
    result: Array = 1.0 + 0.1 * np.exp(-6.0 * (x + 0.5) ** 2)
    return result


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("drift", [0.0, 2.5], ids=["subcritical", "supercritical"])
def test_second_order_on_simple_waves(axis: int, drift: float) -> None:
    time, errors = 0.3, []
    for n in (80, 160, 320):
        grid = strip(n, axis)
        x = grid.axes[axis]

        foot = x - drift * time
        for _ in range(200):
            foot = x - (drift + 3.0 * np.sqrt(wave(foot)) - 2.0) * time
        h = along(wave(x), grid, axis)
        u = drift + 2.0 * (np.sqrt(h) - 1.0)
        state = flow(grid, h, u, np.full_like(u, 0.4)) if axis == 0 else flow(grid, h, np.full_like(u, 0.4), u)
        solution = advance(state, time, grid)
        errors.append(np.abs(solution[0] - along(wave(foot), grid, axis)).mean())
        # The flow along the wave's crests is carried along unchanged.
        np.testing.assert_allclose(solution[2 - axis] / solution[0], 0.4, atol=1e-12)
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders.min() > 1.6


def radial_hump(n: int, time: float) -> Array:
    grid = FAMILY.default_grid(n)
    distance = np.hypot(*np.meshgrid(*grid.axes, indexing="ij"))
    start = 1.0 + 0.5 * np.exp(-4.0 * distance**2)
    return FAMILY.solve(start[None, ..., None], np.array([0.0, time]), grid, {})[0, 1, ..., 0]


def blocks(values: Array, n: int) -> Array:
    size = len(values) // n
    result: Array = values.reshape(n, size, n, size).mean(axis=(1, 3))
    return result


def test_convergence_in_two_dimensions() -> None:
    finest = radial_hump(192, 0.5)
    errors = [np.abs(radial_hump(n, 0.5) - blocks(finest, n)).mean() for n in (24, 48)]
    assert np.log2(errors[0] / errors[1]) > 1.6


def dam(n: int, count: int = 1, seed: int = 0) -> tuple[Grid, Array]:
    grid = FAMILY.default_grid(n)
    return grid, FAMILY.sample_initial(np.random.default_rng(seed), count, grid)


def test_volume_is_conserved_until_waves_reach_the_sides() -> None:
    grid, start = dam(64, 2)
    volume = FAMILY.solve(start, np.array([0.0, 0.25, 0.5, 0.75, 1.0]), grid, {}).mean(axis=(2, 3, 4))
    np.testing.assert_allclose(volume, volume[:, :1].repeat(5, axis=1), rtol=1e-10)


def test_waves_leave_through_the_sides() -> None:
    grid, start = dam(32)
    solution = FAMILY.solve(start, np.array([0.0, 2.0, 12.0]), grid, {})[0, ..., 0]
    assert np.ptp(solution[1]) > 0.05
    assert np.abs(solution[2] - 1.0).max() < 0.03


def test_depth_stays_positive_where_the_bed_is_nearly_laid_bare() -> None:
    grid = FAMILY.default_grid(32)
    x, y = np.meshgrid(*grid.axes, indexing="ij")
    # Water torn apart, faster than it can fill the gap.
    state = flow(grid, np.full_like(x, 0.5), 4.0 * np.sign(x), 4.0 * np.sign(y))
    volume = state[0].mean()
    for _ in range(6):
        state = advance(state, 0.02, grid)
        assert state[0].min() > 0.0
    assert state[0].min() < 1e-3
    outflow = state[0].mean() - volume
    assert -0.3 < outflow < 0.0
    noise = np.random.default_rng(0).uniform(-8.0, 0.5, grid.n)
    rough = FAMILY.solve(10.0 ** noise[None, ..., None], np.array([0.0, 0.02, 0.1]), grid, {})
    assert rough.min() > 0.0


@pytest.mark.parametrize("mirror", [np.s_[:, :, ::-1], np.s_[:, :, :, ::-1]])
def test_reflections(mirror: tuple[slice, ...]) -> None:
    grid, times = FAMILY.default_grid(32), np.array([0.0, 0.1, 0.5])
    start = 10.0 ** np.random.default_rng(1).uniform(-0.5, 0.5, (1, 1, 32, 32, 1))
    straight = FAMILY.solve(start[0], times, grid, {})
    np.testing.assert_allclose(FAMILY.solve(start[mirror][0], times, grid, {}), straight[mirror], atol=1e-12)


def test_a_quarter_turn_differs_by_the_splitting_error() -> None:
    hump = radial_hump(64, 0.5)
    np.testing.assert_allclose(hump[::-1, ::-1], hump, atol=1e-13)
    assert np.abs(hump.T - hump).max() < 4e-3 * np.ptp(hump)
    grid, start = dam(64)
    h = FAMILY.solve(start, FAMILY.frame_times(), grid, {})[0, ..., 0]
    assert np.linalg.norm(h - h.swapaxes(1, 2)) < 3e-3 * np.linalg.norm(h)


def test_frames_do_not_change_the_steps_between_them() -> None:
    grid, start = dam(48, 2)
    times = STEP * np.array([7.0, 7.4, 9.0, 9.5, 13.0])
    whole = FAMILY.solve(start, times, grid, {})
    np.testing.assert_array_equal(FAMILY.solve(start, times[[0, 4]], grid, {})[:, 1], whole[:, 4])
    between = whole[:, 1] - whole[:, 0]
    assert np.abs(between).max() > 0.0


def test_finer_grids_take_more_steps() -> None:
    grid = strip(1024, 0)
    x = grid.axes[0]
    start = along(np.where(x < 0.0, 2.0, 1.0), grid, 0)
    solution = FAMILY.solve(start[None, ..., None], np.array([0.0, 0.2]), grid, {})[0, 1, :, 1, 0]
    assert np.abs(solution - stoker(x, 0.2, 2.0, 1.0)).mean() < 5e-4


@pytest.mark.parametrize("depth", [0.0, -0.1, np.nan])
def test_dry_states_are_refused(depth: float) -> None:
    grid, start = dam(16)
    start[0, 3, 5] = depth
    with pytest.raises(UserError) as caught:
        FAMILY.solve(start, np.array([0.0, 0.01]), grid, {})
    assert caught.value.code == "depth_not_positive"


def test_dams_are_round() -> None:
    grid, start = dam(192, 100)
    assert set(np.unique(start)) == {1.0, 2.0}
    radius = np.sqrt((start - 1.0).sum(axis=(1, 2, 3)) * grid.spacing[0] ** 2 / np.pi)
    assert 0.295 < radius.min() < 0.33
    assert 0.67 < radius.max() < 0.705


def test_frames_of_pdebench(pdebench: Path) -> None:
    import h5py

    with h5py.File(pdebench / "2D_rdb_NA_NA.h5", "r") as file:
        truth = np.stack([group["data"][:41] for group in file.values()]).astype(np.float64)
    ours = FAMILY.solve(truth[:, 0], FAMILY.frame_times()[:41], FAMILY.default_grid(), {})
    np.testing.assert_allclose(ours, truth, atol=2e-7)
