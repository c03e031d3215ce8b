"""Steady Darcy flow against exact solutions, another discretisation, balance and symmetries, and PDEBench's file."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve

from ups_server.errors import UserError
from ups_server.pde import Grid
from ups_server.pde.families.darcy import (
    HIGH,
    LENGTH,
    LOW,
    Darcy,
    face_conductances,
    solve_extrapolated,
    solve_on_cells,
)
from ups_server.pde.grid import Array

FAMILY = Darcy()
NOW = np.zeros(1)


def solve(permeability: Array, beta: float = 1.0, grid: Grid | None = None) -> Array:
    """u (X, Y) of one permeability (X, Y)."""
    grid = grid or Grid(permeability.shape, FAMILY.extent)
    initial = np.zeros((1, *grid.n, 1))
    found = FAMILY.solve(initial, NOW, grid, {"beta": np.array([beta])}, permeability[None, ..., None])
    result: Array = found[0, 0, ..., 0]
    return result


def medium(n: int, seed: int = 0) -> Array:
    result: Array = FAMILY.sample_static(np.random.default_rng(seed), 1, FAMILY.default_grid(n))[0, ..., 0]
    return result


def relative(first: Array, second: Array) -> float:
    return float(np.linalg.norm(first - second) / np.linalg.norm(second))


def poisson(grid: Grid) -> Array:
    """-lap u = 1 in the unit square by its double sine series, at the centres of cells."""
    k = np.arange(1, 400, 2)
    along_x, along_y = (np.sin(np.pi * np.outer(k, axis)) for axis in grid.axes)
    amplitude = 16.0 / np.pi**4 / (np.outer(k, k) * (k[:, None] ** 2 + k**2))
    result: Array = along_x.T @ amplitude @ along_y
    return result


def test_second_order_on_a_uniform_medium() -> None:
    errors = []
    for n in (16, 32, 64):
        grid = FAMILY.default_grid(n)
        errors.append(relative(solve(np.full((n, n), 0.5), 2.0), 4.0 * poisson(grid)))
    assert np.log2(errors[-2] / errors[-1]) == pytest.approx(2.0, abs=0.2)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("method", [solve_on_cells, solve_extrapolated])
def test_second_order_on_a_smooth_medium(method: object) -> None:
    assert callable(method)
    solutions = {}
    for n in (16, 32, 128):
        grid = FAMILY.default_grid(n)
        x, y = np.meshgrid(*grid.axes, indexing="ij")
        permeability = np.exp(np.sin(2.0 * np.pi * x) * np.cos(np.pi * y))
        solutions[n] = method(permeability, grid)
    errors = [relative(solutions[n], means(solutions[128], n)) for n in (16, 32)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.3)


def means(values: Array, n: int) -> Array:
    size = len(values) // n
    result: Array = values.reshape(n, size, n, size).mean(axis=(1, 3))
    return result


def layers(n: int) -> tuple[Array, Array]:
    """Permeability of four layers in n cells, and the exact cell means of -(nu u')' = 1, u(0) = u(1) = 0."""
    nu = np.repeat([0.1, 1.0, 0.3, 1.0], n // 4)
    fine, x = np.repeat(nu, 16), (np.arange(16 * n) + 0.5) / (16 * n)
    # nu u' = q - x, where u(1) = 0 decides q.
    q = (x / fine).mean() / (1.0 / fine).mean()
    rise = (q - x) / fine / (16 * n)
    return nu, (np.cumsum(rise) - 0.5 * rise).reshape(n, 16).mean(axis=1)


@pytest.mark.parametrize("axis", [0, 1])
def test_second_order_across_straight_layers(axis: int) -> None:
    errors = []
    for n in (20, 40):
        nu, exact = layers(n)
        # Far from the ends of a long strip the flow is across it.
        shape, extent = ((n, 9), ((0.0, 1.0), (0.0, 40.0))) if axis == 0 else ((9, n), ((0.0, 40.0), (0.0, 1.0)))
        medium_of_layers = np.broadcast_to(nu[:, None] if axis == 0 else nu[None, :], shape).copy()
        found = solve(medium_of_layers, grid=Grid(shape, extent))
        errors.append(np.abs((found[:, 4] if axis == 0 else found[4]) - exact).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)
    assert errors[1] < 1e-3


def bilinear_elements(permeability: Array) -> Array:
    """Cell means of the solution by bilinear finite elements on square cells: a discretisation of another kind."""
    n = len(permeability)
    stiffness = np.array([[4, -1, -2, -1], [-1, 4, -1, -2], [-2, -1, 4, -1], [-1, -2, -1, 4]]) / 6.0
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    corners = np.stack([(i + a) * (n + 1) + j + b for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))], axis=-1).reshape(-1, 4)
    values = permeability.reshape(-1, 1, 1) * stiffness
    rows, columns = np.repeat(corners, 4, axis=1).ravel(), np.tile(corners, (1, 4)).ravel()
    system = coo_array((values.ravel(), (rows, columns)), shape=((n + 1) ** 2,) * 2).tocsc()
    inner = np.zeros((n + 1, n + 1), dtype=bool)
    inner[1:-1, 1:-1] = True
    chosen = np.flatnonzero(inner.ravel())
    nodes = np.zeros((n + 1) ** 2)
    nodes[chosen] = spsolve(system[chosen][:, chosen], np.full(len(chosen), 1.0 / n**2))
    corner = nodes.reshape(n + 1, n + 1)
    result: Array = 0.25 * (corner[1:, 1:] + corner[1:, :-1] + corner[:-1, 1:] + corner[:-1, :-1])
    return result


def test_finite_elements_on_finer_cells_agree() -> None:
    permeability = medium(48)
    fine = permeability.repeat(4, axis=0).repeat(4, axis=1)
    assert relative(solve(permeability), means(bilinear_elements(fine), 48)) < 4e-3


def test_extrapolation_beats_the_given_cells() -> None:
    permeability = medium(24, seed=1)
    grid = FAMILY.default_grid(24)
    exact = means(solve(permeability.repeat(4, axis=0).repeat(4, axis=1)), 24)
    assert relative(solve(permeability), exact) < 0.3 * relative(solve_on_cells(permeability, grid), exact)


def test_what_springs_up_in_a_cell_flows_out_of_it() -> None:
    grid = Grid((20, 14), ((0.0, 1.0), (0.0, 2.0)))
    permeability = 10.0 ** np.random.default_rng(1).uniform(-1.0, 1.0, grid.n)
    u = np.pad(solve_on_cells(permeability, grid), 1)
    through_x, through_y = face_conductances(permeability, grid)
    flux_x, flux_y = -through_x * np.diff(u[:, 1:-1], axis=0), -through_y * np.diff(u[1:-1], axis=1)
    outflow = np.diff(flux_x, axis=0) + np.diff(flux_y, axis=1)
    np.testing.assert_allclose(outflow, np.prod(grid.spacing), rtol=1e-8)
    leaving = flux_x[-1].sum() - flux_x[0].sum() + flux_y[:, -1].sum() - flux_y[:, 0].sum()
    assert leaving == pytest.approx(2.0)


def test_maximum_principle() -> None:
    for seed in range(4):
        permeability = medium(32, seed)
        u = solve(permeability)
        assert u.min() > 0.0
        # No minimum inside: one of the neighbours, or the wall, is lower.
        padded = np.pad(solve_on_cells(permeability, FAMILY.default_grid(32)), 1)
        around = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        assert (np.min(around, axis=0) < padded[1:-1, 1:-1]).all()


def test_symmetries_and_scaling() -> None:
    permeability = medium(24, seed=2)
    u = solve(permeability)
    np.testing.assert_allclose(solve(permeability[::-1])[::-1], u, rtol=1e-9)
    np.testing.assert_allclose(solve(permeability.T).T, u, rtol=1e-9)
    np.testing.assert_allclose(solve(3.0 * permeability, -6.0), -2.0 * u, rtol=1e-9)
    large = Grid((24, 24), ((0.0, 2.0), (0.0, 2.0)))
    np.testing.assert_allclose(solve(permeability, grid=large), 4.0 * u, rtol=1e-9)


def test_more_conductive_media_hold_less() -> None:
    # The work of the source, the mean of u, falls with the permeability anywhere.
    permeability = medium(24, seed=3)
    media = [np.full((24, 24), LOW), permeability, np.maximum(permeability, 0.2), np.full((24, 24), HIGH)]
    assert (np.diff([solve(nu).mean() for nu in media]) < 0.0).all()


def test_every_time_shows_the_steady_state_whatever_was_before() -> None:
    grid, static = FAMILY.default_grid(16), medium(16)[None, ..., None]
    noise = np.random.default_rng(4).normal(size=(1, 16, 16, 1))
    found = FAMILY.solve(noise, np.array([0.0, 1.0, 7.0]), grid, {"beta": np.ones(1)}, static)
    np.testing.assert_array_equal(found[0, ..., 0], np.broadcast_to(solve(static[0, ..., 0]), (3, 16, 16)))


def test_a_single_cell_across_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        solve(np.ones((1, 6)))
    assert caught.value.code == "invalid_grid"


def test_media_have_two_values_and_the_files_number_of_interfaces() -> None:
    states = FAMILY.sample_static(np.random.default_rng(5), 300, FAMILY.default_grid(64))[..., 0]
    assert set(np.unique(states)) == {LOW, HIGH}
    assert (states == HIGH).mean() == pytest.approx(0.5, abs=0.05)
    for axis in (1, 2):
        crossings = (np.diff(states, axis=axis) != 0.0).sum(axis=axis).mean()
        assert crossings == pytest.approx(1.0 / (np.pi * LENGTH), rel=0.1)
    fine = FAMILY.sample_static(np.random.default_rng(5), 1, FAMILY.default_grid(192))[..., 0]
    np.testing.assert_array_equal(fine[0, 1::3, 1::3], states[0])


@pytest.mark.parametrize(("value", "code"), [(None, "missing_static_fields"), (0.0, "permeability_not_positive")])
def test_mistakes(value: float | None, code: str) -> None:
    grid = FAMILY.default_grid(4)
    static = None if value is None else np.full((1, 4, 4, 1), value)
    with pytest.raises(UserError) as caught:
        FAMILY.solve(np.zeros((1, 4, 4, 1)), NOW, grid, {"beta": np.ones(1)}, static)
    assert caught.value.code == code


def test_solutions_of_pdebench(pdebench: Path) -> None:
    import h5py

    with h5py.File(pdebench / "2D_DarcyFlow_beta1.0_Train.hdf5", "r") as file:
        media, truth = file["nu"][:].astype(np.float64), file["tensor"][:, 0].astype(np.float64)
    for permeability, expected in zip(media, truth, strict=True):
        assert relative(solve(permeability), expected) < 0.1
