"""Finer grids hold the points they refine; waves are known between them, density stays positive."""

import numpy as np
import pytest

from ups_server.pde import BoundaryCondition, BoundaryKind, Grid, family
from ups_server.pde.resampling import refined

PERIODIC = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)


@pytest.mark.parametrize("factor", [1, 2, 3, 8])
@pytest.mark.parametrize(
    "grid",
    [
        Grid((8,), ((0.0, 2.0),)),
        Grid((8,), ((0.0, 2.0),), (1 / 16,)),
        Grid((8, 4), ((0.0, 2.0), (-1.0, 1.0)), (0.5, 0.0)),
        Grid.nodes((9,), ((0.0, 2.0),), (False,)),
    ],
    ids=["cells", "strided", "plane", "nodes"],
)
def test_the_points_are_among_the_finer_ones(grid: Grid, factor: int) -> None:
    fine, places = grid.refined(factor)
    for axis, (given, low, high) in enumerate(zip(grid.axes, *zip(*grid.extent, strict=True), strict=True)):
        np.testing.assert_allclose(fine.axes[axis][places[axis]], given, atol=1e-12)
        assert fine.axes[axis].min() >= low
        assert fine.axes[axis].max() <= high


@pytest.mark.parametrize("factor", [2, 3])
def test_waves_are_known_between_their_points(factor: int) -> None:
    grid = Grid((16,), ((0.0, 1.0),))
    fine, places = grid.refined(factor)

    def wave(x: np.ndarray) -> np.ndarray:
        return (1.0 + np.sin(2 * np.pi * x) + 0.3 * np.cos(14 * np.pi * x))[None, :, None]

    found = refined(wave(grid.axes[0]), (factor,), [places[0].start], PERIODIC, [False])
    np.testing.assert_allclose(found, wave(fine.axes[0]), atol=1e-12)


def test_what_is_positive_stays_so_and_a_sign_may_change() -> None:
    grid = Grid((32,), ((0.0, 1.0),))
    peak = np.where(np.abs(grid.axes[0] - 0.5) < 0.1, 10.0, 0.01)[None, :, None]
    assert refined(peak, (4,), [2], PERIODIC, [False]).min() < 0.0
    found = refined(peak, (4,), [2], PERIODIC, [True])
    assert found.min() >= 0.005 - 1e-12
    np.testing.assert_allclose(found[:, 2::4], peak, atol=1e-12)
    assert refined(peak - 1.0, (4,), [2], PERIODIC, [True]).min() < -1.0


def test_between_walls_it_is_linear_and_ends_level() -> None:
    walls = BoundaryCondition.uniform(BoundaryKind.OUTFLOW, 2)
    grid = Grid((4, 4), ((0.0, 4.0), (0.0, 4.0)))
    fine, places = grid.refined(4)
    plane = (grid.axes[0][:, None] + 2.0 * grid.axes[1])[None, ..., None]
    found = refined(plane, (4, 4), [place.start for place in places], walls, [True])[0, ..., 0]
    x, y = (axis.clip(0.5, 3.5) for axis in fine.axes)
    np.testing.assert_allclose(found, x[:, None] + 2.0 * y, atol=1e-12)


def test_diffusion_sorption_knows_its_ends() -> None:
    equation = family("diffusion_sorption")
    fine_grid = equation.default_grid(1024)
    start = np.full((1, 1024, 1), 0.1)
    late = equation.solve(start, np.array([0.0, 100.0]), fine_grid, {})[:, 1]
    coarse = fine_grid.subsample(8)
    found = equation.refine(late[:, ::8], coarse, 8)
    assert np.linalg.norm(found - late) < 1e-3 * np.linalg.norm(late)
