"""Reference solutions of the compressible Navier-Stokes equations on a periodic box, in one to three dimensions.

Strang splitting of the gas (`euler`: MUSCL, HLLC) and its friction (`viscous`: Runge-Kutta-Legendre). Sound alone
limits the steps, one for each trajectory, renewed every few: large viscosities cost the square root of what an
explicit scheme would pay. Second order in space and time; mass, momentum and energy are conserved to rounding,
density and pressure stay positive.

A grid with fewer than `points` cells along an axis is taken as a subsample: the state is refined by Fourier
interpolation, drawn towards linear interpolation as far as positive density and pressure need it, advanced there and
read back.
"""

import math
from collections.abc import Sequence

import numpy as np

from ups_server.errors import UserError
from ups_server.pde import euler, viscous
from ups_server.pde.family import Array
from ups_server.pde.grid import Grid
from ups_server.pde.solution import Grouped, Solution, Stepped, in_groups

CELLS = 16384
"""Cells advanced together: their arrays stay in a core's cache."""
RENEWAL = 8
"""Steps between two measurements of the speed of sound."""


def compressible_solution(initial: Array, grid: Grid, eta: Array, zeta: Array, points: int) -> Solution:
    """Velocities, density and pressure, from states (N, X..., d + 2).

    Args:
        eta: (N,) shear viscosity over density.
        zeta: (N,) bulk viscosity over density.
        points: least number of cells along an axis to compute with.

    Raises:
        UserError: ``state_not_positive`` where density or pressure is not.
    """
    ndim = grid.ndim
    if not (initial[..., ndim:] > 0.0).all():
        raise UserError(
            "state_not_positive",
            "density and pressure must be positive everywhere",
            got=float(initial[..., ndim:].min()),
            hint="check the order of the fields: velocities, density, pressure",
        )
    refinement = tuple(max(1, -(-points // n)) for n in grid.n)
    cells = math.prod(grid.n) * math.prod(refinement)
    groups = in_groups(np.argsort(_loudest(initial, ndim), kind="stable"), max(1, CELLS // cells))
    return Grouped(initial, groups, lambda rows: _Gas(initial[rows], grid, refinement, eta[rows], zeta[rows]))


class _Gas(Stepped):
    """A few trajectories on `refinement` times as many cells along each axis."""

    def __init__(self, initial: Array, grid: Grid, refinement: tuple[int, ...], eta: Array, zeta: Array) -> None:
        super().__init__(initial)
        self._spacing = tuple(dx / factor for dx, factor in zip(grid.spacing, refinement, strict=True))
        self._every = tuple(slice(None, None, factor) for factor in refinement)
        self._eta, self._zeta = eta, zeta
        self._state = euler.conserved(_to_primitive(_refine(initial, refinement)))

    def _carried(self) -> Sequence[Array]:
        return (np.moveaxis(self._state, -1, 0),)

    def _advance(self, elapsed: float) -> Array:
        remaining = np.full(len(self.initial), elapsed - self.elapsed)
        self._state = _advance(self._state, remaining, self._spacing, self._eta, self._zeta)
        return _from_primitive(euler.primitive(self._state)[(slice(None), *self._every)])


def _advance(state: Array, remaining: Array, spacing: tuple[float, ...], eta: Array, zeta: Array) -> Array:
    """State (2 + d, X..., N) after the remaining times (N,)."""
    while (remaining > 0.0).any():
        count = np.ceil(remaining / euler.largest_step(state, spacing) * (1.0 - 1e-12))
        step = remaining / np.maximum(count, 1.0)
        number = np.minimum(count, RENEWAL)
        stages = viscous.stages(step, eta, zeta, spacing, viscous.density_roughness(state[0]))
        remaining = np.where(count > RENEWAL, step * (count - RENEWAL), 0.0)
        # Trajectories that do the same number of the same steps go together: none depends on its company.
        for steps, inner in sorted(set(zip(number.astype(int).tolist(), stages.tolist(), strict=True))):
            if steps == 0:
                continue
            chosen = (number == steps) & (stages == inner)
            rows = slice(None) if chosen.all() else np.flatnonzero(chosen)
            state[..., rows] = _strang(state[..., rows], step[rows], steps, inner, spacing, eta[rows], zeta[rows])
    return state


def _strang(
    state: Array, step: Array, count: int, stages: int, spacing: tuple[float, ...], eta: Array, zeta: Array
) -> Array:
    """`count` steps (N,), friction at both ends and between them."""
    state = viscous.advance(state, 0.5 * step, stages, eta, zeta, spacing)
    for remaining in range(count, 0, -1):
        state = euler.advance(state, step, spacing)
        state = viscous.advance(state, step if remaining > 1 else 0.5 * step, stages, eta, zeta, spacing)
    return state


def _loudest(fields: Array, ndim: int) -> Array:
    """Largest square of the speed of sound (N,), up to a constant."""
    temperature = fields[..., -1] / fields[..., ndim]
    result: Array = temperature.max(axis=tuple(range(1, ndim + 1)))
    return result


def _to_primitive(fields: Array) -> Array:
    """(N, X..., velocities density pressure) to (density velocities pressure, X..., N)."""
    turned = np.moveaxis(fields, (0, -1), (-1, 0))
    # Each quantity contiguous: the arrays of the solver inherit this order.
    return np.ascontiguousarray(turned[[-2, *range(len(turned) - 2), -1]])


def _from_primitive(w: Array) -> Array:
    fields = np.concatenate([w[1:-1], w[:1], w[-1:]])
    return np.moveaxis(fields, (0, -1), (-1, 0))


def _refine(fields: Array, refinement: tuple[int, ...]) -> Array:
    """Fields (N, X..., C) at `refinement` times as many points, the given ones among them."""
    if set(refinement) == {1}:
        return fields
    smooth = straight = fields
    for axis, factor in enumerate(refinement, start=1):
        smooth, straight = _fourier(smooth, axis, factor), _linear(straight, axis, factor)
    positive, floor = smooth[..., -2:], straight[..., -2:]
    axes = tuple(range(1, fields.ndim - 1))
    # Half of the linear interpolant is as low as the smooth one may go.
    share = (0.5 * floor / np.maximum(floor - positive, 0.5 * floor)).min(axis=(*axes, -1), keepdims=True)
    result: Array = straight + share * (smooth - straight)
    return result


def _fourier(values: Array, axis: int, factor: int) -> Array:
    n = values.shape[axis]
    spectrum = np.moveaxis(np.fft.rfft(values, axis=axis, norm="forward"), axis, 0)
    if n % 2 == 0:
        spectrum[-1] *= 0.5
    return np.fft.irfft(np.moveaxis(spectrum, 0, axis), n=factor * n, axis=axis, norm="forward")


def _linear(values: Array, axis: int, factor: int) -> Array:
    turned = np.moveaxis(values, axis, 0)
    share = (np.arange(factor) / factor).reshape(1, factor, *(1,) * (turned.ndim - 1))
    fine = turned[:, None] + share * (np.roll(turned, -1, axis=0) - turned)[:, None]
    return np.moveaxis(fine.reshape(-1, *turned.shape[1:]), 0, axis)
