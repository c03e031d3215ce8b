"""Diffusion of a solute that sorbs to the pore walls (Freundlich isotherm).

    R(u) u_t = D u_xx    on [0, 1],    u = 1 at x = 0,    u = -D u_x at x = 1
    R(u) = 1 + (1 - porosity) / porosity  rho_s k_f n_f u^(n_f - 1)

Shapes: states (N, X, 1), trajectories (N, T, X, 1). The solute enters from the left as a front that widens like
sqrt(t), retarded by R ~ 3 to 5, more where u is small; the right end drains. From t ~ 300 on the profile approaches
the straight line of the steady state. States start constant, so all of them differ only by that one number.
PDEBench has one set of coefficients (those below), in metres and days. "profiles", which PDEBench does not have, start
from the sums of sines of `random_fields`, mapped onto an interval between two numbers U(0, 1).

PDEBench's generator puts the boundary values into a cell beyond either end, half a cell outside of the box. What its
equations approximate to second order, and what is solved here, are the conditions with h = 1 / 2048 of the box

    u - h u_x = 1 at x = 0,    u = -(D + h) u_x at x = 1

With the values on the ends themselves the solution would be 0.2 % away from PDEBench's.

The solver is a method of lines on cell centres, of second order in their spacing: an image of the outermost cell beyond
either end gives the condition its value and slope there. At 1024 cells it agrees with PDEBench's discrete equations;
512 err by 2e-4 after the first 5 days, 4e-5 after 25 and 1e-5 after 100. Time is integrated implicitly (RODAS with the
tridiagonal Jacobian), a few trajectories as one system. A grid with fewer points is a subsample: the state is
interpolated to the cells (monotone cubic), advanced there, and interpolated back.

Source: Takamoto et al., PDEBench (2022), D.5. PDEBench's published files carry a 1.4 % sawtooth of their integrator.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from ups_server.errors import UserError
from ups_server.pde.bounds import Bound, between, extremes
from ups_server.pde.family import Family, Field, InitialKind
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Floats, Grid, Numbers
from ups_server.pde.integrators import RODAS_GAMMA, rodas_step
from ups_server.pde.random_fields import SCALAR
from ups_server.pde.solution import Grouped, Solution, Stepped, in_groups

DIFFUSION = 5e-4
POROSITY = 0.29
BULK_DENSITY = 2880.0
K_F = 3.5e-4
N_F = 0.874
U_LEFT = 1.0
U_FLOOR = 1e-6
"""Added to u in R, which is infinite at u = 0."""

OUTSIDE = 0.5 / 1024
"""How far outside of the box, in its lengths, the boundary values hold: half a cell of PDEBench's grid."""
MIN_CELLS = 512
RTOL, ATOL = 1e-6, 1e-9
"""Of the error of a step."""
FIRST_STEP = 1e-3
LEAST_STEP = 1e-12
GROWTH = 5.0
"""Most by which a step is longer or shorter than the last."""
GROUP = 8
"""Trajectories integrated as one system; they share the steps of the hardest."""


SIDES = BoundaryCondition(((BoundaryKind.DIRICHLET, BoundaryKind.CAUCHY),))


def _profiles(rng: np.random.Generator, count: int, grid: Grid, coefficients: Numbers) -> Array:
    """Uneven states (N, X, 1) within [0, 1]."""
    states = np.empty((count, *grid.n, 1))
    for state in states:
        low, high = np.sort(rng.random(2))
        state[:, 0] = low + (high - low) * SCALAR.sample(rng, 1, grid, unit_range=True)[0]
    np.clip(states, 0.0, 1.0, out=states)
    return states


class DiffusionSorption(Family):
    id = "diffusion_sorption"
    name = "1D Diffusion-Sorption Equation"
    equation = "u_t = D / R(u) u_xx"
    fields = (Field("u", slot=0, description="dissolved concentration", positive=True),)
    extent = ((0.0, 1.0),)
    boundary = SIDES
    kinds = (InitialKind("profiles", "uneven states of any level", _profiles, (SIDES,)),)
    dt = 25.0
    frame_dt = 5.0
    t_final = 500.0
    n = 1024
    anywhere = True
    reference_points = 512
    time_unit = "day"
    length_unit = "m"

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        level = rng.uniform(0.0, 0.2, size=(count, 1, 1))
        return np.broadcast_to(level, (count, grid.n[0], 1)).copy()

    def refine(self, values: Array, grid: Grid, factor: int) -> Array:
        """Monotone, with the boundary values at the ends."""
        fine, _ = grid.refined(factor)
        return _resample(values[..., 0], grid.axes[0], fine.axes[0], _ends(grid))[..., None]

    def bounds(self, initial: Floats, coefficients: Numbers, static: Floats | None = None) -> list[Bound]:
        """Maximum principle: values stay between the extremes of the start, of u = 1 at the left and of a dry right."""
        low, high = extremes(initial, 0)
        reason = f"maximum principle: from 0 to {U_LEFT:g}, the value at the left end, or the extremes of the start"
        return between(0, np.minimum(low, 0.0), np.maximum(high, U_LEFT), reason)

    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        """The reference solution.

        Raises:
            UserError: ``not_resolved``, from `Solution.advance`.
        """
        n = grid.n[0]
        cells = Grid((n * -(-MIN_CELLS // n),), grid.extent)
        groups = in_groups(np.arange(len(initial)), GROUP)
        return Grouped(initial, groups, lambda rows: _Profiles(initial[rows], grid, cells))


class _Profiles(Stepped):
    """A few trajectories, given on `grid` and solved on `cells`; they share their steps."""

    def __init__(self, initial: Array, grid: Grid, cells: Grid) -> None:
        super().__init__(initial)
        dx, outside = cells.spacing[0], OUTSIDE * grid.length[0]
        self._points, self._cells, self._dx, self._ends = grid.axes[0], cells.axes[0], dx, _ends(grid)
        # Of the images of the first and the last cell, by the values and slopes halfway between both.
        self._before = 0.5 + outside / dx
        self._beyond = (DIFFUSION + outside - 0.5 * dx) / (DIFFUSION + outside + 0.5 * dx)
        self._same = cells == grid
        self._u = initial[..., 0].copy()
        if not self._same:
            self._u = _resample(self._u, self._points, self._cells, self._ends)
        self._step = np.full((len(initial), 1), FIRST_STEP)

    def _carried(self) -> Sequence[Array]:
        return self._u, self._step

    def _advance(self, elapsed: float) -> Array:
        remaining = elapsed - self.elapsed
        while remaining > 0.0:
            longest = float(self._step.min())
            if not longest >= LEAST_STEP:
                raise UserError("not_resolved", "no step of the solver is short enough for this state", got=longest)
            count = math.ceil(remaining / longest * (1.0 - 1e-12))
            # The last two steps before a frame share what is left.
            step = remaining / count if count <= 2 else longest
            u, error = rodas_step(self._u, step, self._rate, self._implicit(step))
            size = ATOL + RTOL * np.maximum(np.abs(u), np.abs(self._u))
            amount = float(np.sqrt(np.square(error / size).mean(axis=1)).max())
            change = min(GROWTH, max(1.0 / GROWTH, 0.9 * max(amount, 1e-12) ** -0.25))
            if amount <= 1.0:
                self._u = u
                remaining = remaining - step if count > 1 else 0.0
                self._step[:] = max(longest, step * change) if step < longest else step * change
            else:
                self._step[:] = step * min(change, 0.9)
        if self._same:
            return self._u[..., None].copy()
        return _resample(self._u, self._cells, self._points, self._ends)[..., None]

    def _rate(self, u: Array) -> Array:
        padded = np.empty((u.shape[0], u.shape[1] + 2))
        padded[:, 1:-1] = u
        padded[:, 0] = u[:, 0] + (U_LEFT - u[:, 0]) / self._before
        padded[:, -1] = self._beyond * u[:, -1]
        bend = padded[:, 2:] - 2.0 * u + padded[:, :-2]
        result: Array = DIFFUSION / self._dx**2 * bend / retardation(np.maximum(u, 0.0))
        return result

    def _implicit(self, step: float) -> Callable[[Array], Array]:
        """Solves with 1 / (GAMMA step) minus the Jacobian, which is tridiagonal; all trajectories in one system."""
        from scipy.linalg import lapack

        u = self._u
        factor, slope = _retardation_and_slope(np.maximum(u, 0.0))
        coupling = DIFFUSION / self._dx**2 / factor
        diagonal = 2.0 * coupling + 1.0 / (RODAS_GAMMA * step)
        diagonal += np.where(u > 0.0, self._rate(u) * slope / factor, 0.0)
        before, after = -coupling, -coupling
        diagonal[:, 0] -= (1.0 - 1.0 / self._before) * coupling[:, 0]
        diagonal[:, -1] -= self._beyond * coupling[:, -1]
        before[:, 0] = after[:, -1] = 0.0
        *factors, failed = lapack.dgttrf(before.ravel()[1:], diagonal.ravel(), after.ravel()[:-1])
        if failed:
            raise UserError("not_resolved", "the solver met a singular system at this state", got=step)

        def solve(right: Array) -> Array:
            found: Array = lapack.dgttrs(*factors, right.ravel())[0]
            return found.reshape(right.shape)

        return solve


def retardation(u: Array) -> Array:
    """R(u), dimensionless."""
    return _retardation_and_slope(u)[0]


def _retardation_and_slope(u: Array) -> tuple[Array, Array]:
    """R(u) and R'(u)."""
    sorbed = (1.0 - POROSITY) / POROSITY * BULK_DENSITY * K_F * N_F * (u + U_FLOOR) ** (N_F - 1.0)
    return 1.0 + sorbed, (N_F - 1.0) * sorbed / (u + U_FLOOR)


def _ends(grid: Grid) -> tuple[float, float]:
    """Where the boundary values hold."""
    (low, high), outside = grid.extent[0], OUTSIDE * grid.length[0]
    return low - outside, high + outside


def _resample(u: Array, points: Array, targets: Array, ends: tuple[float, float]) -> Array:
    """u (..., X) from `points` to `targets`, with the boundary values at the `ends`; constant states stay so."""
    from scipy.interpolate import PchipInterpolator

    drained = DIFFUSION * u[..., -1:] / (ends[1] - points[-1] + DIFFUSION)
    known = np.concatenate([np.full_like(drained, U_LEFT), u, drained], axis=-1)
    profile = PchipInterpolator([ends[0], *points, ends[1]], known, axis=-1)(targets)
    untouched = np.ptp(u, axis=-1, keepdims=True) == 0.0
    result: Array = np.where(untouched, u[..., :1], profile)
    return result
