"""Compressible Navier-Stokes in two dimensions: an ideal gas with friction, without heat conduction.

    rho_t + div(rho v) = 0
    (rho v_i)_t + div(rho v_i v) + d_i p = sum_j d_j s_ij
    E_t + div((E + p) v) = sum_ij d_j (v_i s_ij),       E = p / (gamma - 1) + rho |v|^2 / 2,   gamma = 5/3
    s_ii = rho (zeta + 4/3 eta) d_i v_i,   s_ij = rho eta d_j v_i (i != j),     on [0, 1]^2

Shapes: states (N, X, Y, 4) of both velocities, density and pressure, trajectories (N, T, X, Y, 4). This is PDEBench's
friction, not Newton's: eta and zeta multiply the density, and mixed derivatives are left out. With eta = zeta = 0.1
velocity and pressure die out within t ~ 0.2 and leave the density, which barely moves. PDEBench has M in {0.1, 1} and
eta = zeta in {1e-8, 0.01, 0.1}.

Initial states ("Rand"): each field begins as the sum over all wave vectors (i, j), i, j = -4 ... 4 but 0, of
|k|^(-1/2) sin(k . x + phase) with k = 2 pi (i, j): only the phases, U(0, 2 pi), are random. With such sums f and g

    density = d_0 (1 + a f / mean |f|),   pressure = d_0 T_0 (1 + b g / mean |g|)
    d_0, T_0 ~ U(0.1, 10),   a, b ~ U(0.01, 0.2)

and the velocities are scaled together until the mean of |v| is M sqrt(gamma T_0). Every second state is then cut out by
a window 0.45 wide along both axes (`random_fields`), which begins at U(0.1, 0.275) along x and U(0.1, 0.45) along y:
outside of it the gas is at rest, at d_0 and d_0 T_0. A state that is not positive everywhere is drawn again.

"Turb": density 1, mean |v| 1, pressure 1 / (gamma M^2), the velocity such a sum made solenoidal, but for a few percent
of its energy: as in PDEBench's generator, wave numbers are off by one in the projection.

Kelvin and Helmholtz ("kh"), periodic along x and with zero gradients at the ends of y: two streams vx = 1 and -1 below
and above y = 1/2 + 0.005 sin(2 pi k x), k in {1, 2, 3}, densities of mean 1 and of ratio U(1/2, 2), pressure
1 / (gamma M^2). This face is thinner than a cell, so its states are averages over the cells along y.

The ends of both axes may be periodic, of both have zero gradients, or as for "kh".

Source: Takamoto et al., PDEBench (2022), D.6, with what its generator does beyond it. Checked on a first frame of
PDEBench's: the wave vectors (all else is below 1e-7), their amplitudes, the scale of the velocity. Assumed: that the
negative ones are, towards zero, in "Turb".
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.bounds import Bound
from ups_server.pde.compressible import compressible_solution
from ups_server.pde.euler import GAMMA
from ups_server.pde.families.compressible_ns_1d import (
    DENSITY,
    ETA,
    PRESSURE,
    VELOCITY_X,
    ZETA,
    gas_bounds,
    gas_means,
)
from ups_server.pde.family import Coefficient, Family, Field, InitialKind
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Grid
from ups_server.pde.random_fields import EDGE_SPAN, FIRST_EDGE, sum_waves, waves_off_the_axes, window_mask
from ups_server.pde.solution import Solution

WEIGHTS = waves_off_the_axes(4)
"""Amplitudes of the wave vectors of a sum."""
BASE = (0.1, 10.0)
"""d_0 and T_0."""
CONTRAST = (0.01, 0.2)
"""Mean magnitude of the relative deviation of density and pressure."""
LEAST = 0.01
"""Of d_0 and of d_0 T_0: a state with less of it anywhere on PDEBench's grid is not taken for positive everywhere."""
WINDOWED = 0.5
RIPPLE = 0.005
"""Amplitude of the face between two streams."""
PERIODIC, OUTFLOW = (BoundaryCondition.uniform(kind, 2) for kind in (BoundaryKind.PERIODIC, BoundaryKind.OUTFLOW))
CHANNEL = BoundaryCondition((PERIODIC.sides[0], OUTFLOW.sides[1]))
"""Periodic along x, zero gradients at the ends of y."""
BASE_POINTS = 128
"""Cells of PDEBench's grid along an axis: they fix means and extremes of a state, whatever grid it is sampled on."""
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


def _turbulence(rng: np.random.Generator, count: int, grid: Grid, coefficients: Mapping[str, Array]) -> Array:
    """Nearly solenoidal velocities of mean magnitude 1 in a uniform gas (N, X, Y, 4)."""
    numbers = np.arange(WEIGHTS.shape[0]) - WEIGHTS.shape[0] // 2
    projected = np.where(numbers < 0, numbers + 1, numbers)
    along = np.stack(np.meshgrid(projected, projected, indexing="ij"))
    along = along / np.sqrt(np.maximum((along**2).sum(axis=0), 1))
    states = np.ones((count, *grid.n, 4))
    for state in states:
        waves = WEIGHTS * np.exp(2j * np.pi * rng.random((2, *WEIGHTS.shape)))
        waves = 0.5 * (waves + waves[:, ::-1, ::-1].conj())
        waves -= along * (along * waves).sum(axis=0)
        centres = Grid((BASE_POINTS,) * 2, grid.extent)
        speed = np.hypot(*sum_waves(waves, *centres.positions)).mean()
        state[..., :2] = np.moveaxis(sum_waves(waves, *grid.positions), 0, -1) / speed
    states[..., 3] = _unit_pressure(coefficients)
    return states


def _streams(rng: np.random.Generator, count: int, grid: Grid, coefficients: Mapping[str, Array]) -> Array:
    """Two streams side by side (N, X, Y, 4)."""
    drawn = [(rng.integers(1, 4), rng.uniform(0.5, 2.0)) for _ in range(count)]
    waves, ratios = np.array(drawn).T.reshape(2, count, 1)
    x, y = grid.positions
    face = 0.5 + RIPPLE * np.sin(2.0 * np.pi * waves * x)
    below = np.clip((face[:, :, None] - y) * grid.n[1] + 0.5, 0.0, 1.0)
    ratios = ratios[:, :, None]
    density = 2.0 / (1.0 + ratios)
    states = np.zeros((count, *grid.n, 4))
    states[..., 0] = 2.0 * below - 1.0
    states[..., 2] = density * (below + ratios * (1.0 - below))
    states[..., 3] = _unit_pressure(coefficients)
    return states


def _unit_pressure(coefficients: Mapping[str, Array]) -> Array:
    """Pressure (N, 1, 1) at which a flow of speed 1 and density 1 has the Mach number M."""
    pressure: Array = 1.0 / (GAMMA * coefficients["M"] ** 2)
    return pressure[:, None, None]


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
    boundary = PERIODIC
    offered = (PERIODIC, OUTFLOW, CHANNEL)
    dt = 0.05
    frame_dt = 0.05
    t_final = 1.0
    n = BASE_POINTS
    signal_speed = 5.0
    reference_points = 64
    reflections = ((-1, 1, 1, 1), (1, -1, 1, 1))
    exchange = (1, 0, 2, 3)
    conserved = ("density",)
    anywhere = True
    single_offered = True
    kinds = (
        InitialKind("turb", "nearly solenoidal waves in a uniform gas (PDEBench's Turb)", _turbulence, (PERIODIC,)),
        InitialKind("kh", "two streams with a rippled face (Kelvin and Helmholtz)", _streams, (CHANNEL,)),
    )

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        """States (N, X, Y, 4) at the default Mach number."""
        return np.stack([_sample_state(rng, grid) for _ in range(count)])

    def fit_initial(self, initial: Array, coefficients: Mapping[str, Array]) -> Array:
        """Scales the velocities to the Mach number."""
        fitted = initial.copy()
        fitted[..., :2] *= (coefficients["M"] / MACH.default)[:, None, None, None]
        return fitted

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
        """The reference solution; M belongs to the initial state and changes nothing here.

        Raises:
            UserError: ``state_not_positive`` where a density or pressure of the initial state is not.
        """
        return compressible_solution(
            initial, grid, self.boundary, coefficients["eta"], coefficients["zeta"], MIN_POINTS, self.single
        )

    def conserved_means(self, values: NDArray[np.floating]) -> dict[str, Array]:
        return gas_means(values) if all(self.boundary.periodic) else {}


def _sample_state(rng: np.random.Generator, grid: Grid) -> Array:
    """One state (X, Y, 4): the same functions on every grid."""
    while True:
        density, temperature = rng.uniform(*BASE, size=2)
        base = np.array([density, density * temperature])[:, None, None]
        contrast = rng.uniform(*CONTRAST, size=(2, 1, 1))
        turns, windows = rng.random((4, *WEIGHTS.shape)), rng.random(2)
        waves = WEIGHTS * np.exp(2j * np.pi * turns)
        centres = Grid((BASE_POINTS,) * 2, grid.extent)
        everywhere = sum_waves(waves, *centres.positions)
        relative = contrast / np.abs(everywhere[2:]).mean(axis=(1, 2), keepdims=True)
        if (1.0 + relative * everywhere[2:]).min() > LEAST:
            break
    velocity, deviation = np.split(sum_waves(waves, *grid.positions), 2)
    velocity *= MACH.default * np.sqrt(GAMMA * temperature) / np.hypot(*everywhere[:2]).mean()
    deviation *= relative
    if windows[0] < WINDOWED:
        left = FIRST_EDGE + EDGE_SPAN * windows
        along_x, along_y = (window_mask(points, edge) for points, edge in zip(grid.positions, left, strict=True))
        mask = along_x[:, None] * along_y
        velocity, deviation = velocity * mask, deviation * mask
    return np.moveaxis(np.concatenate([velocity, base * (1.0 + deviation)]), 0, -1)
