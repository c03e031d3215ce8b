"""Incompressible flow in a box with walls, carrying particles on which a force acts.

    v_t + v . grad v = -grad p + nu lap v + c f,  div v = 0,  c_t + v . grad c = 0

A step of `STEP`, on a staggered grid: velocity is advected by itself (semi-Lagrangian, linear), diffuses (Euler's
explicit step), is accelerated by c f and projected; then the new velocity advects the particles. All of it is of
first order in the step, and in space through the linear interpolation.

These are the numerics of PDEBench's generator (PhiFlow's standard operators), in its order: velocity beyond a wall is
zero half a cell outside for the component along it, particles there are as in the nearest cell. At 64^2 it reproduces
a PDEBench-style file to 0.013 % over its 100 frames. It is far from converged there: from the same state (random, as
sampled) it departs from the solution on 256^2 cells by 3 % within 0.05, and within 0.5 by 9 % in velocity and 20 % in
particles; on 128^2 cells by 1, 3 and 9 %.

**Staggered grid.** Velocity lives on the faces between cells. Along its own axis, of X cells, a component has X - 1
inner faces; on the two walls it is zero. The mean of the two faces of a cell is the value at its centre. Faces to
centres loses nothing: in sine waves sin(k pi x), k < X, it is the factor cos(k pi / 2X), so centres that come from
faces give them back to rounding, amplified by at most 2X / pi.

**Semi-Lagrangian advection.** The value at a point is that upstream, interpolated linearly between its neighbours. It
neither creates new extremes nor becomes unstable, whatever the step, and is exact where fields are linear. Over a step
of Courant number c = |v| dt / dx it diffuses like a viscosity |v| dx (1 - c) / 2 for c < 1.

Sources: Stam, Stable Fluids (1999); Harlow and Welch, Phys. Fluids 8 (1965) 2182; Staniforth and Cote, Mon. Weather
Rev. 119 (1991) 2206.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde.grid import Array, Grid
from ups_server.pde.solution import Grouped, Rows, Solution, Stepped, in_groups, whole_steps


def to_faces(centred: Array, axis: int) -> Array:
    """Values on the inner faces along `axis` whose means over each cell are nearest to `centred` (least squares)."""
    from scipy.fft import dst, idst

    n = centred.shape[axis]
    waves = np.moveaxis(dst(centred, 2, axis=axis), axis, -1)[..., :-1]
    waves /= np.cos(0.5 * np.pi * np.arange(1, n) / n)
    result: Array = np.moveaxis(idst(waves, 1, axis=-1), -1, axis)
    return result


def to_centres(u: Array, v: Array) -> Array:
    """Velocity (N, X, Y, 2) in the cells, from components on their inner faces (N, X - 1, Y) and (N, X, Y - 1)."""
    count, m, n = len(u), u.shape[2], v.shape[1]
    centred = np.zeros((count, n, m, 2))
    centred[:, :-1, :, 0] += u
    centred[:, 1:, :, 0] += u
    centred[:, :, :-1, 1] += v
    centred[:, :, 1:, 1] += v
    centred *= 0.5
    return centred


class PressureSolver:
    """Solves lap p = d on the cells between walls that let nothing through, for the five-point Laplacian.

    Directly, in cosine waves along each axis: the Laplacian is diagonal in them.
    """

    def __init__(self, grid: Grid) -> None:
        waves = [np.pad(cosine_waves(n), ((0, 0), (1, 1))) for n in grid.n]
        self._x, self._y = waves
        along_x, along_y = (
            -4.0 * np.sin(0.5 * np.pi / n * np.arange(n)) ** 2 / spacing**2
            for n, spacing in zip(grid.n, grid.spacing, strict=True)
        )
        eigenvalue = along_x[:, None] + along_y
        # p is known up to a constant; its mean is zero, and d has none between walls.
        eigenvalue[0, 0] = np.inf
        self._inverse = 1.0 / eigenvalue

    def solve(self, divergence: Array) -> Array:
        """p (N, X + 2, Y + 2) for d (N, X + 2, Y + 2), both with a ring of points that does not count."""
        amplitude = self._x @ divergence @ self._y.T
        amplitude *= self._inverse
        result: Array = self._x.T @ amplitude @ self._y
        return result


def cosine_waves(n: int) -> Array:
    """Rows: orthonormal cosine waves (n, n) at cell centres between walls, constant first."""
    mode, cell = np.arange(n), np.arange(n) + 0.5
    waves: Array = np.sqrt(2.0 / n) * np.cos(np.pi / n * mode[:, None] * cell)
    waves[0] = np.sqrt(1.0 / n)
    return waves


def sine_waves(n: int) -> Array:
    """Orthonormal sine waves (n, n), symmetric, of n points between two where they vanish."""
    point = np.arange(1, n + 1)
    result: Array = np.sqrt(2.0 / (n + 1)) * np.sin(np.pi / (n + 1) * np.outer(point, point))
    return result


class Ring:
    """Layout of `count` fields on X x Y cells with a ring of points around them: flat arrays, one after the other.

    A shift along an axis is then a slice, and every operation runs over contiguous memory: at 64^2, where operations
    cost little more than their call, that halves the time of a step. Points of the ring lie before and after others in
    memory that are no neighbours of theirs: whatever is computed there is meaningless, perhaps not a number, and must
    be set again.

    Attributes:
        shape: (N, X + 2, Y + 2).
        core: the points that have neighbours in memory: all cells, and points of the ring between them.
    """

    def __init__(self, count: int, n: tuple[int, ...]) -> None:
        self.shape = (count, n[0] + 2, n[1] + 2)
        self._row = n[1] + 2
        self.core = slice(self._row + 1, count * (n[0] + 2) * self._row - self._row - 1)

    def zeros(self) -> Array:
        return np.zeros(int(np.prod(self.shape)))

    def box(self, field: Array) -> Array:
        """The field as (N, X + 2, Y + 2), in the same memory."""
        return field.reshape(self.shape)

    def near(self, field: Array, i: int = 0, j: int = 0) -> Array:
        """What stands `i` points on along x and `j` along y from each point of the core; |i|, |j| <= 1."""
        shift = i * self._row + j
        return field[self.core.start + shift : self.core.stop + shift]


def upstream(ring: Ring, field: Array, x: Array, y: Array) -> Array:
    """What stands `x` and `y` cells upstream, at each point of the core; nothing lies beyond the ring.

    Args:
        field: flat, with values on the ring.
        x: over the core: the way that is walked back along x, in cells.
        y: the same along y.
    """
    if _within_one_cell(x) and _within_one_cell(y):
        return _neighbouring(ring, field, x, y)
    return _anywhere(ring, field, x, y)


def _within_one_cell(way: Array) -> bool:
    return bool(way.max() <= 1.0 and way.min() >= -1.0)


def _neighbouring(ring: Ring, field: Array, x: Array, y: Array) -> Array:
    """Where every way ends between a point and its neighbours: no table of positions."""
    rise = field[1:] - field[:-1]
    below, above = np.maximum(y, 0.0), np.minimum(y, 0.0)
    scratch = np.empty_like(x)
    lines = []
    for i in (-1, 0, 1):
        line = below * ring.near(rise, i, -1)
        line += np.multiply(above, ring.near(rise, i), out=scratch)
        lines.append(np.subtract(ring.near(field, i), line, out=line))
    before, here, after = lines
    before -= here
    before *= np.maximum(x, 0.0, out=scratch)
    after -= here
    after *= np.minimum(x, 0.0, out=scratch)
    here += before
    here -= after
    return here


def _anywhere(ring: Ring, field: Array, x: Array, y: Array) -> Array:
    from scipy.ndimage import map_coordinates

    n, m = ring.shape[1:]
    row, across, along = np.unravel_index(np.arange(field.size)[ring.core], ring.shape)
    place = [np.clip(across - x, 0.0, n - 1.0), np.clip(along - y, 0.0, m - 1.0)]
    nowhere = np.isnan(place[0]) | np.isnan(place[1])
    for axis in place:
        axis[nowhere] = 0.0
    found = np.empty_like(x)
    for index, values in enumerate(ring.box(field)):
        here = row == index
        found[here] = map_coordinates(values, [axis[here] for axis in place], order=1, mode="nearest", prefilter=False)
    found[nowhere] = np.nan
    return found


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
        # Where there is no face inside the box, and no cell.
        self.no_u, self.no_v, self.no_cell = (np.ones(ring.shape, dtype=np.bool_) for _ in range(3))
        self.no_u[:, 1:-2, 1:-1] = self.no_v[:, 1:-1, 1:-2] = self.no_cell[:, 1:-1, 1:-1] = False
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
        self._advect_velocity(step)
        self._diffuse(step)
        if self.force is not None:
            self._accelerate(step, *self.force)
        self._project()
        self._advect_particles(step)

    def _advect_velocity(self, step: float) -> None:
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
        advected_u = upstream(self.ring, u, x * near(u), v_at_u)
        advected_v = upstream(self.ring, v, u_at_v, y * near(v))
        near(u)[:] = self._inside(advected_u, self.no_u)
        near(v)[:] = self._inside(advected_v, self.no_v)

    def _diffuse(self, step: float) -> None:
        near = self.ring.near
        rate_x, rate_y = (step / spacing**2 for spacing in self.spacing)
        stiff = np.flatnonzero(self.viscosity * (rate_x + rate_y) > MAX_EXPLICIT)
        implicit = [self._diffused_implicitly(field, stiff, step) for field in (self.u, self.v)]
        for field, beyond in ((self.u, self.no_u), (self.v, self.no_v)):
            change = near(field, 1) + near(field, -1)
            change *= rate_x
            beside = near(field, 0, 1) + near(field, 0, -1)
            beside *= rate_y
            change += beside
            change -= np.multiply(near(field), 2.0 * (rate_x + rate_y), out=beside)
            change *= near(self.rate)
            near(field)[:] += self._inside(change, beyond)
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
        for velocity, force, after, beyond in (
            (self.u, force_x, near(c, 1), self.no_u),
            (self.v, force_y, near(c, 0, 1), self.no_v),
        ):
            push = near(c) + after
            push *= 0.5 * step
            push *= near(force)
            near(velocity)[:] += self._inside(push, beyond)

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
        self._inside(inside, self.no_cell)
        pressure = self.pressure.solve(self.ring.box(divergence)).ravel()
        for velocity, beyond, after, spacing in (
            (u, self.no_u, near(pressure, 1), dx),
            (v, self.no_v, near(pressure, 0, 1), dy),
        ):
            slope = after - near(pressure)
            slope *= 1.0 / spacing
            near(velocity)[:] -= self._inside(slope, beyond)

    def _inside(self, values: Array, beyond: NDArray[np.bool_]) -> Array:
        """Values over the core, in place zero `beyond` the box: what stands there need be no number."""
        np.copyto(values, 0.0, where=beyond.reshape(-1)[self.ring.core])
        return values

    def _advect_particles(self, step: float) -> None:
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
