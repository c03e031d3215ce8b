"""Viscous friction of a compressible gas, as PDEBench has it; axes are periodic or have zero gradients at their ends.

    (rho v_i)_t = sum_j d_j s_ij,    E_t = sum_ij d_j (v_i s_ij),    rho_t = 0
    s_ij = rho eta d_j v_i  (i != j),    s_ii = rho (zeta + 4/3 eta) d_i v_i

This is not Newton's stress: eta and zeta are multiplied by the density (they are kinematic), and the mixed
derivatives, d_i v_j and div v beside d_i v_i, are left out. In one dimension with constant density both agree.

States are (2 + d, X..., N) as in `euler`. Second-order central differences, fluxes on faces, so momentum and energy
are conserved to rounding. Time advances by the Runge-Kutta-Legendre method of second order: s stages reach
(s^2 + s - 2) / 4 times as far as an explicit step and damp what they do not resolve, without a linear solve, for any
density and for trajectories of different viscosity.

Source: Meyer, Balsara and Aslam, J. Comput. Phys. 257 (2014) 594.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.grid import Array

SAFETY = 0.9


def stages(step: Array, eta: Array, zeta: Array, spacing: tuple[float, ...], roughness: Array) -> NDArray[np.int64]:
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


def advance(
    state: Array,
    step: Array,
    count: int,
    eta: Array,
    zeta: Array,
    spacing: tuple[float, ...],
    wraps: tuple[bool, ...],
) -> Array:
    """Conserved quantities one step (N,) later, in `count` stages; `wraps` as in `euler.advance`."""
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
    return np.concatenate([state[:1], now, state[-1:] + friction.energy()])


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
