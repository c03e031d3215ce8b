"""Viscous friction of a compressible gas on a periodic box, as PDEBench has it.

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

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.family import Array

SAFETY = 0.9


def stages(step: Array, eta: Array, zeta: Array, spacing: tuple[float, ...], roughness: Array) -> NDArray[np.int64]:
    """How many stages (N,) a step needs, always odd; 0 without viscosity.

    Args:
        roughness: (N,) largest ratio of the density at a face to that in a cell beside it.
    """
    across = sum(eta / dx**2 for dx in spacing)
    fastest = across + (zeta + eta / 3.0) / min(spacing) ** 2
    explicit = 0.5 * SAFETY / np.maximum(fastest * roughness, np.finfo(float).tiny)
    needed = np.ceil(0.5 * (np.sqrt(9.0 + 16.0 * step / explicit) - 1.0)).astype(np.int64)
    return np.where(fastest > 0.0, np.maximum(3, needed | 1), 0)


def density_roughness(density: Array) -> Array:
    """Largest (N,) ratio of the density at a face to that in a cell beside it; density is (X..., N)."""
    ratio = np.ones(density.shape[-1])
    for axis in range(density.ndim - 1):
        other = np.roll(density, 1, axis)
        lower = np.minimum(density, other).reshape(-1, density.shape[-1])
        ratio = np.maximum(ratio, (0.5 * (density + other).reshape(lower.shape) / lower).max(axis=0))
    return ratio


def advance(state: Array, step: Array, count: int, eta: Array, zeta: Array, spacing: tuple[float, ...]) -> Array:
    """Conserved quantities one step (N,) later, in `count` stages."""
    if count == 0:
        return state
    density = state[0]
    friction = _Friction(density, step, eta, zeta, spacing)
    w = 4.0 / (count * count + count - 2.0)
    start = state[1:]
    rate = np.empty_like(start)
    friction.change(start, rate)
    before, now = start.copy(), start + (w / 3.0) * rate
    after, scaled = np.empty_like(start), np.empty_like(start)
    b = [1.0 / 3.0] * 3 + [(j * j + j - 2.0) / (2.0 * j * (j + 1.0)) for j in range(3, count + 1)]
    for j in range(2, count + 1):
        mu = (2.0 * j - 1.0) / j * b[j] / b[j - 1]
        nu = -(j - 1.0) / j * b[j] / b[j - 2]
        friction.change(now, after)
        after *= mu * w
        for weight, term in ((mu, now), (nu, before), (1.0 - mu - nu, start), ((b[j - 1] - 1.0) * mu * w, rate)):
            np.multiply(term, weight, out=scaled)
            after += scaled
        before, now, after = now, after, before
    return np.concatenate([density[None], now])


class _Friction:
    """Change of momentum and energy by friction over one step, at frozen density."""

    def __init__(self, density: Array, step: Array, eta: Array, zeta: Array, spacing: tuple[float, ...]) -> None:
        self.reciprocal = 1.0 / density
        self.velocity, self.stress, self.work = (np.empty_like(density) for _ in range(3))
        self.along = []
        self.across = []
        for axis, dx in enumerate(spacing):
            face = (density + np.roll(density, -1, axis)) * (0.5 / dx**2)
            self.along.append(face * (step * (zeta + 4.0 / 3.0 * eta)))
            self.across.append(face * (step * eta))

    def change(self, y: Array, out: Array) -> None:
        """Change (1 + d, X..., N) at momenta and energy y."""
        v, stress, work = self.velocity, self.stress, self.work
        out[...] = 0.0
        for i, momentum in enumerate(y[:-1]):
            np.multiply(momentum, self.reciprocal, out=v)
            for axis in range(len(self.along)):
                _follow(v, axis, work)
                np.subtract(work, v, out=stress)
                stress *= self.along[axis] if axis == i else self.across[axis]
                work += v
                work *= stress
                _add_divergence(out[i], stress, axis)
                _add_divergence(out[-1], work, axis)
        # `work` had the sum of the velocities on both sides of a face, not their mean.
        out[-1] *= 0.5


def _follow(values: Array, axis: int, out: Array) -> None:
    """The values of the next cell along an axis."""
    given, shifted = values.swapaxes(0, axis), out.swapaxes(0, axis)
    shifted[:-1], shifted[-1] = given[1:], given[0]


def _add_divergence(total: Array, flux: Array, axis: int) -> None:
    """Add the flux through each cell's far face and take off that through its near face."""
    total += flux
    turned, given = total.swapaxes(0, axis), flux.swapaxes(0, axis)
    turned[1:] -= given[:-1]
    turned[0] -= given[-1]
