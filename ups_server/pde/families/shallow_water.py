"""The shallow-water equations over a flat bed, with g = 1: a round dam that breaks.

    h_t + (h u)_x + (h v)_y = 0
    (h u)_t + (h u^2 + h^2 / 2)_x + (h u v)_y = 0
    (h v)_t + (h u v)_x + (h v^2 + h^2 / 2)_y = 0    on [-2.5, 2.5]^2, outflow through the sides

Shapes: states (N, X, Y, 1), trajectories (N, T, X, Y, 1): the depth h alone, as in PDEBench's files. The momenta are
solved too and start at zero, so h at a later time does not determine what follows. States are h = 2 inside a circle
of radius U(0.3, 0.7) and 1 outside: they differ by that one number. A bore runs outwards at about 1.2 and stays clear
of the sides until t = 1; a rarefaction runs inwards, focuses and digs a trough of h ~ 0.3 by t = 0.5 to 1. The volume
of water is conserved until waves reach a side. The equations are symmetric under x -> -x, y -> -y and the exchange of
x and y. "dams", which PDEBench does not have, are one to three such circles, their centres in [-1.6, 1.6]^2, their
radii U(0.2, 0.9), their depths U(1.2, 3) over U(0.7, 1.4).

The solver is the wave-propagation method: finite volumes, Roe's linearised Riemann problems, limited second-order
corrections of each wave (monotonised central limiter), one sweep along x and one along y per step. These are
PDEBench's own numerics (Clawpack's classic solver, one step per frame) and reproduce its files to rounding; at 128^2
they are 0.7 % from a solution on 512^2 cells. A sweep is of second order on smooth waves. Sweeping x before y costs a
first-order error that breaks the symmetry under exchange of x and y: the other order of sweeps differs by 0.1 %.
Where Roe's linearisation fails (transonic rarefactions, nearly dry beds) the flux is Einfeldt's (HLLE) at first order,
which keeps h positive.

Sources: Takamoto et al., PDEBench (2022), appendix D; LeVeque, Finite Volume Methods for Hyperbolic Problems (2002),
6.15, 15.3 and 19.5; Einfeldt, SIAM J. Numer. Anal. 25 (1988) 294.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde.bounds import Bound, at_most, measured, positive
from ups_server.pde.family import Family, Field, InitialKind
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Floats, Grid, Numbers
from ups_server.pde.solution import Grouped, Solution, Stepped, in_groups, whole_steps

OUTFLOW = BoundaryCondition.uniform(BoundaryKind.OUTFLOW, 2)
INSIDE, OUTSIDE = 2.0, 1.0
RADIUS = (0.3, 0.7)
MOST_DAMS = 3
DAM_RADIUS, DAM_DEPTH, DAM_BED = (0.2, 0.9), (1.2, 3.0), (0.7, 1.4)
DAM_PLACE = 1.6
"""Largest distance of a dam's centre from the middle, along each axis."""
STEP = 0.01
"""PDEBench's step. Finer grids divide it, so that frames do not change the steps between them."""
COURANT = 0.9
"""Largest (|u| + 2 sqrt(h)) step / dx. The Riemann invariants bound every speed that can arise."""
MOST_STEPS = 10**4
"""In a time of `STEP`, for which usual states need one."""
LINES = 64
"""Lines of cells swept together: their intermediates fit a core's cache."""

Mask = NDArray[np.bool_]


def _dams(rng: np.random.Generator, count: int, grid: Grid, coefficients: Numbers) -> Array:
    """Depths (N, X, Y, 1) of round dams anywhere in the box, the deepest where they overlap."""
    states = np.empty((count, *grid.n, 1))
    for state in states:
        state[...] = rng.uniform(*DAM_BED)
        for _ in range(rng.integers(1, MOST_DAMS + 1)):
            x, y = rng.uniform(-DAM_PLACE, DAM_PLACE, size=2)
            inside = np.hypot(*np.meshgrid(grid.axes[0] - x, grid.axes[1] - y, indexing="ij")) <= rng.uniform(
                *DAM_RADIUS
            )
            state[inside, 0] = np.maximum(state[inside, 0], rng.uniform(*DAM_DEPTH))
    return states


class ShallowWater(Family):
    id = "shallow_water"
    name = "2D Shallow-Water Equation"
    equation = "h_t + div(h u) = 0, (h u)_t + div(h u u) + grad(h^2 / 2) = 0"
    fields = (Field("h", slot=0, description="depth of the water", positive=True, length_power=-2),)
    extent = ((-2.5, 2.5), (-2.5, 2.5))
    boundary = OUTFLOW
    kinds = (InitialKind("dams", "one to three round dams of any place, radius and depth", _dams, (OUTFLOW,)),)
    dt = 0.01
    frame_dt = 0.01
    t_final = 1.0
    n = 128
    signal_speed = 0.7
    reference_points = 128
    reflections = ((1,), (1,))
    full_state = False

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        radius = rng.uniform(*RADIUS, size=(count, 1, 1))
        distance = np.hypot(*np.meshgrid(*grid.axes, indexing="ij"))
        return np.where(distance <= radius, INSIDE, OUTSIDE)[..., None]

    def bounds(self, initial: Floats, coefficients: Numbers, static: Floats | None = None) -> list[Bound]:
        """Depth is positive; from rest, potential energy does not grow, but by water that comes in at the sides."""
        depth = initial[..., 0]
        edges = [depth[:, 0], depth[:, -1], depth[:, :, 0], depth[:, :, -1]]
        deepest = np.max([edge.max(1) for edge in edges], axis=0).astype(np.float64)
        limit = np.maximum(measured("rms", depth), deepest)
        return [positive(initial, 0), at_most(0, "rms", limit, "the energy of water at rest does not grow")]

    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        """The reference solution from water at rest.

        Raises:
            UserError: ``depth_not_positive``; from `Solution.advance` ``state_too_large``, ``not_resolved``.
        """
        if not (initial > 0.0).all():
            raise UserError("depth_not_positive", "the depth must be positive everywhere", got=float(initial.min()))
        return Grouped(initial, in_groups(np.arange(len(initial)), 1), lambda rows: _Water(initial[rows], grid))


class _Water(Stepped):
    """One trajectory: depth and momenta after whole steps."""

    def __init__(self, initial: Array, grid: Grid) -> None:
        super().__init__(initial)
        depth = initial[0, ..., 0]
        self._grid = grid
        self._state = np.stack([depth, np.zeros_like(depth), np.zeros_like(depth)])

    def _carried(self) -> Sequence[Array]:
        return (self._state[None],)

    def _advance(self, elapsed: float) -> Array:
        done, _ = whole_steps(self.elapsed, STEP)
        whole, rest = whole_steps(elapsed, STEP)
        for _ in range(whole - done):
            self._state = advance(self._state, STEP, self._grid)
        state = advance(self._state, rest, self._grid) if rest else self._state
        return state[:1, ..., None]


def advance(state: Array, interval: float, grid: Grid) -> Array:
    """The state (3, X, Y) of h, h u and h v an `interval` later."""
    dx, dy = grid.spacing
    speed = np.sqrt(state[1] ** 2 + state[2] ** 2) / state[0] + 2.0 * np.sqrt(state[0])
    needed = float(speed.max()) * interval / (COURANT * min(dx, dy))
    if not needed <= MOST_STEPS:
        raise UserError(
            "state_too_large",
            "the waves of this state are too fast for the reference solver",
            got=f"{needed:.3g} steps in a time of {interval:g}",
            expected=f"at most {MOST_STEPS}",
        )
    count = max(1, math.ceil(needed))
    step = interval / count
    for _ in range(count):
        state = _sweep(state, step / dx)
        # Along y the roles of the momenta are exchanged.
        turned = np.ascontiguousarray(state[[0, 2, 1]].transpose(0, 2, 1))
        state = np.ascontiguousarray(_sweep(turned, step / dy)[[0, 2, 1]].transpose(0, 2, 1))
    return state


def _sweep(state: Array, ratio: float) -> Array:
    """One step along the first axis: (3, n, lines) of h, normal and transverse momentum; ratio = step / spacing."""
    swept = np.empty_like(state)
    for start in range(0, state.shape[2], LINES):
        lines = slice(start, start + LINES)
        swept[..., lines] = _sweep_lines(state[..., lines], ratio)
    return swept


def _sweep_lines(state: Array, ratio: float) -> Array:
    first, last = state[:, :1], state[:, -1:]
    cells = np.concatenate([first, first, state, last, last], axis=1)
    flux, unreliable = _roe_flux(cells, ratio)
    cells = cells[:, 1:-1]
    while True:
        if unreliable.any():
            flux[:, unreliable] = _einfeldt_flux(cells[:, :-1][:, unreliable], cells[:, 1:][:, unreliable])
        swept: Array = state - ratio * (flux[:, 1:] - flux[:, :-1])
        drained = swept[0] <= 0.0
        if not drained.any():
            return swept
        beside = np.zeros_like(unreliable)
        beside[:-1] |= drained
        beside[1:] |= drained
        if not (beside & ~unreliable).any():
            raise UserError("not_resolved", "the solver emptied a cell of this state", got=float(swept[0].min()))
        unreliable |= beside


def _roe_flux(cells: Array, ratio: float) -> tuple[Array, Mask]:
    """Flux (3, n + 1, lines) with limited second-order corrections, and where it cannot be relied upon.

    Args:
        cells: (3, n + 4, lines), two cells beyond each end.
    """
    depth, normal, transverse = cells
    root = np.sqrt(depth)
    weight = 1.0 / (root[:-1] + root[1:])
    by_root, across_by_root = normal / root, transverse / root
    u = (by_root[:-1] + by_root[1:]) * weight
    v = (across_by_root[:-1] + across_by_root[1:]) * weight
    c = np.sqrt(0.5 * (depth[:-1] + depth[1:]))
    slow, fast = u - c, u + c
    jump_h, jump_n, jump_t = cells[:, 1:] - cells[:, :-1]
    half = 0.5 / c
    # The waves are a_slow (1, slow, v), a_shear (0, 0, 1), a_fast (1, fast, v).
    a_slow = (fast * jump_h - jump_n) * half
    a_fast = (jump_n - slow * jump_h) * half
    a_shear = jump_t - v * jump_h

    rest = 1.0 + v * v
    dissipation_slow = _dissipation(a_slow, slow, _project(a_slow, slow, v, rest), ratio)
    dissipation_fast = _dissipation(a_fast, fast, _project(a_fast, fast, v, rest), ratio)
    dissipation_shear = _dissipation(a_shear, u, _upwind(a_shear, u[1:-1] > 0.0), ratio)
    inner = cells[:, 1:-1]
    own = _physical_flux(inner)
    flux = own[:, :-1] + own[:, 1:]
    both = dissipation_slow + dissipation_fast
    flux[0] -= both
    flux[1] -= dissipation_slow * slow[1:-1] + dissipation_fast * fast[1:-1]
    flux[2] -= both * v[1:-1] + dissipation_shear
    flux *= 0.5
    return flux, _unreliable(inner, root[1:-1], a_slow[1:-1])


def _project(strength: Array, speed: Array, v: Array, rest: Array) -> Array:
    """Strength of the upwind neighbour's wave a (1, s, v) along the direction of the wave here."""
    here, rightward = speed[1:-1], speed[1:-1] > 0.0
    overlap = 1.0 + _upwind(speed, rightward) * here + _upwind(v, rightward) * v[1:-1]
    result: Array = _upwind(strength, rightward) * overlap / (rest[1:-1] + here * here)
    return result


def _upwind(values: Array, rightward: Mask) -> Array:
    """Values at the interface before or after, whence the wave comes."""
    if rightward.all():
        return values[:-2]
    if not rightward.any():
        return values[2:]
    return np.where(rightward, values[:-2], values[2:])


def _dissipation(strength: Array, speed: Array, neighbour: Array, ratio: float) -> Array:
    """|s| (a - (1 - ratio |s|) limited a): all of a for the upwind flux, none of it for Lax and Wendroff's."""
    strength, speed = strength[1:-1], np.abs(speed[1:-1])
    bound = np.minimum(np.abs(strength), np.abs(neighbour))
    bound *= 2.0 * (strength * neighbour > 0.0)
    limited = strength + neighbour
    limited *= 0.5
    np.minimum(limited, bound, out=limited)
    np.maximum(limited, np.negative(bound, out=bound), out=limited)
    limited *= 1.0 - ratio * speed
    result: Array = np.subtract(strength, limited, out=limited)
    result *= speed
    return result


def _unreliable(cells: Array, root: Array, a_slow: Array) -> Mask:
    """Interfaces with a transonic rarefaction, or whose state between the waves is dry."""
    depth, normal, _ = cells
    mask: Mask = depth[:-1] + a_slow <= 0.0
    momentum_of_sound = depth * root
    if (np.abs(normal) >= momentum_of_sound).any():
        for sign in (-1.0, 1.0):
            leftward = normal + sign * momentum_of_sound < 0.0
            mask |= leftward[:-1] & ~leftward[1:]
    return mask


def _physical_flux(cells: Array) -> Array:
    depth, normal, transverse = cells
    u = normal / depth
    return np.stack([normal, normal * u + 0.5 * depth * depth, transverse * u])


def _einfeldt_flux(left: Array, right: Array) -> Array:
    """The HLLE flux (3, M) between states (3, M): first order, and positive in h."""
    root_left, root_right = np.sqrt(left[0]), np.sqrt(right[0])
    u_left, u_right = left[1] / left[0], right[1] / right[0]
    u = (root_left * u_left + root_right * u_right) / (root_left + root_right)
    c = np.sqrt(0.5 * (left[0] + right[0]))
    slowest = np.minimum(np.minimum(u_left - root_left, u - c), 0.0)
    fastest = np.maximum(np.maximum(u_right + root_right, u + c), 0.0)
    flux: Array = (
        fastest * _physical_flux(left) - slowest * _physical_flux(right) + fastest * slowest * (right - left)
    ) / (fastest - slowest)
    return flux
