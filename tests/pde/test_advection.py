"""Advection against its exact solution, the initial state moved."""

import numpy as np
import pytest

from ups_server.pde import Grid
from ups_server.pde.families.advection import Advection
from ups_server.pde.random_fields import SCALAR

FAMILY = Advection()


@pytest.mark.parametrize("offset", [0.5, 0.0625])
@pytest.mark.parametrize("n", [63, 64])
def test_waves_travel(n: int, offset: float) -> None:
    grid = Grid((n,), ((0.0, 2.0),), (offset,))
    x, times, beta = grid.axes[0], np.array([1.0, 1.37, 4.2]), np.array([0.4, -3.0])

    def exact(position: np.ndarray) -> np.ndarray:
        return 0.3 + np.sin(2.0 * np.pi * position) - 0.5 * np.cos(5.0 * np.pi * position)

    solution = FAMILY.solve(np.stack([exact(x)] * 2)[..., None], times, grid, {"beta": beta})
    moved = x - beta[:, None, None] * (times - times[0])[:, None]
    np.testing.assert_allclose(solution[..., 0], exact(moved), atol=1e-12)


def test_whole_cells_are_exact_even_for_discontinuous_states() -> None:
    grid = FAMILY.default_grid(128)
    state = np.where(grid.axes[0] < 0.3, 1.0, 0.0)[None, :, None]
    solution = FAMILY.solve(state, np.array([0.0, 10.0 / 128.0]), grid, {"beta": np.ones(1)})
    np.testing.assert_allclose(solution[0, 1, :, 0], np.roll(state[0, :, 0], 10), atol=1e-12)


def test_mass_and_energy_are_constant() -> None:
    grid = FAMILY.default_grid()
    initial = SCALAR.sample(np.random.default_rng(0), 8, grid)[..., None]
    solution = FAMILY.solve(initial, FAMILY.frame_times(), grid, {"beta": np.full(8, 0.7)})
    np.testing.assert_allclose(np.ptp(solution.mean(axis=2), axis=1), 0.0, atol=1e-12)
    energy = (solution**2).mean(axis=2)
    np.testing.assert_allclose(energy / energy[:, :1], 1.0, atol=1e-5)
