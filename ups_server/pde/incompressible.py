"""Incompressible flow in a box with walls, carrying particles on which a force acts.

    v_t + v . grad v = -grad p + nu lap v + c f,  div v = 0,  c_t + v . grad c = 0

A step of `STEP`, on a staggered grid: velocity is carried by itself (semi-Lagrangian, linear), diffuses (Euler's
explicit step), is accelerated by c f and projected; then the particles are carried by the new velocity. All of it is of
first order in the step, and in space through the linear interpolation.

These are the numerics of PDEBench's generator (PhiFlow's standard operators), in its order: velocity beyond a wall is
zero half a cell outside for the component along it, particles there are as in the nearest cell. It reproduces PDEBench-
style files at 64^2 to 0.013 %, where a converged solution differs by several percent.

Source: Stam, Stable Fluids (1999); Harlow and Welch, Phys. Fluids 8 (1965) 2182.
"""

import math

import numpy as np

from ups_server.errors import UserError
from ups_server.pde.family import Array
from ups_server.pde.grid import Grid
from ups_server.pde.semi_lagrangian import upstream
from ups_server.pde.staggered import Projection, sine_waves, to_centres, to_faces

STEP = 0.001
"""The generator's step. Frames do not change the steps between them."""
MAX_EXPLICIT = 0.5
"""Largest nu dt (1 / dx^2 + 1 / dy^2) of an explicit step of diffusion; beyond, it is implicit."""
ROWS = 4
"""Trajectories advanced together: their intermediates fit a core's cache."""


def solve_incompressible(
    initial: Array, times: Array, grid: Grid, viscosity: Array, force: Array | None = None, step: float = STEP
) -> Array:
    """Vx, Vy and particles (N, T, X, Y, 3) at `times`, from (N, X, Y, 3) at times[0].

    Args:
        viscosity: (N,).
        force: (N, X, Y, 2), zero where None.

    Raises:
        UserError: ``invalid_grid`` for fewer than two cells along an axis.
    """
    if min(grid.n) < 2:
        raise UserError("invalid_grid", "flow between walls needs two cells along each axis", got=grid.n)
    elapsed = (times - times[0]) / step
    solution = np.empty((len(initial), len(times), *initial.shape[1:]))
    solution[:, 0] = initial
    projection = Projection(grid)
    for start in range(0, len(initial), ROWS):
        rows = slice(start, start + ROWS)
        flow = _Flow(projection, initial[rows], viscosity[rows], None if force is None else force[rows])
        done = 0
        for frame, steps in enumerate(elapsed[1:], start=1):
            whole = math.floor(steps + 1e-6)
            for _ in range(whole - done):
                flow.advance(step)
            done, rest = whole, steps - whole
            solution[rows, frame] = flow.after(rest * step) if rest > 1e-6 else flow.state()
    return solution


class _Flow:
    """A few trajectories on their way.

    Attributes:
        u: (N, X + 1, Y + 2) velocity along x on all faces, and zeros beyond the other two walls.
        v: (N, X + 2, Y + 1) the same along y.
        particles: (N, X + 2, Y + 2) in the cells, repeated beyond the walls.
    """

    def __init__(self, projection: Projection, initial: Array, viscosity: Array, force: Array | None) -> None:
        count, n, m, _ = initial.shape
        self.projection = projection
        self.spacing = projection.grid.spacing
        self.viscosity = viscosity[:, None, None]
        self.force = None if force is None else (to_faces(force[..., 0], 1), to_faces(force[..., 1], 2))
        self.u, self.v = np.zeros((count, n + 1, m + 2)), np.zeros((count, n + 2, m + 1))
        self.particles = np.empty((count, n + 2, m + 2))
        self._set(to_faces(initial[..., 0], 1), to_faces(initial[..., 1], 2), initial[..., 2])

    def state(self) -> Array:
        """(N, X, Y, 3) in the cells."""
        velocity = to_centres(self.u[:, 1:-1, 1:-1], self.v[:, 1:-1, 1:-1])
        return np.concatenate([velocity, self.particles[:, 1:-1, 1:-1, None]], axis=-1)

    def after(self, step: float) -> Array:
        """The state a `step` later, without going there."""
        here = tuple(array.copy() for array in (self.u, self.v, self.particles))
        self.advance(step)
        found = self.state()
        self.u, self.v, self.particles = here
        return found

    def advance(self, step: float) -> None:
        """Go on by one `step`."""
        u, v = self._carry_velocity(step)
        self._set(u, v, None)
        u, v = self._diffuse(self.u, step), self._diffuse(self.v, step)
        if self.force is not None:
            c = self.particles
            u += (0.5 * step) * self.force[0] * (c[:, 1:-2, 1:-1] + c[:, 2:-1, 1:-1])
            v += (0.5 * step) * self.force[1] * (c[:, 1:-1, 1:-2] + c[:, 1:-1, 2:-1])
        self._set(u, v, None)
        self._project()
        self._set(None, None, self._carry_particles(step))

    def _set(self, u: Array | None, v: Array | None, particles: Array | None) -> None:
        if u is not None:
            self.u[:, 1:-1, 1:-1] = u
        if v is not None:
            self.v[:, 1:-1, 1:-1] = v
        if particles is not None:
            c = self.particles
            c[:, 1:-1, 1:-1] = particles
            c[:, 0], c[:, -1] = c[:, 1], c[:, -2]
            c[:, :, 0], c[:, :, -1] = c[:, :, 1], c[:, :, -2]

    def _carry_velocity(self, step: float) -> tuple[Array, Array]:
        u, v = self.u, self.v
        x, y = (step / spacing for spacing in self.spacing)
        beside = v[:, :, :-1] + v[:, :, 1:]
        v_at_u = beside[:, 1:-2] + beside[:, 2:-1]
        beside = u[:, :-1] + u[:, 1:]
        u_at_v = beside[:, :, 1:-2] + beside[:, :, 2:-1]
        v_at_u *= 0.25 * y
        u_at_v *= 0.25 * x
        return upstream(u, x * u[:, 1:-1, 1:-1], v_at_u), upstream(v, u_at_v, y * v[:, 1:-1, 1:-1])

    def _carry_particles(self, step: float) -> Array:
        x, y = (0.5 * step / spacing for spacing in self.spacing)
        u = self.u[:, :-1, 1:-1] + self.u[:, 1:, 1:-1]
        v = self.v[:, 1:-1, :-1] + self.v[:, 1:-1, 1:]
        u *= x
        v *= y
        return upstream(self.particles, u, v)

    def _diffuse(self, field: Array, step: float) -> Array:
        """Inner points of `field`, one step of diffusion later."""
        number_x, number_y = (step * self.viscosity / spacing**2 for spacing in self.spacing)
        inner = field[:, 1:-1, 1:-1]
        result = field[:, :-2, 1:-1] + field[:, 2:, 1:-1]
        result *= number_x
        beside = field[:, 1:-1, :-2] + field[:, 1:-1, 2:]
        beside *= number_y
        result += beside
        result += (1.0 - 2.0 * (number_x + number_y)) * inner
        stiff = (number_x + number_y).ravel() > MAX_EXPLICIT
        if stiff.any():
            result[stiff] = _diffuse_implicitly(inner[stiff], number_x[stiff], number_y[stiff])
        return result

    def _project(self) -> None:
        u, v = self.u[:, :, 1:-1], self.v[:, 1:-1]
        dx, dy = self.spacing
        divergence = (u[:, 1:] - u[:, :-1]) * (1.0 / dx)
        divergence += (v[:, :, 1:] - v[:, :, :-1]) * (1.0 / dy)
        pressure = self.projection.pressure(divergence)
        u[:, 1:-1] -= (pressure[:, 1:] - pressure[:, :-1]) * (1.0 / dx)
        v[:, :, 1:-1] -= (pressure[:, :, 1:] - pressure[:, :, :-1]) * (1.0 / dy)


def _diffuse_implicitly(field: Array, number_x: Array, number_y: Array) -> Array:
    """Euler's implicit step from (N, X, Y), zero on the ring around; numbers (N, 1, 1)."""
    along_x, along_y = (sine_waves(n) for n in field.shape[1:])
    stiff_x, stiff_y = (4.0 * np.sin(0.5 * np.pi / (n + 1) * np.arange(1, n + 1)) ** 2 for n in field.shape[1:])
    amplitude = along_x @ field @ along_y
    amplitude /= 1.0 + number_x * stiff_x[:, None] + number_y * stiff_y
    result: Array = along_x @ amplitude @ along_y
    return result
