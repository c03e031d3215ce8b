"""Compressible Navier-Stokes in one dimension: an ideal gas with friction, without heat conduction.

    rho_t + (rho v)_x = 0
    (rho v)_t + (rho v^2 + p)_x = s_x,       s = rho (zeta + 4/3 eta) v_x
    E_t + ((E + p) v)_x = (v s)_x,           E = p / (gamma - 1) + rho v^2 / 2,   gamma = 5/3
    on [-1, 1], periodic or with zero gradients at both ends

Shapes: states (N, X, 3) of velocity, density and pressure, trajectories (N, T, X, 3). This is PDEBench's friction: its
eta and zeta multiply the density, as kinematic viscosities do. Sound crosses the box within t ~ 1 at the usual
temperatures and steepens; with eta = zeta = 0.1 it has died out by then, and what remains is a nearly uniform flow at
uniform pressure that carries the density along. PDEBench has eta = zeta in {1e-8, 0.01, 0.1}.

Initial states ("Rand"): velocity, density and pressure are each one of the sums of sines of `random_fields`, of three
terms, every second one in a window (in units of x). The velocity is that sum itself; density and pressure are
m s + b, where s is the sum mapped onto [0, 1] and m and b are log-uniform, in 1 ... 10 for the density and in
10 ... 100 for the pressure. So a density varies by up to a factor of 11, and the temperature from 0.5 to 200.

"Shock", for zero gradients: two uniform gases side by side at 0.25 + 0.5 r of the box. On the right a quantity is
exp(lo + (hi - lo) r) with the r of the place, each quantity with a place of its own; on the left it is drawn again. The
ranges are 1 ... 10 of density, 10 ... 100 of pressure and exp(-0.5) ... exp(0.5) of velocity, which is thus positive.

Source: Takamoto et al., PDEBench (2022), D.6, with what its generator does beyond it. Checked on first frames of
PDEBench's, to 1e-6 of their range: waves and period, constant parts, window and edges, and the extremes of density
and pressure within those of m and b.

Two faults of PDEBench's files: total energy grows by 0.1 to 0.9 % over a trajectory, and after the first 0.05 the
velocity can be 0.5 % away from a converged solution.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.bounds import Bound, at_most, positive
from ups_server.pde.compressible import compressible_solution
from ups_server.pde.euler import GAMMA
from ups_server.pde.family import Coefficient, Family, Field, InitialKind
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Grid
from ups_server.pde.random_fields import MultiSine
from ups_server.pde.solution import Solution

MIN_POINTS = 512
"""Coarser states are refined: at 512 cells PDEBench's are solved as well as at its own 1024."""
WAVES = MultiSine(numbers=3, windowed=0.5, window_extent=(-1.0, 1.0))
"""The sums of sines of all three fields."""
THERMAL_RANGE = ((1.0, 10.0), (10.0, 100.0))
"""Of density and pressure: least and largest value of both m and b."""

SHOCK_RANGE = ((np.exp(-0.5), np.exp(0.5)), *THERMAL_RANGE)
"""Velocity, density and pressure on both sides of a shock."""
PERIODIC, OUTFLOW = (BoundaryCondition.uniform(kind, 1) for kind in (BoundaryKind.PERIODIC, BoundaryKind.OUTFLOW))

VELOCITY_X = Field("Vx", slot=0, description="velocity along x", length_power=-1)
DENSITY = Field("density", slot=2, description="mass density", positive=True, relative=True)
PRESSURE = Field("pressure", slot=3, description="pressure", positive=True, relative=True, length_power=-2)
ETA = Coefficient(
    "eta", "eta", "shear viscosity, multiplied by the density", 0.1, (0.0, np.inf), length_power=-2, aliases=("Eta",)
)
ZETA = Coefficient(
    "zeta", "zeta", "bulk viscosity, multiplied by the density", 0.1, (0.0, np.inf), length_power=-2, aliases=("Zeta",)
)


def _shocks(rng: np.random.Generator, count: int, grid: Grid, coefficients: Mapping[str, Array]) -> Array:
    """Two uniform states side by side (N, X, 3)."""
    right, left = rng.random((count, 2, 3)).swapaxes(0, 1)
    low, high = np.log(SHOCK_RANGE).T
    values = [np.exp(low + (high - low) * drawn)[:, None] for drawn in (left, right)]
    beyond = grid.positions[0][:, None] >= 0.25 + 0.5 * right[:, None]
    states: Array = np.where(beyond, values[1], values[0])
    return states


class CompressibleNs1D(Family):
    id = "compressible_ns_1d"
    name = "1D Compressible Navier-Stokes Equation"
    equation = (
        "rho_t + (rho v)_x = 0, (rho v)_t + (rho v^2 + p)_x = s_x, E_t + ((E + p) v)_x = (v s)_x, "
        "s = rho (zeta + 4/3 eta) v_x"
    )
    fields = (VELOCITY_X, DENSITY, PRESSURE)
    coefficients = (ETA, ZETA)
    extent = ((-1.0, 1.0),)
    boundary = PERIODIC
    offered = (PERIODIC, OUTFLOW)
    dt = 0.05
    frame_dt = 0.01
    t_final = 1.0
    n = 1024
    signal_speed = 5.0
    reflections = ((-1, 1, 1),)
    conserved = ("density",)
    anywhere = True
    single_offered = True
    kinds = (InitialKind("shock", "two uniform gases side by side (PDEBench's Shock)", _shocks, (OUTFLOW,)),)

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        """States (N, X, 3) of PDEBench's "Rand" distribution."""
        return np.stack([_sample_state(rng, grid) for _ in range(count)])

    def bounds(
        self,
        initial: NDArray[np.floating],
        coefficients: Mapping[str, Array],
        static: NDArray[np.floating] | None = None,
    ) -> list[Bound]:
        """Density and pressure are positive; without sides, mass and energy, pressure being a part, do not grow."""
        return gas_bounds(initial, all(self.boundary.periodic))

    def begin(
        self, initial: Array, grid: Grid, coefficients: Mapping[str, Array], static: Array | None = None
    ) -> Solution:
        """The reference solution.

        Raises:
            UserError: ``state_not_positive`` where a density or pressure of the initial state is not.
        """
        return compressible_solution(
            initial, grid, self.boundary, coefficients["eta"], coefficients["zeta"], MIN_POINTS, self.single
        )

    def conserved_means(self, values: NDArray[np.floating]) -> dict[str, Array]:
        return gas_means(values) if all(self.boundary.periodic) else {}


def gas_means(values: NDArray[np.floating]) -> dict[str, Array]:
    """Means over the box (T,) of density, momenta and total energy, from values (T, X..., d + 2)."""
    ndim = values.ndim - 2
    *velocities, density, pressure = np.moveaxis(values.astype(np.float64), -1, 0)
    energy = pressure / (GAMMA - 1.0) + 0.5 * density * sum(v * v for v in velocities)
    momenta = {f"momentum {axis}": density * v for axis, v in zip("xyz", velocities, strict=False)}
    space = tuple(range(1, ndim + 1))
    return {name: part.mean(axis=space) for name, part in {"density": density, **momenta, "energy": energy}.items()}


def gas_bounds(initial: NDArray[np.floating], closed: bool) -> list[Bound]:
    """Of states (N, X..., d + 2): density and pressure are positive, in a `closed` box mass and energy do not grow."""
    density, pressure = initial.shape[-1] - 2, initial.shape[-1] - 1
    signs = [positive(initial, density), positive(initial, pressure)]
    if not closed:
        return signs
    with np.errstate(all="ignore"):
        means = gas_means(initial)
    return [
        *signs,
        at_most(density, "mean", means["density"], "mass is conserved"),
        at_most(pressure, "mean", (GAMMA - 1.0) * means["energy"], "energy is conserved"),
    ]


def _sample_state(rng: np.random.Generator, grid: Grid) -> Array:
    """One state (X, 3): the same functions on every grid."""
    velocity = WAVES.sample(rng, 1, grid)
    shape = WAVES.sample(rng, 2, grid, unit_range=True)
    low, high = np.log(THERMAL_RANGE).T
    span, base = np.exp(rng.uniform(low, high, size=(2, 2)))[:, :, None]
    return np.concatenate([velocity, span * shape + base]).T
