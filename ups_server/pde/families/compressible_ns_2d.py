"""Compressible Navier-Stokes in two dimensions: an ideal gas with friction, without heat conduction.

    rho_t + div(rho v) = 0
    (rho v_i)_t + div(rho v_i v) + d_i p = sum_j d_j s_ij
    E_t + div((E + p) v) = sum_ij d_j (v_i s_ij),       E = p / (gamma - 1) + rho |v|^2 / 2,   gamma = 5/3
    s_ii = rho (zeta + 4/3 eta) d_i v_i,   s_ij = rho eta d_j v_i (i != j),     on [0, 1]^2, periodic

Shapes: states (N, X, Y, 4) of both velocities, density and pressure, trajectories (N, T, X, Y, 4). This is PDEBench's
friction, not Newton's: eta and zeta multiply the density, and mixed derivatives are left out. With eta = zeta = 0.1
velocity and pressure die out within t ~ 0.2 and leave the density, which barely moves. PDEBench has M in {0.1, 1} and
eta = zeta in {1e-8, 0.01, 0.1}.

Initial states: each field is a sum of 64 plane waves with wave numbers -4 ... 4 but 0 along each axis, amplitudes
U(0, 1), phases U(0, 2 pi). Density and pressure are rho_0 (1 + a f) and rho_0 T_0 (1 + b g), where f and g are the sums
over their largest magnitude; the velocities are scaled together until the mean of |v| is M sqrt(gamma T_0).

Source: Takamoto et al., PDEBench (2022), D.6. Checked on a first frame of PDEBench's: the wave numbers (all else is
below 1e-7), the spread of their amplitudes, the scale of the velocity (to 1e-7), base values without constant parts.
Assumed: the distributions of a and b (0.25 and 0.28 seen), rho_0 (8.3 seen) and T_0 (8.0 seen), as in one dimension.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.boundary import BoundaryCondition, BoundaryKind
from ups_server.pde.compressible import solve_compressible
from ups_server.pde.euler import GAMMA
from ups_server.pde.families.compressible_ns_1d import (
    DENSITY,
    ETA,
    PRESSURE,
    VELOCITY_X,
    ZETA,
    gas_means,
    sample_bases,
)
from ups_server.pde.family import Array, Coefficient, Family, Field
from ups_server.pde.grid import Grid

WAVES = np.array([-4, -3, -2, -1, 1, 2, 3, 4])
MIN_POINTS = 64
"""Coarser states are refined: four waves to the box need this many cells."""
MACH = Coefficient(
    "M",
    "M",
    "initial Mach number, mean |v| over the mean speed of sound",
    0.1,
    (0.0, np.inf),
    low_open=True,
    length_power=0,
    aliases=("Mach",),
)


class CompressibleNs2D(Family):
    id = "compressible_ns_2d"
    name = "2D Compressible Navier-Stokes Equation"
    equation = (
        "rho_t + div(rho v) = 0, (rho v)_t + div(rho v v) + grad p = div s, E_t + div((E + p) v) = div(v s), "
        "s_ii = rho (zeta + 4/3 eta) d_i v_i, s_ij = rho eta d_j v_i"
    )
    fields = (
        VELOCITY_X,
        Field("Vy", slot=1, description="velocity along y", length_power=-1),
        DENSITY,
        PRESSURE,
    )
    coefficients = (MACH, ETA, ZETA)
    extent = ((0.0, 1.0), (0.0, 1.0))
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 2)
    dt = 0.05
    frame_dt = 0.05
    t_final = 1.0
    n = 128
    reflections = ((-1, 1, 1, 1), (1, -1, 1, 1))
    exchange = (1, 0, 2, 3)
    conserved = ("density",)

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        """States (N, X, Y, 4) at the default Mach number."""
        return np.stack([_sample_state(rng, grid) for _ in range(count)])

    def fit_initial(self, initial: Array, coefficients: Mapping[str, Array]) -> Array:
        """Scales the velocities to the Mach number."""
        fitted = initial.copy()
        fitted[..., :2] *= (coefficients["M"] / MACH.default)[:, None, None, None]
        return fitted

    def solve(
        self,
        initial: Array,
        times: Array,
        grid: Grid,
        coefficients: Mapping[str, Array],
        static: Array | None = None,
    ) -> Array:
        """The reference solution; M belongs to the initial state and changes nothing here.

        Raises:
            UserError: ``state_not_positive`` where a density or pressure of the initial state is not.
        """
        return solve_compressible(initial, times, grid, coefficients["eta"], coefficients["zeta"], MIN_POINTS)

    def conserved_means(self, values: NDArray[np.floating]) -> dict[str, Array]:
        return gas_means(values)


def _sample_state(rng: np.random.Generator, grid: Grid) -> Array:
    """One state (X, Y, 4): the same function on every grid."""
    base, contrast = sample_bases(rng)
    amplitude, turns = rng.random((2, 4, len(WAVES), len(WAVES)))
    waves = amplitude * np.exp(2j * np.pi * turns)
    everywhere = _sum_waves(waves, Grid((CompressibleNs2D.n,) * 2, grid.extent))
    fields = _sum_waves(waves, grid)
    speed = MACH.default * np.sqrt(GAMMA * base[1] / base[0])
    fields[:2] *= speed / np.hypot(*everywhere[:2]).mean()
    largest = np.abs(everywhere[2:]).max(axis=(1, 2))
    fields[2:] = (base * (1.0 + contrast * (fields[2:].T / largest))).T
    return np.moveaxis(fields, 0, -1)


def _sum_waves(waves: NDArray[np.complex128], grid: Grid) -> Array:
    """Fields (C, X, Y) from complex amplitudes (C, K, K)."""
    along_x, along_y = (
        np.exp(2j * np.pi * np.outer(WAVES, (points - lo) / length))
        for points, (lo, _), length in zip(grid.axes, grid.extent, grid.length, strict=True)
    )
    result: Array = np.einsum("ckl,kx,ly->cxy", waves, along_x, along_y, optimize=True).real
    return np.ascontiguousarray(result)
