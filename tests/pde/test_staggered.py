"""Faces and centres, the pressure between walls, the layout of neighbours, semi-Lagrangian lookup."""

import numpy as np
import pytest

from ups_server.pde import Grid
from ups_server.pde.grid import Array
from ups_server.pde.incompressible import PressureSolver, Ring, cosine_waves, sine_waves, to_centres, to_faces, upstream


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_centres_give_their_faces_back() -> None:
    u, v = rng().normal(size=(2, 7, 5)), rng(1).normal(size=(2, 8, 4))
    centred = to_centres(u, v)
    np.testing.assert_allclose(centred[:, 1, :, 0], 0.5 * (u[:, 0] + u[:, 1]), atol=1e-15)
    np.testing.assert_allclose(centred[:, :, 0, 1], 0.5 * v[:, :, 0], atol=1e-15)
    np.testing.assert_allclose(to_faces(centred[..., 0], 1), u, atol=1e-13)
    np.testing.assert_allclose(to_faces(centred[..., 1], 2), v, atol=1e-13)


@pytest.mark.parametrize("n", [2, 3, 9])
def test_other_values_give_the_nearest_faces(n: int) -> None:
    values = rng(2).normal(size=(1, n, 4))
    mean = 0.5 * (np.eye(n, n - 1) + np.eye(n, n - 1, -1))
    nearest = np.linalg.lstsq(mean, values[0], rcond=None)[0]
    np.testing.assert_allclose(to_faces(values, 1)[0], nearest, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_waves_are_orthonormal(n: int) -> None:
    for waves in (cosine_waves(n), sine_waves(n)):
        np.testing.assert_allclose(waves @ waves.T, np.eye(n), atol=1e-13)


def test_the_pressure_solves_the_five_point_laplacian() -> None:
    grid = Grid((6, 9), ((0.0, 2.0), (0.0, 1.0)))
    dx, dy = grid.spacing
    divergence = np.full((3, 8, 11), 7.0)  # the ring does not count
    divergence[:, 1:-1, 1:-1] = rng(3).normal(size=(3, 6, 9))
    divergence[:, 1:-1, 1:-1] -= divergence[:, 1:-1, 1:-1].mean(axis=(1, 2), keepdims=True)
    p = PressureSolver(grid).solve(divergence)[:, 1:-1, 1:-1]
    walled = np.pad(p, ((0, 0), (1, 1), (1, 1)), mode="edge")
    along_x, along_y = np.diff(walled, 2, axis=1)[:, :, 1:-1], np.diff(walled, 2, axis=2)[:, 1:-1]
    np.testing.assert_allclose(along_x / dx**2 + along_y / dy**2, divergence[:, 1:-1, 1:-1], atol=1e-11)
    np.testing.assert_allclose(p.mean(axis=(1, 2)), 0.0, atol=1e-14)


def inside(ring: Ring, core: Array) -> Array:
    """The cells (N, X, Y) of values over the core."""
    field = ring.zeros()
    field[ring.core] = core
    return ring.box(field)[:, 1:-1, 1:-1]


def test_neighbours_are_neighbours() -> None:
    ring = Ring(2, (4, 3))
    box = rng(4).normal(size=ring.shape)
    for i, j in ((0, 0), (1, 0), (-1, 1), (0, -1)):
        expected = box[:, 1 + i : 5 + i, 1 + j : 4 + j]
        np.testing.assert_array_equal(inside(ring, ring.near(box.ravel(), i, j)), expected)


def ways(ring: Ring, x: Array | float, y: Array | float) -> tuple[Array, Array]:
    """Displacements of all cells, and none on the ring."""
    both = []
    for way in (x, y):
        field = ring.zeros()
        ring.box(field)[:, 1:-1, 1:-1] = way
        both.append(ring.near(field).copy())
    return both[0], both[1]


def test_lookup_is_exact_on_bilinear_fields() -> None:
    ring = Ring(2, (7, 9))
    _, i, j = np.indices(ring.shape)
    for largest in (1.0, 3.0):
        x, y = rng(5).uniform(-largest, largest, (2, 2, 7, 9))
        a, b = (i[:, 1:-1, 1:-1] - x).clip(0, 8), (j[:, 1:-1, 1:-1] - y).clip(0, 10)
        found = upstream(ring, (2.0 * i - j + 3.0).ravel(), *ways(ring, x, y))
        np.testing.assert_allclose(inside(ring, found), 2.0 * a - b + 3.0, atol=1e-12)
    found = upstream(ring, (1.0 * i * j).ravel(), *ways(ring, 0.25, -0.5))
    np.testing.assert_allclose(inside(ring, found), ((i - 0.25) * (j + 0.5))[:, 1:-1, 1:-1], atol=1e-12)


def test_near_and_far_lookup_agree() -> None:
    ring = Ring(3, (6, 5))
    field = rng(6).normal(size=ring.shape).ravel()
    x, y = rng(7).uniform(-1.0, 1.0, (2, 3, 6, 5))
    near = inside(ring, upstream(ring, field, *ways(ring, x, y)))
    x[0, 0, 0] = -1.5  # one way further than a cell sends all through the other branch
    far = inside(ring, upstream(ring, field, *ways(ring, x, y)))
    np.testing.assert_allclose(far.ravel()[1:], near.ravel()[1:], atol=1e-13)
    assert far[0, 0, 0] != pytest.approx(near[0, 0, 0])


@pytest.mark.parametrize("largest", [1.0, 4.0, 1e6])
def test_lookup_makes_no_new_extremes(largest: float) -> None:
    ring = Ring(1, (8, 8))
    field = rng(8).normal(size=ring.shape)
    found = inside(ring, upstream(ring, field.ravel(), *ways(ring, *rng(9).uniform(-largest, largest, (2, 1, 8, 8)))))
    assert field.min() <= found.min()
    assert found.max() <= field.max()
    whole = upstream(ring, field.ravel(), *ways(ring, 1.0, -1.0))
    np.testing.assert_allclose(inside(ring, whole), field[:, :-2, 2:], atol=1e-14)
