"""Incompressible flow in a box with walls, stirred by a force on the particles it carries.

    v_t + v . grad v = -grad p + nu lap v + c f,   div v = 0
    c_t + v . grad c = 0                           on [0, 1]^2, v = 0 on the walls

Shapes: states (N, X, Y, 3) of Vx, Vy and particles c, trajectories (N, T, X, Y, 3), static force f (N, X, Y, 2). The
force acts in proportion to the particles, as buoyancy does: without particles it does nothing, and -c under -f moves
alike. Without force, kinetic energy decays; particles have no diffusion of their own and never exceed their first
extremes. The equations are symmetric under x -> -x, y -> -y and the exchange of x and y, with the force.

States are Gaussian random fields with zero mean, and so is the force, by amplitude of wave number k: |k|^-2 for
velocity and particles; |k|^-6 and none below |k|^2 = 5 for the force. Velocities live on the faces of the cells and
are zero on the walls; each component has its own two-component field of mean square 1, of which it is one, so that its
own varies. **A sampled velocity is not free of divergence**, as in PDEBench's frame 0: the first step of the solver
projects it, which leaves 0.4 to 0.8 of its norm. From the next frame on, ours and PDEBench's look alike.

"wide", which PDEBench does not have: velocity, particles and force are multiplied by factors, log-uniform in 0.5 ... 2
for each of the former and in 0.3 ... 3 for the force.

The solver is the generator's (see `ups_server.pde.incompressible`), on the given grid's cells, whatever the grid:
linear interpolation diffuses like a viscosity of |v| dx / 2, at 64^2 and |v| = 1 nearly nu itself, so a converged
solution is another problem. PDEBench publishes 512^2; `n` here is that of the reference files we have, 64^2.

Source: Takamoto et al., PDEBench (2022), appendix D. Inferred from a PDEBench-style file at 64^2: that the force
multiplies the particles, the order of the operators, spectra, norms and lower bounds of the wave numbers (to rounding).
Assumed, one trajectory being there: that norms vary from component to component as said.
"""

import numpy as np

from ups_server.pde.bounds import Bound, at_most, between, extremes
from ups_server.pde.family import Coefficient, Family, Field, InitialKind
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Floats, Grid, Numbers
from ups_server.pde.incompressible import incompressible_solution, to_centres
from ups_server.pde.random_fields import draw_waves, falling, sum_waves
from ups_server.pde.solution import Solution

HIGHEST = 31
"""Largest wave number along an axis: what 64 points resolve."""
STATE_WAVES = falling(HIGHEST, scale=0.4, smoothness=1.0)
FORCE_WAVES = falling(HIGHEST, scale=0.15, smoothness=3.0)


WIDE_STATE, WIDE_FORCE = (0.5, 2.0), (0.3, 3.0)
"""Factors of flow and particles, and of the force, in "wide" states."""
NO_SLIP = BoundaryCondition.uniform(BoundaryKind.NO_SLIP, 2)


def _sample_states(rng: np.random.Generator, count: int, grid: Grid) -> Array:
    states = np.empty((count, *grid.n, 3))
    x, y = (_centres(n) for n in grid.n)
    for state in states:
        state[..., :2] = _sample_vector(rng, grid, STATE_WAVES)
        state[..., 2] = sum_waves(draw_waves(rng, 1, STATE_WAVES), x, y)[0]
    return states


def _sample_forces(rng: np.random.Generator, count: int, grid: Grid) -> Array:
    return np.stack([_sample_vector(rng, grid, FORCE_WAVES) for _ in range(count)])


def _wide_states(rng: np.random.Generator, count: int, grid: Grid, coefficients: Numbers) -> Array:
    states = np.empty((count, *grid.n, 3))
    low, high = np.log(WIDE_STATE)
    for state in states:
        flow, particles = np.exp(rng.uniform(low, high, size=2))
        state[...] = _sample_states(rng, 1, grid)[0] * [flow, flow, particles]
    return states


def _wide_forces(rng: np.random.Generator, count: int, grid: Grid) -> Array:
    low, high = np.log(WIDE_FORCE)
    forces = [np.exp(rng.uniform(low, high)) * _sample_forces(rng, 1, grid)[0] for _ in range(count)]
    return np.stack(forces)


class IncompressibleNs2D(Family):
    id = "incompressible_ns_2d"
    name = "2D Incompressible Navier-Stokes Equation"
    equation = "v_t + v . grad v = -grad p + nu lap v + c f, div v = 0, c_t + v . grad c = 0"
    fields = (
        Field("Vx", slot=0, description="velocity along x", length_power=-1),
        Field("Vy", slot=1, description="velocity along y", length_power=-1),
        Field("particles", slot=2, description="density of the particles on which the force acts", length_power=0),
    )
    static_fields = (
        Field("force_x", slot=0, description="force along x per particle density", length_power=-1),
        Field("force_y", slot=1, description="force along y per particle density", length_power=-1),
    )
    coefficients = (
        Coefficient(
            "nu",
            "nu",
            "kinematic viscosity",
            default=0.01,
            domain=(0.0, np.inf),
            length_power=-2,
            aliases=("NU",),
        ),
    )
    extent = ((0.0, 1.0), (0.0, 1.0))
    boundary = NO_SLIP
    kinds = (
        InitialKind("wide", "flow, particles and force of varied strength", _wide_states, (NO_SLIP,), _wide_forces),
    )
    dt = 0.05
    frame_dt = 0.005
    solenoidal = True
    reflections = ((-1, 1, 1), (1, -1, 1))
    static_reflections = ((-1, 1), (1, -1))
    exchange = (1, 0, 2)
    static_exchange = (1, 0)
    t_final = 5.0
    n = 64
    grid_bound = "it has the numerics of the generator, whose interpolation diffuses as the cells are large"

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return _sample_states(rng, count, grid)

    def sample_static(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return _sample_forces(rng, count, grid)

    def bounds(self, initial: Floats, coefficients: Numbers, static: Floats | None = None) -> list[Bound]:
        """Particles keep their extremes; the kinetic energy stays below what the force keeps up against friction.

        d/dt |v| <= |c f| - 2 pi^2 nu |v| in the mean square, 2 pi^2 being the lowest eigenvalue of the Laplacian on
        the box: |v| is at most what it was, or max |c| |f| / (2 pi^2 nu).
        """
        low, high = extremes(initial, 2)
        reason = "particles are carried along and keep their extremes"
        particles = between(2, low, high, reason)
        force = np.zeros(len(initial)) if static is None else _norm(static)
        friction = 2.0 * np.pi**2 * np.asarray(coefficients["nu"], dtype=np.float64)
        with np.errstate(all="ignore"):
            push = np.maximum(np.abs(low), np.abs(high)) * force
            kept_up = np.where(push > 0.0, push / friction, 0.0)
            limit = np.maximum(_norm(initial[..., :2]), kept_up)
        reason = "kinetic energy stays below what the force keeps up against friction"
        return [*particles, *(at_most(field, "rms", limit, reason) for field in (0, 1))]

    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        """The reference solution, without force where `static` is None.

        Raises:
            UserError: ``invalid_grid`` for fewer than two cells along an axis.
        """
        return incompressible_solution(initial, grid, coefficients["nu"], static)


def _norm(vectors: Floats) -> Array:
    """Root mean square length (N,) of vector fields (N, X, Y, 2)."""
    squares: Array = np.square(vectors, dtype=np.float64).sum(-1).mean((1, 2))
    return np.sqrt(squares)


def _sample_vector(rng: np.random.Generator, grid: Grid, weight: Array) -> Array:
    """One vector field (X, Y, 2) in the cells, from components on the inner faces between them."""
    n, m = grid.n
    u = sum_waves(draw_waves(rng, 2, weight)[:1], _inner_faces(n), _centres(m))
    v = sum_waves(draw_waves(rng, 2, weight)[1:], _centres(n), _inner_faces(m))
    result: Array = to_centres(u, v)[0]
    return result


def _centres(n: int) -> Array:
    return (np.arange(n) + 0.5) / n


def _inner_faces(n: int) -> Array:
    return np.arange(1, n) / n
