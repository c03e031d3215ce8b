"""Fisher's equation: diffusion and logistic growth.

    u_t = nu u_xx + rho u (1 - u)    on [0, 1], periodic

Shapes: states (N, X, 1), trajectories (N, T, X, 1). Diffusion flattens the state within ~ 1 / (4 pi^2 nu), 0.05 for
nu = 0.5, and its level then climbs a logistic curve towards 1. States start in [0, 1] and stay there. PDEBench has
nu in {0.5, 1, 2, 5} and rho in {1, 2, 5, 10}. The equation is symmetric under x -> -x.

The solver is Strang's splitting of two exact flows, the logistic curve at each point and heat in Fourier space:
second order in the step, with an error below 1e-6 at the step limits below.

Source: Takamoto et al., PDEBench (2022), D.4. PDEBench's float32 files at 1024 cells are up to 26 % wrong at t = 1
(increments round away); at 256 cells they are right to 2e-4.
"""

from collections.abc import Sequence

import numpy as np

from ups_server.pde.bounds import Bound, between, extremes
from ups_server.pde.family import Coefficient, Family, Field
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Floats, Grid, Numbers
from ups_server.pde.random_fields import SCALAR
from ups_server.pde.solution import Solution, Stepped

GROWTH_PER_STEP = 0.01
"""Largest rho times step."""
DECAY_PER_STEP = 0.005
"""Largest decay of the longest wave in a step, as long as the state is not `FLAT`."""
FLAT = 1e-4
"""max u - min u below which diffusion and growth commute: no splitting error is left."""


class DiffusionReaction1D(Family):
    id = "diffusion_reaction_1d"
    name = "1D Diffusion-Reaction Equation"
    equation = "u_t = nu u_xx + rho u (1 - u)"
    fields = (Field("u", slot=0, description="concentration", positive=True),)
    coefficients = (
        Coefficient(
            "nu",
            "Nu",
            "diffusion coefficient",
            default=0.5,
            domain=(0.0, np.inf),
            length_power=-2,
            aliases=("diffusion",),
        ),
        Coefficient(
            "rho", "Rho", "growth rate", default=1.0, domain=(0.0, np.inf), length_power=0, aliases=("growth_rate",)
        ),
    )
    extent = ((0.0, 1.0),)
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
    dt = 0.05
    frame_dt = 0.01
    t_final = 1.0
    n = 1024
    reflections = ((1,),)

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return SCALAR.sample(rng, count, grid, unit_range=True)[..., None]

    def bounds(self, initial: Floats, coefficients: Numbers, static: Floats | None = None) -> list[Bound]:
        """[0, 1] is invariant; from beyond 1 values fall, from below 0 they fall without bound."""
        low, high = extremes(initial, 0)
        low = np.where(low >= 0.0, np.minimum(low, 1.0), -np.inf)
        reason = "maximum principle: growth leads to 1, diffusion keeps the extremes"
        return between(0, low, np.maximum(high, 1.0), reason)

    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        return _Growth(initial, grid.length[0], coefficients["nu"][:, None], coefficients["rho"][:, None])


class _Growth(Stepped):
    """Diffusion nu and growth rho (N, 1) on a periodic box of this length."""

    def __init__(self, initial: Array, length: float, nu: Array, rho: Array) -> None:
        super().__init__(initial)
        self._u: Array = initial[..., 0].copy()
        self._rho = rho
        self._slowest = nu * (2.0 * np.pi / length) ** 2
        self._rate = self._slowest * np.arange(self._u.shape[1] // 2 + 1) ** 2

    def _carried(self) -> Sequence[Array]:
        return (self._u,)

    def _advance(self, elapsed: float) -> Array:
        interval = elapsed - self.elapsed
        count = _count_steps(self._u, self._slowest, self._rho, interval)
        step = interval / count
        decay, growth, n = np.exp(-self._rate * step), self._rho * step, self._u.shape[1]
        u = _grow(self._u, 0.5 * growth)
        for remaining in reversed(range(count)):
            u = np.fft.irfft(decay * np.fft.rfft(u, axis=-1), n=n, axis=-1)
            u = _grow(u, growth if remaining else 0.5 * growth)
        self._u = u
        return u[..., None]


def _count_steps(u: Array, slowest_decay: Array, rho: Array, interval: float) -> int:
    uneven = np.ptp(u, axis=-1, keepdims=True) > FLAT
    needed = np.maximum(rho / GROWTH_PER_STEP, np.where(uneven, slowest_decay / DECAY_PER_STEP, 0.0))
    return max(1, int(np.ceil(interval * needed.max(initial=0.0))))


def _grow(u: Array, growth: Array) -> Array:
    """The logistic curve through u, `growth` = rate times time later."""
    factor = np.exp(growth)
    return u * factor / (1.0 + u * (factor - 1.0))
