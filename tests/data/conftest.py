"""Two tiny exact equations, so that the data layer is tested without any real family."""

from collections.abc import Mapping

import numpy as np
import pytest

from ups_server.pde import registry
from ups_server.pde.family import Coefficient, Family, Field
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Grid
from ups_server.pde.solution import Exact, Solution


class Wave(Family):
    """u_tt = c^2 u_xx as u_t = -c v_x, v_t = -c u_x: mirroring x keeps u and flips v. Exact in Fourier space."""

    id = "wave"
    name = "Wave Equation"
    equation = "u_t = -c v_x, v_t = -c u_x"
    fields = (Field("u", 0), Field("v", 1, unit="m/s"))
    coefficients = (
        Coefficient("c", "c", "speed", 0.5, (0.0, 10.0), low_open=True, aliases=("speed",)),
        Coefficient("g", "g", "unused", 1.0),
    )
    extent = ((0.0, 1.0),)
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
    dt = 0.1
    frame_dt = 0.05
    t_final = 1.0
    n = 64
    reflections = ((1, -1),)

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        number = np.arange(1, 4)[:, None]
        phase, size = rng.random((count, 2, 3, 1)), rng.normal(size=(count, 2, 3, 1))
        waves = (size * np.sin(2 * np.pi * (number * grid.axes[0] + phase))).sum(2)
        return np.moveaxis(waves, 1, -1)

    def begin(
        self, initial: Array, grid: Grid, coefficients: Mapping[str, Array], static: Array | None = None
    ) -> Solution:
        k = 2 * np.pi * np.fft.rfftfreq(grid.n[0], grid.spacing[0])

        def at(elapsed: float) -> Array:
            turn = np.exp(-1j * k * coefficients["c"][:, None] * elapsed)
            right = np.fft.rfft(initial[..., 0] + initial[..., 1]) * turn
            left = np.fft.rfft(initial[..., 0] - initial[..., 1]) / turn
            fields = np.stack([right + left, right - left], axis=-1) / 2
            return np.fft.irfft(fields, grid.n[0], axis=1)

        return Exact(initial, at)


class Relaxation(Family):
    """u_t = a (s - u) with a static s, in 2-D: periodic in x, bounded in y. No symmetry of s is declared."""

    id = "relaxation"
    name = "Relaxation"
    equation = "u_t = a (s - u)"
    fields = (Field("u", 0),)
    coefficients = (Coefficient("a", "a", "rate", 0.1, (0.0, 10.0), low_open=True),)
    static_fields = (Field("s", 0),)
    extent = ((0.0, 1.0), (-1.0, 1.0))
    boundary = BoundaryCondition(
        ((BoundaryKind.PERIODIC, BoundaryKind.PERIODIC), (BoundaryKind.NO_FLUX, BoundaryKind.NO_FLUX))
    )
    dt = 0.1
    frame_dt = 0.1
    t_final = 0.5
    n = 16
    reflections = ((1,), (1,))

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return rng.normal(size=(count, *grid.n, 1))

    def sample_static(self, rng: np.random.Generator, count: int, grid: Grid) -> Array | None:
        return rng.normal(size=(count, *grid.n, 1))

    def begin(
        self, initial: Array, grid: Grid, coefficients: Mapping[str, Array], static: Array | None = None
    ) -> Solution:
        assert static is not None

        def at(elapsed: float) -> Array:
            left = np.exp(-coefficients["a"] * elapsed)[:, None, None, None]
            states: Array = initial * left + static * (1 - left)
            return states

        return Exact(initial, at)


@pytest.fixture
def wave(monkeypatch: pytest.MonkeyPatch) -> Family:
    return _registered(Wave(), monkeypatch)


@pytest.fixture
def relaxation(monkeypatch: pytest.MonkeyPatch) -> Family:
    return _registered(Relaxation(), monkeypatch)


def _registered(family: Family, monkeypatch: pytest.MonkeyPatch) -> Family:
    known = {**registry.families(), family.id: family}
    monkeypatch.setattr(registry, "families", lambda: known)
    return family
