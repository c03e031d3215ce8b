"""Compressible Navier-Stokes: an ideal gas with friction, without heat conduction, in one, two and three dimensions.

    rho_t + div(rho v) = 0
    (rho v_i)_t + div(rho v_i v) + d_i p = sum_j d_j s_ij
    E_t + div((E + p) v) = sum_ij d_j (v_i s_ij),       E = p / (gamma - 1) + rho |v|^2 / 2,   gamma = 5/3
    s_ii = rho (zeta + 4/3 eta) d_i v_i,   s_ij = rho eta d_j v_i (i != j)

Shapes: states (N, X..., d + 2) of velocities, density and pressure, trajectories (N, T, X..., d + 2). This is
PDEBench's friction, not Newton's: eta and zeta multiply the density, as kinematic viscosities do, and mixed derivatives
are left out. Axes are periodic, or have zero gradients at both ends. The solver is that of
`ups_server.pde.compressible`, on at least `min_points` cells an axis: coarser states are refined.

**One dimension**, on [-1, 1]. Sound crosses the box within t ~ 1 at the usual temperatures and steepens; with
eta = zeta = 0.1 it has died out by then, and what remains is a nearly uniform flow at uniform pressure that carries the
density along. PDEBench has eta = zeta in {1e-8, 0.01, 0.1}.

Initial states ("Rand"): velocity, density and pressure are each one of the sums of sines of `random_fields`, of three
terms, every second one in a window (in units of x). The velocity is that sum itself; density and pressure are
m s + b, where s is the sum mapped onto [0, 1] and m and b are log-uniform, in 1 ... 10 for the density and in
10 ... 100 for the pressure. So a density varies by up to a factor of 11, and the temperature from 0.5 to 200.

"Shock", for zero gradients: two uniform gases side by side at 0.25 + 0.5 r of the box. On the right a quantity is
exp(lo + (hi - lo) r) with the r of the place, each quantity with a place of its own; on the left it is drawn again. The
ranges are 1 ... 10 of density, 10 ... 100 of pressure and exp(-0.5) ... exp(0.5) of velocity, which is thus positive.

**Two dimensions**, on [0, 1]^2. With eta = zeta = 0.1 velocity and pressure die out within t ~ 0.2 and leave the
density, which barely moves. PDEBench has M in {0.1, 1} and eta = zeta in {1e-8, 0.01, 0.1}. M belongs to the initial
state and changes nothing in the equation.

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

**Three dimensions**: known from files only.

Source: Takamoto et al., PDEBench (2022), D.6, with what its generator does beyond it. Checked on first frames of
PDEBench's, to 1e-6 of their range: in one dimension waves and period, constant parts, window and edges, and the
extremes of density and pressure within those of m and b; in two the wave vectors (all else is below 1e-7), their
amplitudes, the scale of the velocity. Assumed: that the negative ones are, towards zero, in "Turb".

Two faults of PDEBench's files in one dimension: total energy grows by 0.1 to 0.9 % over a trajectory, and after the
first 0.05 the velocity can be 0.5 % away from a converged solution.
"""

from typing import ClassVar

import numpy as np

from ups_server.pde.bounds import Bound, at_most, positive
from ups_server.pde.compressible import compressible_solution
from ups_server.pde.family import Coefficient, Family, Field, InitialKind, UnsolvedFamily
from ups_server.pde.gas import GAMMA
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Floats, Grid, Numbers
from ups_server.pde.random_fields import EDGE_SPAN, FIRST_EDGE, MultiSine, sum_waves, waves_off_the_axes, window_mask
from ups_server.pde.solution import Solution

VELOCITY_X = Field("Vx", slot=0, description="velocity along x", length_power=-1)
VELOCITY_Y = Field("Vy", slot=1, description="velocity along y", length_power=-1)
DENSITY = Field("density", slot=2, description="mass density", positive=True, relative=True)
PRESSURE = Field("pressure", slot=3, description="pressure", positive=True, relative=True, length_power=-2)
ETA = Coefficient(
    "eta", "eta", "shear viscosity, multiplied by the density", 0.1, (0.0, np.inf), length_power=-2, aliases=("Eta",)
)
ZETA = Coefficient(
    "zeta", "zeta", "bulk viscosity, multiplied by the density", 0.1, (0.0, np.inf), length_power=-2, aliases=("Zeta",)
)
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


class _Gas(Family):
    """What a viscous gas has in any number of dimensions."""

    min_points: ClassVar[int]
    """Coarser states are refined to so many cells along every axis."""
    signal_speed = 5.0
    conserved = ("density",)
    anywhere = True
    single_offered = True

    def bounds(self, initial: Floats, coefficients: Numbers, static: Floats | None = None) -> list[Bound]:
        """Density and pressure are positive; without sides, mass and energy, pressure being a part, do not grow."""
        density, pressure = initial.shape[-1] - 2, initial.shape[-1] - 1
        signs = [positive(initial, density), positive(initial, pressure)]
        if not all(self.boundary.periodic):
            return signs
        with np.errstate(all="ignore"):
            means = gas_means(initial)
        return [
            *signs,
            at_most(density, "mean", means["density"], "mass is conserved"),
            at_most(pressure, "mean", (GAMMA - 1.0) * means["energy"], "energy is conserved"),
        ]

    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        """The reference solution.

        Raises:
            UserError: ``state_not_positive`` where a density or pressure of the initial state is not.
        """
        eta, zeta = coefficients["eta"], coefficients["zeta"]
        return compressible_solution(initial, grid, self.boundary, eta, zeta, self.min_points, self.single)

    def conserved_means(self, values: Floats) -> dict[str, Array]:
        return gas_means(values) if all(self.boundary.periodic) else {}


def gas_means(values: Floats) -> dict[str, Array]:
    """Means over the box (T,) of density, momenta and total energy, from values (T, X..., d + 2)."""
    ndim = values.ndim - 2
    *velocities, density, pressure = np.moveaxis(values.astype(np.float64), -1, 0)
    energy = pressure / (GAMMA - 1.0) + 0.5 * density * sum(v * v for v in velocities)
    momenta = {f"momentum {axis}": density * v for axis, v in zip("xyz", velocities, strict=False)}
    space = tuple(range(1, ndim + 1))
    return {name: part.mean(axis=space) for name, part in {"density": density, **momenta, "energy": energy}.items()}


WAVES = MultiSine(numbers=3, windowed=0.5, window_extent=(-1.0, 1.0))
"""The sums of sines of all three fields in one dimension."""
THERMAL_RANGE = ((1.0, 10.0), (10.0, 100.0))
"""Of density and pressure: least and largest value of both m and b."""
SHOCK_RANGE = ((np.exp(-0.5), np.exp(0.5)), *THERMAL_RANGE)
"""Velocity, density and pressure on both sides of a shock."""


def _both(ndim: int) -> tuple[BoundaryCondition, BoundaryCondition]:
    """All axes periodic, all with zero gradients."""
    kinds = (BoundaryKind.PERIODIC, BoundaryKind.OUTFLOW)
    periodic, outflow = (BoundaryCondition.uniform(kind, ndim) for kind in kinds)
    return periodic, outflow


LINE_PERIODIC, LINE_OUTFLOW = _both(1)


def _shocks(rng: np.random.Generator, count: int, grid: Grid, coefficients: Numbers) -> Array:
    """Two uniform states side by side (N, X, 3)."""
    right, left = rng.random((count, 2, 3)).swapaxes(0, 1)
    low, high = np.log(SHOCK_RANGE).T
    values = [np.exp(low + (high - low) * drawn)[:, None] for drawn in (left, right)]
    beyond = grid.positions[0][:, None] >= 0.25 + 0.5 * right[:, None]
    states: Array = np.where(beyond, values[1], values[0])
    return states


def _sample_line(rng: np.random.Generator, grid: Grid) -> Array:
    """One state (X, 3): the same functions on every grid."""
    velocity = WAVES.sample(rng, 1, grid)
    shape = WAVES.sample(rng, 2, grid, unit_range=True)
    low, high = np.log(THERMAL_RANGE).T
    span, base = np.exp(rng.uniform(low, high, size=(2, 2)))[:, :, None]
    return np.concatenate([velocity, span * shape + base]).T


class CompressibleNs1D(_Gas):
    id = "compressible_ns_1d"
    name = "1D Compressible Navier-Stokes Equation"
    equation = (
        "rho_t + (rho v)_x = 0, (rho v)_t + (rho v^2 + p)_x = s_x, E_t + ((E + p) v)_x = (v s)_x, "
        "s = rho (zeta + 4/3 eta) v_x"
    )
    fields = (VELOCITY_X, DENSITY, PRESSURE)
    coefficients = (ETA, ZETA)
    extent = ((-1.0, 1.0),)
    boundary = LINE_PERIODIC
    offered = (LINE_PERIODIC, LINE_OUTFLOW)
    dt = 0.05
    frame_dt = 0.01
    t_final = 1.0
    n = 1024
    min_points = 512  # PDEBench's states are solved as well as at its own 1024
    reflections = ((-1, 1, 1),)
    kinds = (InitialKind("shock", "two uniform gases side by side (PDEBench's Shock)", _shocks, (LINE_OUTFLOW,)),)

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        """States (N, X, 3) of PDEBench's "Rand" distribution."""
        return np.stack([_sample_line(rng, grid) for _ in range(count)])


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
BASE_POINTS = 128
"""Cells of PDEBench's grid along an axis: they fix means and extremes of a state, whatever grid it is sampled on."""
PLANE_PERIODIC, PLANE_OUTFLOW = _both(2)
CHANNEL = BoundaryCondition((PLANE_PERIODIC.sides[0], PLANE_OUTFLOW.sides[1]))
"""Periodic along x, zero gradients at the ends of y."""


def _turbulence(rng: np.random.Generator, count: int, grid: Grid, coefficients: Numbers) -> Array:
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


def _streams(rng: np.random.Generator, count: int, grid: Grid, coefficients: Numbers) -> Array:
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


def _unit_pressure(coefficients: Numbers) -> Array:
    """Pressure (N, 1, 1) at which a flow of speed 1 and density 1 has the Mach number M."""
    pressure: Array = 1.0 / (GAMMA * coefficients["M"] ** 2)
    return pressure[:, None, None]


def _sample_plane(rng: np.random.Generator, grid: Grid) -> Array:
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


class CompressibleNs2D(_Gas):
    id = "compressible_ns_2d"
    name = "2D Compressible Navier-Stokes Equation"
    equation = (
        "rho_t + div(rho v) = 0, (rho v)_t + div(rho v v) + grad p = div s, E_t + div((E + p) v) = div(v s), "
        "s_ii = rho (zeta + 4/3 eta) d_i v_i, s_ij = rho eta d_j v_i"
    )
    fields = (VELOCITY_X, VELOCITY_Y, DENSITY, PRESSURE)
    coefficients = (MACH, ETA, ZETA)
    extent = ((0.0, 1.0), (0.0, 1.0))
    boundary = PLANE_PERIODIC
    offered = (PLANE_PERIODIC, PLANE_OUTFLOW, CHANNEL)
    dt = 0.05
    frame_dt = 0.05
    t_final = 1.0
    n = BASE_POINTS
    min_points = 64  # four waves to the box need as many
    reference_points = 64
    reflections = ((-1, 1, 1, 1), (1, -1, 1, 1))
    exchange = (1, 0, 2, 3)
    kinds = (
        InitialKind(
            "turb", "nearly solenoidal waves in a uniform gas (PDEBench's Turb)", _turbulence, (PLANE_PERIODIC,)
        ),
        InitialKind("kh", "two streams with a rippled face (Kelvin and Helmholtz)", _streams, (CHANNEL,)),
    )

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        """States (N, X, Y, 4) at the default Mach number."""
        return np.stack([_sample_plane(rng, grid) for _ in range(count)])

    def fit_initial(self, initial: Array, coefficients: Numbers) -> Array:
        """Scales the velocities to the Mach number."""
        fitted = initial.copy()
        fitted[..., :2] *= (coefficients["M"] / MACH.default)[:, None, None, None]
        return fitted


class CompressibleNs3D(UnsolvedFamily):
    """PDEBench's files of a periodic box; no slot of the models holds Vz."""

    id = "compressible_ns_3d"
    name = "3D Compressible Navier-Stokes Equation"
    equation = "r_t + div(r v) = 0, (r v)_t + div(r v v) + grad p = div sigma, E_t + div((E + p) v - v sigma) = 0"
    fields = (
        Field("Vx", slot=0, description="velocity along x"),
        Field("Vy", slot=1, description="velocity along y"),
        Field("Vz", slot=4, description="velocity along z"),
        Field("density", slot=2, description="mass density", positive=True),
        Field("pressure", slot=3, description="pressure", positive=True),
    )
    coefficients = (
        Coefficient("M", "M", "Mach number of the initial velocity", 0.1, (0.0, np.inf), low_open=True),
        Coefficient("eta", "eta", "shear viscosity", 0.1, (0.0, np.inf), aliases=("Eta",)),
        Coefficient("zeta", "zeta", "bulk viscosity", 0.1, (0.0, np.inf), aliases=("Zeta",)),
    )
    extent = ((0.0, 1.0),) * 3
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 3)
    dt = 0.05
    frame_dt = 0.05
    t_final = 1.0
    n = 128
    conserved = ("density",)
