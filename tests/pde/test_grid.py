"""Grids, their points and their subsamples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, Grid
from ups_server.pde.grid import Extent


def test_points_are_cell_centres() -> None:
    grid = Grid((4, 2), ((0.0, 1.0), (-1.0, 1.0)))
    np.testing.assert_allclose(grid.axes[0], [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(grid.axes[1], [-0.5, 0.5])


@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_a_subsample_keeps_its_points_where_they_were(n: int, stride: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, stride - 1))
    grid = Grid((n * stride,), ((-2.0, 3.0),))
    part = grid.subsample(stride, first)
    np.testing.assert_allclose(part.axes[0], grid.axes[0][first::stride], atol=1e-12)
    assert grid.stride_to(n) == stride


@pytest.mark.parametrize("offset", [0.5, 0.0, 0.0625])
def test_points_within_cells_surround_their_point(offset: float) -> None:
    grid = Grid((4,), ((-2.0, 3.0),), (offset,))
    parts = grid.within_cells(5)
    np.testing.assert_allclose(parts.axes[0].reshape(4, 5).mean(axis=1), grid.axes[0], atol=1e-12)
    assert np.ptp(parts.axes[0].reshape(4, 5), axis=1) == pytest.approx(0.8 * grid.spacing[0])
    np.testing.assert_allclose(grid.axes[0], grid.extent[0][0] + 5.0 * grid.positions[0])


def test_nodes_have_both_ends_of_a_bounded_axis() -> None:
    grid = Grid.nodes((4, 5), ((0.0, 1.0), (-1.0, 1.0)), (True, False))
    np.testing.assert_allclose(grid.axes[0], [0.0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(grid.axes[1], [-1.0, -0.5, 0.0, 0.5, 1.0])
    assert Grid.from_json(grid.as_json()) == grid
    part = Grid.nodes((9,), ((0.0, 1.0),), (False,)).subsample(4)
    np.testing.assert_allclose(part.axes[0], [0.0, 0.5, 1.0])
    assert Grid.nodes((9,), ((0.0, 1.0),), (False,)).stride_to(3) == 4
    for stride, first in ((3, 0), (4, 1)):
        with pytest.raises(UserError, match="stride"):
            Grid.nodes((9,), ((0.0, 1.0),), (False,)).subsample(stride, first)
    with pytest.raises(UserError, match="both ends"):
        Grid((4,), ((0.0, 1.0),), (0.5,), (True,))


@given(st.integers(1, 8), st.integers(1, 9), st.floats(0.0, 0.99), st.booleans())
def test_a_refined_grid_has_the_points_among_its_own(n: int, factor: int, offset: float, closed: bool) -> None:
    box = ((-2.0, 3.0),)
    grid = Grid.nodes((n + 1,), box, (False,)) if closed else Grid((n,), box, (offset,))
    fine, slices = grid.refined(factor)
    assert fine.cells == (n * factor,)
    np.testing.assert_allclose(fine.axes[0][slices[0]], grid.axes[0], atol=1e-12)


@pytest.mark.parametrize(
    ("n", "extent", "offset"),
    [((), (), ()), ((4,), ((0.0, 1.0), (0.0, 1.0)), ()), ((0,), ((0.0, 1.0),), ()), ((4,), ((1.0, 1.0),), ())],
)
def test_impossible_grids_are_refused(n: tuple[int, ...], extent: Extent, offset: tuple[float, ...]) -> None:
    with pytest.raises(UserError) as caught:
        Grid(n, extent, offset)
    assert caught.value.code == "invalid_grid"


@pytest.mark.parametrize(("stride", "first"), [(3, 0), (0, 0), (2, 2), (2, -1)])
def test_only_divisors_subsample(stride: int, first: int) -> None:
    with pytest.raises(UserError) as caught:
        Grid((8,), ((0.0, 1.0),)).subsample(stride, first)
    assert caught.value.code == "resolution_mismatch"


@pytest.mark.parametrize("n", [0, 3, 16])
def test_only_divisors_are_strided_to(n: int) -> None:
    with pytest.raises(UserError) as caught:
        Grid((8,), ((0.0, 1.0),)).stride_to(n)
    assert caught.value.code == "resolution_mismatch"


def test_boundary_conditions_survive_their_names() -> None:
    boundary = BoundaryCondition(
        ((BoundaryKind.PERIODIC, BoundaryKind.PERIODIC), (BoundaryKind.DIRICHLET, BoundaryKind.CAUCHY))
    )
    assert BoundaryCondition.from_names(boundary.as_names()) == boundary
    assert boundary.periodic == (True, False)
