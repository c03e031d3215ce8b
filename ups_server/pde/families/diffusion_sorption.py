"""Diffusion of a solute that sorbs to the pore walls (Freundlich isotherm).

    R(u) u_t = D u_xx    on [0, 1],    u = 1 at x = 0,    u = -D u_x at x = 1
    R(u) = 1 + (1 - porosity) / porosity  rho_s k_f n_f u^(n_f - 1)

Shapes: states (N, X, 1), trajectories (N, T, X, 1). The solute enters from the left as a front that widens like
sqrt(t), retarded by R ~ 3 to 5, more where u is small; the right end drains. From t ~ 300 on the profile approaches
the straight line of the steady state. States start constant, so all of them differ only by that one number.
PDEBench has one set of coefficients (those below), in metres and days.

The solver is a method of lines on cell centres with PDEBench's boundary treatment: the cell before the first holds
u = 1, the cell beyond the last D times the last slope, so that at 1024 cells it satisfies PDEBench's own discrete
equations. Time is integrated implicitly (LSODA with a tridiagonal Jacobian), many trajectories as one system. A grid
with fewer points is a subsample: the state is interpolated to the cells (monotone cubic), advanced there, and
interpolated back.

Source: Takamoto et al., PDEBench (2022), D.5. PDEBench's published files carry a 1.4 % sawtooth of their integrator.
"""

from collections.abc import Mapping

import numpy as np

from ups_server.pde.boundary import BoundaryCondition, BoundaryKind
from ups_server.pde.family import Array, Family, Field
from ups_server.pde.grid import Grid

DIFFUSION = 5e-4
POROSITY = 0.29
BULK_DENSITY = 2880.0
K_F = 3.5e-4
N_F = 0.874
U_LEFT = 1.0
U_FLOOR = 1e-6
"""Added to u in R, which is infinite at u = 0."""

MIN_CELLS = 1024
RTOL, ATOL = 1e-6, 1e-9
GROUP = 8
"""Trajectories integrated as one system; they share the steps of the hardest."""


class DiffusionSorption(Family):
    id = "diffusion_sorption"
    name = "1D Diffusion-Sorption Equation"
    equation = "u_t = D / R(u) u_xx"
    fields = (Field("u", slot=0, description="dissolved concentration", positive=True),)
    extent = ((0.0, 1.0),)
    boundary = BoundaryCondition(((BoundaryKind.DIRICHLET, BoundaryKind.CAUCHY),))
    dt = 25.0
    frame_dt = 5.0
    t_final = 500.0
    n = 1024
    time_unit = "day"
    length_unit = "m"

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        level = rng.uniform(0.0, 0.2, size=(count, 1, 1))
        return np.broadcast_to(level, (count, grid.n[0], 1)).copy()

    def solve(
        self,
        initial: Array,
        times: Array,
        grid: Grid,
        coefficients: Mapping[str, Array],
        static: Array | None = None,
    ) -> Array:
        n = grid.n[0]
        lo, hi = grid.extent[0]
        cells = Grid((n * -(-MIN_CELLS // n),), grid.extent)
        dx = cells.spacing[0]
        edges = (lo - 0.5 * dx, hi + 0.5 * dx)
        same = cells == grid
        u = initial[..., 0] if same else _resample(initial[..., 0], grid.axes[0], cells.axes[0], edges)
        solution = np.empty((len(u), len(times), n, 1))
        for start in range(0, len(u), GROUP):
            rows = slice(start, start + GROUP)
            fine = _integrate(u[rows], times, dx)
            solution[rows, ..., 0] = fine if same else _resample(fine, cells.axes[0], grid.axes[0], edges)
        solution[:, 0] = initial
        return solution


def retardation(u: Array) -> Array:
    """R(u), dimensionless."""
    return 1.0 + (1.0 - POROSITY) / POROSITY * BULK_DENSITY * K_F * N_F * (u + U_FLOOR) ** (N_F - 1.0)


def _integrate(u: Array, times: Array, dx: float) -> Array:
    """Solution (G, T, X) from cell values u (G, X)."""
    from scipy.integrate import solve_ivp

    if len(times) == 1:
        return u[:, None]
    shape = u.shape

    def velocity(_: float, state: Array) -> Array:
        values = state.reshape(shape)
        padded = np.empty((shape[0], shape[1] + 2))
        padded[:, 1:-1] = values
        padded[:, 0] = U_LEFT
        padded[:, -1] = DIFFUSION / dx * (values[:, -2] - values[:, -1])
        bend = padded[:, 2:] - 2.0 * values + padded[:, :-2]
        result: Array = DIFFUSION / dx**2 * bend / retardation(np.maximum(values, 0.0))
        return result.ravel()

    answer = solve_ivp(
        velocity,
        (times[0], times[-1]),
        u.ravel(),
        method="LSODA",
        t_eval=times,
        rtol=RTOL,
        atol=ATOL,
        lband=1,
        uband=1,
    )
    if not answer.success:
        raise RuntimeError(f"diffusion-sorption was not integrated: {answer.message}")
    solution: Array = answer.y.reshape(*shape, len(times)).transpose(0, 2, 1)
    return solution


def _resample(u: Array, points: Array, targets: Array, edges: tuple[float, float]) -> Array:
    """u (..., X) from `points` to `targets`, with the boundary values at the `edges`; constant states stay so."""
    from scipy.interpolate import PchipInterpolator

    drained = DIFFUSION * u[..., -1:] / (edges[1] - points[-1] + DIFFUSION)
    known = np.concatenate([np.full_like(drained, U_LEFT), u, drained], axis=-1)
    profile = PchipInterpolator(np.concatenate([edges[:1], points, edges[1:]]), known, axis=-1)(targets)
    untouched = np.ptp(u, axis=-1, keepdims=True) == 0.0
    result: Array = np.where(untouched, u[..., :1], profile)
    return result
