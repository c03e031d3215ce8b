"""FitzHugh and Nagumo's equations: an activator that excites itself and an inhibitor that follows it, both diffusing.

    u_t = D_u (u_xx + u_yy) + u - u^3 - k - v
    v_t = D_v (v_xx + v_yy) + u - v            on [-1, 1]^2, no flux through the sides

Shapes: states (N, X, Y, 2), trajectories (N, T, X, Y, 2), activator u before inhibitor v. States start as white noise,
N(0, 1) in every cell; diffusion smooths it within t ~ 0.1, and from t ~ 1 on domains of u ~ +-1 with fronts sqrt(D_u)
wide form and slowly move. PDEBench has one set of coefficients (the defaults). The equations are symmetric under
x -> -x and y -> -y, and under the exchange of x and y.

In space the solver uses PDEBench's finite volumes: the five-point Laplacian on the given grid's cells, whatever the
grid. White noise has no limit under refinement, so this choice is part of the problem: with the exact Laplacian the
solution differs by 7 % (u) and 2 % (v), and a coarser grid's noise is another problem, not an approximation.
In time it is Strang's splitting of reaction and diffusion (exact: a matrix exponential along each axis), extrapolated
to fourth order from whole and half steps, whose difference also decides where a step is halved. Its own error is
1e-5, that of PDEBench's integrator 6e-5 of the inhibitor.

Source: Takamoto et al., PDEBench (2022), appendix D; Klaasen and Troy, SIAM J. Appl. Math. 44 (1984) 96.
"""

import math
from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from ups_server.errors import UserError
from ups_server.pde.bounds import Bound, between
from ups_server.pde.family import Coefficient, Family, Field
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Floats, Grid, Numbers
from ups_server.pde.solution import Grouped, Rows, Solution, Stepped, in_groups

TOLERANCE = 5e-4
"""Largest difference between one step and two half steps, before extrapolation; the extrapolated step is some hundred
times better."""
MAX_STEP = 0.05
MAX_HALVINGS = 24
"""Enough for states up to about 1000."""

MAX_PREPARED = 32
"""Exponentials kept, one pair a step size: irregular frames would otherwise gather them without end."""


class DiffusionReaction2D(Family):
    id = "diffusion_reaction_2d"
    name = "2D Diffusion-Reaction Equation"
    equation = "u_t = D_u lap u + u - u^3 - k - v, v_t = D_v lap v + u - v"
    fields = (
        Field("activator", slot=0, description="activator u"),
        Field("inhibitor", slot=1, description="inhibitor v"),
    )
    coefficients = (
        Coefficient(
            "D_u",
            "D_u",
            "diffusion coefficient of the activator",
            default=1e-3,
            domain=(0.0, np.inf),
            length_power=-2,
            aliases=("Du",),
        ),
        Coefficient(
            "D_v",
            "D_v",
            "diffusion coefficient of the inhibitor",
            default=5e-3,
            domain=(0.0, np.inf),
            length_power=-2,
            aliases=("Dv",),
        ),
        Coefficient("k", "k", "constant sink of the activator", default=5e-3, length_power=0),
    )
    extent = ((-1.0, 1.0), (-1.0, 1.0))
    boundary = BoundaryCondition.uniform(BoundaryKind.NO_FLUX, 2)
    dt = 0.05
    frame_dt = 0.05
    t_final = 5.0
    n = 128
    grid_bound = "its states are noise, independent in every cell, and its Laplacian is that of the cells"
    reflections = ((1, 1), (1, 1))
    exchange = (0, 1)

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return rng.standard_normal((count, *grid.n, 2))

    def bounds(self, initial: Floats, coefficients: Numbers, static: Floats | None = None) -> list[Bound]:
        """A square |u|, |v| <= a is invariant where a (a^2 - 2) >= |k|: at its sides the reaction points inwards."""
        space = tuple(range(1, initial.ndim))
        sink = np.abs(np.asarray(coefficients["k"], dtype=np.float64))
        # Above the root of a^3 - 2 a = |k|: with a = sqrt(2) + |k| / 4 the left side is at least |k|.
        side = np.maximum(np.abs(initial).max(space).astype(np.float64), math.sqrt(2.0) + 0.25 * sink)
        reason = "activator and inhibitor stay in a square into which the reaction points"
        return [bound for field in (0, 1) for bound in between(field, -side, side, reason)]

    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        """The reference solution.

        Raises:
            UserError: ``state_too_large`` where the reaction is too fast to be followed.
        """

        def one(rows: Rows) -> Solution:
            diffusion = float(coefficients["D_u"][rows[0]]), float(coefficients["D_v"][rows[0]])
            return _Reaction(initial[rows], _SplitStep(grid, diffusion, float(coefficients["k"][rows[0]])))

        return Grouped(initial, in_groups(np.arange(len(initial)), 1), one)


class _Reaction(Stepped):
    """One trajectory."""

    def __init__(self, initial: Array, method: "_SplitStep") -> None:
        super().__init__(initial)
        self._method = method
        self._state = np.ascontiguousarray(np.moveaxis(initial[0], -1, 0))

    def _carried(self) -> Sequence[Array]:
        return (self._state[None],)

    def _advance(self, elapsed: float) -> Array:
        # Intervals between frames differ by rounding. Without it, steps do not depend on which frames came before.
        interval = float(f"{elapsed - self.elapsed:.9e}")
        count = math.ceil(interval / MAX_STEP - 1e-6)
        # Matrices this small are multiplied no faster by several threads, and far slower on a busy machine.
        with threadpool_limits(1, "blas"):
            for _ in range(count):
                self._state = self._method.advance(self._state, interval / count)
        return np.moveaxis(self._state, 0, -1)[None]


class _SplitStep:
    """Steps of one trajectory; states are (2, X, Y)."""

    def __init__(self, grid: Grid, diffusion: tuple[float, float], sink: float) -> None:
        self.grid = grid
        self.diffusion = diffusion
        self.sink = sink
        self._prepared: dict[float, tuple[Array, Array]] = {}

    def advance(self, state: Array, step: float, halvings: int = 0) -> Array:
        """The state a `step` later, halved where needed."""
        with np.errstate(over="ignore", invalid="ignore"):
            whole = self._split(state, step, 1)
            halves = self._split(state, 0.5 * step, 2)
            difference = halves - whole
            done = bool(np.abs(difference).max() <= TOLERANCE)
        if done:
            result: Array = halves + difference / 3.0
            return result
        if halvings == MAX_HALVINGS:
            raise UserError(
                "state_too_large",
                "the reaction of this state is too fast for the reference solver",
                got=f"max |u| = {np.abs(state).max():.3g}",
                expected="states of order 1",
            )
        middle = self.advance(state, 0.5 * step, halvings + 1)
        return self.advance(middle, 0.5 * step, halvings + 1)

    def _split(self, state: Array, step: float, count: int) -> Array:
        """`count` steps of Strang's splitting; half reactions between two of them become one."""
        state = self._react(state, 0.5 * step)
        for remaining in reversed(range(count)):
            state = self._diffuse(state, step)
            state = self._react(state, step if remaining else 0.5 * step)
        return state

    def _react(self, state: Array, step: float) -> Array:
        """One Runge-Kutta step of fourth order, point by point."""
        first = self._reaction(state)
        second = self._reaction(state + 0.5 * step * first)
        third = self._reaction(state + 0.5 * step * second)
        last = self._reaction(state + step * third)
        second += third
        second *= 2.0
        second += first
        second += last
        second *= step / 6.0
        second += state
        return second

    def _reaction(self, state: Array) -> Array:
        u, v = state
        rate = np.empty_like(state)
        np.multiply(u, u, out=rate[0])
        np.subtract(1.0, rate[0], out=rate[0])
        rate[0] *= u
        rate[0] -= v
        rate[0] -= self.sink
        np.subtract(u, v, out=rate[1])
        return rate

    def _diffuse(self, state: Array, step: float) -> Array:
        along_x, along_y = self._propagators(step)
        result: Array = along_x @ state @ along_y
        return result

    def _propagators(self, step: float) -> tuple[Array, Array]:
        """Heat along x (2, X, X) and along y (2, Y, Y)."""
        if step in self._prepared:
            return self._prepared[step]
        if len(self._prepared) == MAX_PREPARED:
            self._prepared.clear()
        along_x, along_y = (
            np.stack([heat_propagator(n, rate * step / spacing**2) for rate in self.diffusion])
            for n, spacing in zip(self.grid.n, self.grid.spacing, strict=True)
        )
        self._prepared[step] = along_x, along_y
        return along_x, along_y


def heat_propagator(n: int, number: float) -> Array:
    """exp(`number` L) (n, n), where L u_i = u_{i-1} - 2 u_i + u_{i+1} between walls without flux. It is symmetric."""
    mode, cell = np.arange(n), np.arange(n) + 0.5
    wave = np.sqrt(2.0 / n) * np.cos(np.pi / n * mode[:, None] * cell)
    wave[0] = np.sqrt(1.0 / n)
    decay = np.exp(-4.0 * number * np.sin(0.5 * np.pi / n * mode) ** 2)
    result: Array = (wave.T * decay) @ wave
    return result
