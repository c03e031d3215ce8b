"""Incompressible flow in a box with walls, carrying particles on which a force acts.

    v_t + v . grad v = -grad p + nu lap v + c f,  div v = 0,  c_t + v . grad c = 0

A step of `STEP`, on a staggered grid: velocity is carried by itself (semi-Lagrangian, linear), diffuses (Euler's
explicit step), is accelerated by c f and projected; then the particles are carried by the new velocity. All of it is of
first order in the step, and in space through the linear interpolation.

These are the numerics of PDEBench's generator (PhiFlow's standard operators), in its order: velocity beyond a wall is
zero half a cell outside for the component along it, particles there are as in the nearest cell. At 64^2 it reproduces
a PDEBench-style file to 0.013 % over its 100 frames. It is far from converged there: from the same state (random, as
sampled) it departs from the solution on 256^2 cells by 3 % within 0.05, and within 0.5 by 9 % in velocity and 20 % in
particles; on 128^2 cells by 1, 3 and 9 %.

Source: Stam, Stable Fluids (1999); Harlow and Welch, Phys. Fluids 8 (1965) 2182.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde.family import Array
from ups_server.pde.grid import Grid
from ups_server.pde.ring import Ring
from ups_server.pde.semi_lagrangian import upstream
from ups_server.pde.solution import Grouped, Rows, Solution, Stepped, in_groups, whole_steps
from ups_server.pde.staggered import PressureSolver, sine_waves, to_centres, to_faces

STEP = 0.001
"""The generator's step. Frames do not change the steps between them."""
MAX_EXPLICIT = 0.5
"""Largest nu dt (1 / dx^2 + 1 / dy^2) of an explicit step of diffusion; beyond, it is implicit."""
POINTS = 2**14
"""Cells advanced together, in whole trajectories: their intermediates fit a core's cache."""


def incompressible_solution(
    initial: Array, grid: Grid, viscosity: Array, force: Array | None = None, step: float = STEP
) -> Solution:
    """Vx, Vy and particles, from (N, X, Y, 3).

    Args:
        viscosity: (N,).
        force: (N, X, Y, 2), zero where None.

    Raises:
        UserError: ``invalid_grid`` for fewer than two cells along an axis.
    """
    if min(grid.n) < 2:
        raise UserError("invalid_grid", "flow between walls needs two cells along each axis", got=grid.n)
    pressure = PressureSolver(grid)
    groups = in_groups(np.arange(len(initial)), max(1, POINTS // math.prod(grid.n)))

    def begin(rows: Rows) -> Solution:
        return _Flow(pressure, grid, initial[rows], viscosity[rows], None if force is None else force[rows], step)

    return Grouped(initial, groups, begin)


class _Flow(Stepped):
    """A few trajectories on their way, in flat arrays of `Ring`, after whole steps.

    Attributes:
        u: velocity along x on the faces after cells 0 (the ring, so a wall) to X; zero on walls and beyond.
        v: the same along y.
        particles: in the cells, repeated beyond the walls.
    """

    def __init__(
        self,
        pressure: PressureSolver,
        grid: Grid,
        initial: Array,
        viscosity: Array,
        force: Array | None,
        step: float,
    ) -> None:
        super().__init__(initial)
        self.pressure = pressure
        self.step = step
        self.spacing = grid.spacing
        self.viscosity = viscosity
        self.ring = ring = Ring(len(initial), grid.n)
        self.u, self.v, self.particles, self.rate = (ring.zeros() for _ in range(4))
        self.inner_u, self.inner_v = ring.zeros(), ring.zeros()
        ring.box(self.inner_u)[:, 1:-2, 1:-1] = 1.0
        ring.box(self.inner_v)[:, 1:-1, 1:-2] = 1.0
        ring.box(self.rate)[:] = viscosity[:, None, None]
        ring.box(self.u)[:, 1:-2, 1:-1] = to_faces(initial[..., 0], 1)
        ring.box(self.v)[:, 1:-1, 1:-2] = to_faces(initial[..., 1], 2)
        ring.box(self.particles)[:, 1:-1, 1:-1] = initial[..., 2]
        self._repeat_particles()
        self.force: tuple[Array, Array] | None = None
        if force is not None:
            self.force = ring.zeros(), ring.zeros()
            ring.box(self.force[0])[:, 1:-2, 1:-1] = to_faces(force[..., 0], 1)
            ring.box(self.force[1])[:, 1:-1, 1:-2] = to_faces(force[..., 1], 2)

    def _carried(self) -> Sequence[Array]:
        return [self.ring.box(field) for field in (self.u, self.v, self.particles)]

    def _advance(self, elapsed: float) -> Array:
        done, _ = whole_steps(self.elapsed, self.step)
        whole, rest = whole_steps(elapsed, self.step)
        for _ in range(whole - done):
            self.go(self.step)
        return self.after(rest) if rest else self.state()

    def state(self) -> Array:
        """(N, X, Y, 3) in the cells."""
        u, v, c = (self.ring.box(field) for field in (self.u, self.v, self.particles))
        velocity = to_centres(u[:, 1:-2, 1:-1], v[:, 1:-1, 1:-2])
        return np.concatenate([velocity, c[:, 1:-1, 1:-1, None]], axis=-1)

    def after(self, step: float) -> Array:
        """The state a `step` later, without going there."""
        here = self.u.copy(), self.v.copy(), self.particles.copy()
        self.go(step)
        found = self.state()
        self.u, self.v, self.particles = here
        return found

    def go(self, step: float) -> None:
        """Go on by one `step`."""
        self._carry_velocity(step)
        self._diffuse(step)
        if self.force is not None:
            self._accelerate(step, *self.force)
        self._project()
        self._carry_particles(step)

    def _carry_velocity(self, step: float) -> None:
        near, u, v = self.ring.near, self.u, self.v
        x, y = (step / spacing for spacing in self.spacing)
        v_at_u = near(v) + near(v, 0, -1)
        v_at_u += near(v, 1)
        v_at_u += near(v, 1, -1)
        v_at_u *= 0.25 * y
        u_at_v = near(u) + near(u, -1)
        u_at_v += near(u, 0, 1)
        u_at_v += near(u, -1, 1)
        u_at_v *= 0.25 * x
        carried_u = upstream(self.ring, u, x * near(u), v_at_u)
        carried_v = upstream(self.ring, v, u_at_v, y * near(v))
        np.multiply(carried_u, near(self.inner_u), out=near(u))
        np.multiply(carried_v, near(self.inner_v), out=near(v))

    def _diffuse(self, step: float) -> None:
        near = self.ring.near
        rate_x, rate_y = (step / spacing**2 for spacing in self.spacing)
        stiff = np.flatnonzero(self.viscosity * (rate_x + rate_y) > MAX_EXPLICIT)
        implicit = [self._diffused_implicitly(field, stiff, step) for field in (self.u, self.v)]
        for field, inner in ((self.u, self.inner_u), (self.v, self.inner_v)):
            change = near(field, 1) + near(field, -1)
            change *= rate_x
            beside = near(field, 0, 1) + near(field, 0, -1)
            beside *= rate_y
            change += beside
            change -= np.multiply(near(field), 2.0 * (rate_x + rate_y), out=beside)
            change *= near(self.rate)
            change *= near(inner)
            near(field)[:] += change
        for field, solved in zip((self.u, self.v), implicit, strict=True):
            self.ring.box(field)[stiff] = solved

    def _diffused_implicitly(self, field: Array, rows: NDArray[np.intp], step: float) -> Array:
        """`rows` of `field` (R, X + 2, Y + 2) after Euler's implicit step."""
        result = self.ring.box(field)[rows]
        inner = result[:, 1:-2, 1:-1] if field is self.u else result[:, 1:-1, 1:-2]
        if rows.size:
            number = step * self.viscosity[rows, None, None]
            along_x, along_y = (sine_waves(n) for n in inner.shape[1:])
            stiff_x, stiff_y = (
                4.0 * np.sin(0.5 * np.pi / (n + 1) * np.arange(1, n + 1)) ** 2 / spacing**2
                for n, spacing in zip(inner.shape[1:], self.spacing, strict=True)
            )
            amplitude = along_x @ inner @ along_y
            amplitude /= 1.0 + number * (stiff_x[:, None] + stiff_y)
            inner[:] = along_x @ amplitude @ along_y
        return result

    def _accelerate(self, step: float, force_x: Array, force_y: Array) -> None:
        near, c = self.ring.near, self.particles
        for velocity, force, beyond in ((self.u, force_x, near(c, 1)), (self.v, force_y, near(c, 0, 1))):
            push = near(c) + beyond
            push *= 0.5 * step
            push *= near(force)
            near(velocity)[:] += push

    def _project(self) -> None:
        near, u, v = self.ring.near, self.u, self.v
        dx, dy = self.spacing
        divergence = self.ring.zeros()
        inside = near(divergence)
        np.subtract(near(u), near(u, -1), out=inside)
        inside *= 1.0 / dx
        beside = near(v) - near(v, 0, -1)
        beside *= 1.0 / dy
        inside += beside
        pressure = self.pressure.solve(self.ring.box(divergence)).ravel()
        for velocity, inner, beyond, spacing in (
            (u, self.inner_u, near(pressure, 1), dx),
            (v, self.inner_v, near(pressure, 0, 1), dy),
        ):
            slope = beyond - near(pressure)
            slope *= 1.0 / spacing
            slope *= near(inner)
            near(velocity)[:] -= slope

    def _carry_particles(self, step: float) -> None:
        near = self.ring.near
        x, y = (0.5 * step / spacing for spacing in self.spacing)
        u = near(self.u) + near(self.u, -1)
        v = near(self.v) + near(self.v, 0, -1)
        u *= x
        v *= y
        near(self.particles)[:] = upstream(self.ring, self.particles, u, v)
        self._repeat_particles()

    def _repeat_particles(self) -> None:
        c = self.ring.box(self.particles)
        c[:, 0], c[:, -1] = c[:, 1], c[:, -2]
        c[:, :, 0], c[:, :, -1] = c[:, :, 1], c[:, :, -2]
