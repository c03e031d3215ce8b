"""A compressible gas in a box, one step at a time: its flow without viscosity, and its friction.

States are (2 + d, X..., N), quantities first and trajectories last: conserved ones are rho, rho v_1 ... rho v_d, E;
primitive ones rho, v_1 ... v_d, p. Cell averages and point values differ by O(dx^2) and count as the same. An axis is
periodic or its gradients are zero at both ends: the cells outside hold what the outermost ones inside do. It all works
in the precision of the state.

**Flow**: a second-order finite-volume scheme (MUSCL, HLLC).

    rho_t + div(rho v) = 0,    (rho v)_t + div(rho v v + p I) = 0,    E_t + div((E + p) v) = 0
    E = p / (GAMMA - 1) + rho |v|^2 / 2

Primitive quantities are reconstructed linearly with van Leer's limiter, so that both sides of a face stay between
their neighbours; HLLC fluxes with Davis' wave speeds, exact for contacts and shear layers; all axes at once. Time
advances by SSPRK(4, 2): four Euler stages of a third of the step, twice as efficient as Heun's method at the same
stability. A stage that would leave a cell without mass or pressure is done again with that cell and its neighbours
reconstructed as constants, where the fluxes provably keep both positive.

**Friction**, as PDEBench has it.

    (rho v_i)_t = sum_j d_j s_ij,    E_t = sum_ij d_j (v_i s_ij),    rho_t = 0
    s_ij = rho eta d_j v_i  (i != j),    s_ii = rho (zeta + 4/3 eta) d_i v_i

This is not Newton's stress: eta and zeta are multiplied by the density (they are kinematic), and the mixed
derivatives, d_i v_j and div v beside d_i v_i, are left out. In one dimension with constant density both agree.
Second-order central differences, fluxes on faces, so momentum and energy are conserved to rounding. Time advances by
the Runge-Kutta-Legendre method of second order: s stages reach (s^2 + s - 2) / 4 times as far as an explicit step and
damp what they do not resolve, without a linear solve, for any density and for trajectories of different viscosity.

Sources: Toro, Riemann Solvers and Numerical Methods for Fluid Dynamics (2009), 10.4; van Leer, J. Comput. Phys. 32
(1979) 101; Batten et al., SIAM J. Sci. Comput. 18 (1997) 1553 (positivity); Spiteri and Ruuth, SIAM J. Numer. Anal.
40 (2002) 469 (the time scheme of the flow); Meyer, Balsara and Aslam, J. Comput. Phys. 257 (2014) 594 (of friction).
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.grid import Array

GAMMA = 5.0 / 3.0
EULER_STAGES = 4
COURANT = 0.5
"""Largest sum over axes of (|v| + c) stage / dx: the limit of both the limiter and positivity."""
FACES = 8192
"""Faces treated together: larger blocks leave the cache, smaller ones pay for more calls."""
SCRATCH = 9


def primitive(conserved: Array) -> Array:
    """rho, v, p."""
    result = np.empty_like(conserved)
    density, momentum, velocity, pressure = conserved[0], conserved[1:-1], result[1:-1], result[-1]
    result[0] = density
    pressure[...] = 0.0
    for m, v in zip(momentum, velocity, strict=True):
        np.divide(m, density, out=v)
        pressure -= m * v
    pressure *= 0.5
    pressure += conserved[-1]
    pressure *= GAMMA - 1.0
    return result


def conserved(primitive: Array) -> Array:
    """rho, rho v, E."""
    result = np.empty_like(primitive)
    density, velocity = primitive[0], primitive[1:-1]
    result[0] = density
    result[1:-1] = density * velocity
    result[-1] = primitive[-1] / (GAMMA - 1.0) + 0.5 * (result[1:-1] * velocity).sum(axis=0)
    return result


def sound_speed(density: Array, pressure: Array, out: Array | None = None) -> Array:
    speed = np.divide(pressure, density, out=out)
    speed *= GAMMA
    return np.sqrt(speed, out=speed)


def largest_step(state: Array, spacing: tuple[float, ...]) -> Array:
    """The longest stable step (N,) of each trajectory, from conserved quantities."""
    w = primitive(state)
    sound = sound_speed(w[0], w[-1])
    rate = sum((np.abs(v) + sound) / dx for v, dx in zip(w[1:-1], spacing, strict=True))
    fastest = np.max(rate, axis=tuple(range(len(spacing))))
    longest: Array = (EULER_STAGES - 1) * COURANT / fastest
    return longest


def advance_flow(state: Array, step: Array, spacing: tuple[float, ...], wraps: tuple[bool, ...]) -> Array:
    """Conserved quantities one step (N,) later.

    Args:
        wraps: per axis, is the box periodic? Else gradients across its ends are zero.
    """
    # The sweeps see arrays in another shape, which is the same memory in this order only.
    state = np.ascontiguousarray(state)
    stage = step / (EULER_STAGES - 1)
    sweeps = [
        _Sweep(state.shape[1:], axis, wraps[axis], (stage / dx).astype(state.dtype)) for axis, dx in enumerate(spacing)
    ]
    result, w = state, primitive(state)
    for _ in range(EULER_STAGES):
        result, w = _euler_stage(result, w, sweeps)
    result *= EULER_STAGES - 1
    result += state
    result /= EULER_STAGES
    return result


def _euler_stage(state: Array, w: Array, sweeps: "Sequence[_Sweep]") -> tuple[Array, Array]:
    """Conserved and primitive quantities one Euler step later."""
    result = _change(w, sweeps)
    result += state
    later = primitive(result)
    if _positive(later):
        return result, later
    linear = np.ones(w.shape[1:], dtype=np.bool_)
    while not _positive(later) and linear.any():
        # A constant cell between constant neighbours has first-order fluxes on both sides.
        linear &= ~_grown(~((later[0] > 0.0) & (later[-1] > 0.0)))
        result = state + _change(w, sweeps, linear)
        later = primitive(result)
    return result, later


def _positive(w: Array) -> bool:
    return bool(w[0].min() > 0.0 and w[-1].min() > 0.0)


def _grown(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The cells and their neighbours along every axis."""
    grown = cells.copy()
    for axis in range(cells.ndim - 1):
        grown |= np.roll(cells, 1, axis) | np.roll(cells, -1, axis)
    return grown


def _change(w: Array, sweeps: "Sequence[_Sweep]", linear: NDArray[np.bool_] | None = None) -> Array:
    """Change of the conserved quantities in one stage; cells outside `linear` are reconstructed as constants."""
    change = np.empty(w.shape, w.dtype)
    for sweep in sweeps:
        sweep.add_change(change, w, linear)
    return change


class _Sweep:
    """Flux differences along one axis, in blocks of lines and in buffers that are kept: both save memory traffic.

    Arrays (X..., N) are seen as (before, n, after) with the swept axis in the middle.

    Args:
        ratio: (N,) stage / dx.
    """

    def __init__(self, shape: tuple[int, ...], axis: int, wraps: bool, ratio: Array) -> None:
        self.axis = axis
        self.wraps = wraps
        before, n, after = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
        self.shape = (before, n, after)
        self.ratio = np.tile(ratio, after // len(ratio))
        lines = max(1, FACES // n)
        rows, columns = max(1, lines // after), min(lines, after)
        self.blocks = [
            (slice(row, min(row + rows, before)), slice(column, min(column + columns, after)))
            for row in range(0, before, rows)
            for column in range(0, after, columns)
        ]
        self._buffers: dict[tuple[int, int], _Buffers] = {}

    def add_change(self, change: Array, w: Array, linear: NDArray[np.bool_] | None) -> None:
        """What flows into each cell in one stage, (2 + d, X..., N): set along the first axis, added along others."""
        count, (_, n, _) = len(w), self.shape
        totals, values = change.reshape(count, *self.shape), w.reshape(count, *self.shape)
        for rows, columns in self.blocks:
            size = (rows.stop - rows.start, columns.stop - columns.start)
            if size not in self._buffers:
                self._buffers[size] = _Buffers(count, size[0], n, size[1], self.wraps, w.dtype)
            buffers = self._buffers[size]
            mask = None if linear is None else linear.reshape(self.shape)[rows, :, columns]
            buffers.face_values(values[:, rows, :, columns], mask)
            flux, inflow = hllc(buffers.sides, 1 + self.axis, buffers.scratch), buffers.inflow
            np.subtract(flux[:, :, :-1], flux[:, :, 1:], out=inflow)
            total = totals[:, rows, :, columns]
            if self.axis == 0:
                np.multiply(inflow, self.ratio[columns], out=total)
            else:
                inflow *= self.ratio[columns]
                total += inflow


class _Buffers:
    """Arrays of one block: quantities x rows x n cells (or n + 1 faces) x columns."""

    def __init__(
        self, quantities: int, rows: int, n: int, columns: int, wraps: bool, dtype: "np.dtype[np.float64]"
    ) -> None:
        self.wraps = wraps
        self.padded, self.jump, self.half, self.total, self.inflow = (
            np.empty((quantities, rows, n + more, columns), dtype) for more in (4, 3, 2, 2, 0)
        )
        self.sides = np.empty((2, quantities, rows, n + 1, columns), dtype)
        self.scratch = np.empty((SCRATCH, rows, n + 1, columns), dtype)
        self.tiny = np.finfo(dtype).tiny

    def face_values(self, values: Array, linear: NDArray[np.bool_] | None) -> None:
        """Both `sides` of every face from the values in cells, by van Leer's limited slopes."""
        padded, jump, half, total = self.padded, self.jump, self.half, self.total
        padded[:, :, 2:-2] = values
        if self.wraps:
            padded[:, :, :2], padded[:, :, -2:] = values[:, :, -2:], values[:, :, :2]
        else:
            padded[:, :, :2], padded[:, :, -2:] = values[:, :, :1], values[:, :, -1:]
        np.subtract(padded[:, :, 1:], padded[:, :, :-1], out=jump)
        back, ahead = jump[:, :, :-1], jump[:, :, 1:]
        np.multiply(back, ahead, out=half)
        np.maximum(half, 0.0, out=half)
        np.add(back, ahead, out=total)
        total += self.tiny
        half /= total
        if linear is not None:
            half *= np.concatenate([linear[:, -1:], linear, linear[:, :1]], axis=1)
        np.add(padded[:, :, 1:-2], half[:, :, :-1], out=self.sides[0])
        np.subtract(padded[:, :, 2:-1], half[:, :, 1:], out=self.sides[1])


def hllc(sides: Array, normal: int, scratch: Array) -> Array:
    """Fluxes (2 + d, ...) of the conserved quantities between primitive states left and right, (2, 2 + d, ...).

    Args:
        normal: index of the velocity across the face.
        scratch: (`SCRATCH`, ...), to compute in.
    """
    sound, inflow = scratch[0:2], scratch[2:4]
    slowest, fastest, contact, pressure, spare = scratch[4:]
    (u_l, u_r), (p_l, p_r) = sides[:, normal], sides[:, -1]
    sound_speed(sides[:, 0], sides[:, -1], sound)
    np.subtract(sides[:, normal], sound, out=inflow)
    np.minimum(inflow[0], inflow[1], out=slowest)
    np.add(sides[:, normal], sound, out=inflow)
    np.maximum(inflow[0], inflow[1], out=fastest)
    np.subtract(u_l, slowest, out=inflow[0])
    np.subtract(fastest, u_r, out=inflow[1])
    inflow *= sides[:, 0]
    np.multiply(inflow[0], u_l, out=contact)
    contact += np.multiply(inflow[1], u_r, out=spare)
    contact += p_l
    contact -= p_r
    contact /= np.add(inflow[0], inflow[1], out=spare)
    np.subtract(u_l, contact, out=pressure)
    pressure *= inflow[0]
    pressure += p_l

    upwind = contact >= 0.0
    w: Array = np.where(upwind, sides[0], sides[1])
    wave = np.where(upwind, slowest, fastest)
    rho, u, p = w[0], w[normal], w[-1]
    own, energy, gap, ratio = *sound, *inflow
    np.multiply(w[1], w[1], out=own)
    for v in w[2:-1]:
        own += np.multiply(v, v, out=spare)
    own *= rho
    own *= 0.5
    own += np.divide(p, GAMMA - 1.0, out=spare)
    np.subtract(wave, contact, out=gap)
    np.divide(np.subtract(wave, u, out=ratio), gap, out=ratio)
    np.multiply(pressure, contact, out=energy)
    energy -= np.multiply(p, u, out=spare)
    energy /= gap
    energy += np.multiply(ratio, own, out=spare)

    # Where even the slowest wave leaves with the flow the face sees the upwind state itself.
    supersonic = upwind == (wave >= 0.0)
    if supersonic.any():
        ratio[supersonic] = 1.0
        for star, itself in ((contact, u), (pressure, p), (energy, own)):
            np.copyto(star, itself, where=supersonic)

    # From here on `w` holds fluxes.
    rho *= ratio
    rho *= contact
    w[1:-1] *= rho
    np.multiply(rho, contact, out=u)
    u += pressure
    np.add(energy, pressure, out=p)
    p *= contact
    return w


SAFETY = 0.9
LEAST_HEAT = 0.05
"""Of the heat that a cell had: friction's work at its faces takes no more."""


def friction_stages(
    step: Array, eta: Array, zeta: Array, spacing: tuple[float, ...], roughness: Array
) -> NDArray[np.int64]:
    """How many stages (N,) a step needs, always odd; 0 without viscosity.

    Large numbers are rounded up to few different ones, so that trajectories share them.

    Args:
        roughness: (N,) largest ratio of the density at a face to that in a cell beside it.
    """
    across = sum(eta / dx**2 for dx in spacing)
    fastest = across + (zeta + eta / 3.0) / min(spacing) ** 2
    explicit = 0.5 * SAFETY / np.maximum(fastest * roughness, np.finfo(float).tiny)
    needed = np.ceil(0.5 * (np.sqrt(9.0 + 16.0 * step / explicit) - 1.0)).astype(np.int64)
    coarse = np.where(needed > 33, 8, np.where(needed > 9, 4, 2))
    return np.where(fastest > 0.0, np.maximum(3, -(-(needed - 1) // coarse) * coarse + 1), 0)


def density_roughness(density: Array, wraps: tuple[bool, ...]) -> Array:
    """Largest (N,) ratio of the density at a face to that in a cell beside it; density is (X..., N)."""
    ratio = np.ones(density.shape[-1])
    for axis, periodic in enumerate(wraps):
        turned = np.moveaxis(density, axis, 0)
        here, beside = (turned, np.roll(turned, 1, axis=0)) if periodic else (turned[1:], turned[:-1])
        excess = (0.5 * (here + beside) / np.minimum(here, beside)).reshape(-1, len(ratio))
        ratio = np.maximum(ratio, excess.max(axis=0, initial=1.0))
    return ratio


def advance_friction(
    state: Array,
    step: Array,
    count: int,
    eta: Array,
    zeta: Array,
    spacing: tuple[float, ...],
    wraps: tuple[bool, ...],
) -> Array:
    """Conserved quantities one step (N,) later, in `count` stages; `wraps` as in `advance_flow`."""
    if count == 0:
        return state
    friction = _Friction(state[0], step, eta, zeta, spacing, wraps)
    weights = _stage_weights(count)
    start, rate = state[1:-1], np.empty_like(state[1:-1])
    friction.change(start, rate, weights[0])
    w = 4.0 / (count * count + count - 2.0)
    before, now = start.copy(), start + (w / 3.0) * rate
    after, scaled = np.empty_like(start), np.empty_like(start)
    for j in range(2, count + 1):
        mu, nu, fresh, first = _recurrence(j, w)
        friction.change(now, after, weights[j - 1])
        after *= fresh
        before *= nu
        after += before
        for weight, term in ((mu, now), (1.0 - mu - nu, start), (first, rate)):
            np.multiply(term, weight, out=scaled)
            after += scaled
        before, now, after = now, after, before
    return _warm(np.concatenate([state[:1], now, state[-1:] + friction.energy()]), state)


def _warm(after: Array, before: Array) -> Array:
    """With the heat of cells that would have lost almost all of it, or more, at the cost of the others'.

    Where fast gas meets slow one in a cell, the work at faces is more than the cell has: the scheme's error, not
    friction's. Energy stays conserved to rounding.
    """
    moving = 0.5 * (after[1:-1] ** 2).sum(axis=0) / after[0]
    heat, least = after[-1] - moving, LEAST_HEAT * (before[-1] - 0.5 * (before[1:-1] ** 2).sum(axis=0) / before[0])
    if (heat >= least).all():
        return after
    space = tuple(range(heat.ndim - 1))
    kept = np.maximum(heat, least)
    spare = kept - least
    share = (kept - heat).sum(axis=space) / np.maximum(spare.sum(axis=space), np.finfo(heat.dtype).tiny)
    after[-1] = moving + kept - np.minimum(share, 1.0) * spare
    return after


def _recurrence(j: int, w: float) -> tuple[float, float, float, float]:
    """Weights in stage j >= 2 of the last state, the one before, the last state's change and the first state's."""
    b = [1.0 / 3.0 if i < 3 else (i * i + i - 2.0) / (2.0 * i * (i + 1.0)) for i in (j - 2, j - 1, j)]
    mu = (2.0 * j - 1.0) / j * b[2] / b[1]
    return mu, -(j - 1.0) / j * b[2] / b[0], mu * w, (b[1] - 1.0) * mu * w


@cache
def _stage_weights(count: int) -> Array:
    """How much of the change at each stage's state (count,) is in the sum of all changes."""
    w = 4.0 / (count * count + count - 2.0)
    each = np.eye(count)
    before: Array = np.zeros(count)
    now: Array = (w / 3.0) * each[0]
    for j in range(2, count + 1):
        mu, nu, fresh, first = _recurrence(j, w)
        before, now = now, mu * now + nu * before + fresh * each[j - 1] + first * each[0]
    return now


class _Friction:
    """Change of momentum and energy by friction over one step, at frozen density.

    Friction does v_i s_ij of work at a face, with v_i the mean of both sides: in differences, the stress that v_i^2 / 2
    would have in v_i's place. Energy does not act on the momenta, so all stages' squares are gathered first.
    """

    def __init__(
        self,
        density: Array,
        step: Array,
        eta: Array,
        zeta: Array,
        spacing: tuple[float, ...],
        wraps: tuple[bool, ...],
    ) -> None:
        self.wraps = wraps
        self.reciprocal = 1.0 / density
        self.velocity, self.halves = np.zeros((2, len(spacing), *density.shape), density.dtype)
        self.stress = np.empty_like(density)
        self.along = []
        self.across = []
        for axis, dx in enumerate(spacing):
            face = (density + np.roll(density, -1, axis)) * (0.5 / dx**2)
            self.along.append(face * (step * (zeta + 4.0 / 3.0 * eta)).astype(density.dtype))
            self.across.append(face * (step * eta).astype(density.dtype))

    def change(self, momentum: Array, out: Array, weight: float) -> None:
        """Change (d, X..., N) of the momenta; `weight` is the share of this change in the whole step."""
        np.multiply(momentum, self.reciprocal, out=self.velocity)
        for i, v in enumerate(self.velocity):
            self._diffuse(v, i, out[i])
        np.multiply(self.velocity, self.velocity, out=self.velocity)
        self.velocity *= 0.5 * weight
        self.halves += self.velocity

    def energy(self) -> Array:
        """Change (X..., N) of the energy over all stages."""
        total = np.empty_like(self.halves)
        for i, half in enumerate(self.halves):
            self._diffuse(half, i, total[i])
        result: Array = total.sum(axis=0)
        return result

    def _diffuse(self, values: Array, component: int, out: Array) -> None:
        """The divergence of the stress that a velocity component of these `values` has."""
        for axis in range(len(self.along)):
            coefficient = self.along[axis] if axis == component else self.across[axis]
            stress = self.stress.swapaxes(0, axis)
            given, total = values.swapaxes(0, axis), out.swapaxes(0, axis)
            # At both ends of an axis that does not wrap there is no gradient.
            np.subtract(given[1:], given[:-1], out=stress[:-1])
            stress[-1] = given[0] - given[-1] if self.wraps[axis] else 0.0
            self.stress *= coefficient
            if axis == 0:
                np.subtract(stress[1:], stress[:-1], out=total[1:])
                np.subtract(stress[0], stress[-1], out=total[0])
            else:
                out += self.stress
                total[1:] -= stress[:-1]
                total[0] -= stress[-1]
