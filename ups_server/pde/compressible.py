"""Reference solutions of the compressible Navier-Stokes equations in a box, in one to three dimensions.

Axes are periodic, or waves leave through both of their ends: gradients across them are zero (PDEBench's `trans`).

Strang splitting of the flow (MUSCL, HLLC) and its friction (Runge-Kutta-Legendre), both in `gas`. Sound alone
limits the steps, one for each trajectory, renewed every few: large viscosities cost the square root of what an
explicit scheme would pay. Second order in space and time; mass, momentum and energy are conserved to rounding,
density and pressure stay positive.

A grid with fewer than `points` cells along an axis is taken as a subsample: the state is refined, advanced there and
read back. Along periodic axes it is refined by Fourier interpolation, drawn towards linear interpolation as far as
positive density and pressure need it; along others by monotone cubics, on cells that end where the box does and among
whose centres the given points are (cell centres and what integer strides leave of them; others to half a fine cell).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ups_server.errors import UserError
from ups_server.pde.gas import (
    advance_flow,
    advance_friction,
    conserved,
    density_roughness,
    friction_stages,
    largest_step,
    primitive,
)
from ups_server.pde.grid import Array, BoundaryCondition, Grid
from ups_server.pde.resampling import as_positive, linear, trigonometric
from ups_server.pde.solution import Grouped, Solution, Stepped, in_groups

CELLS = 32768
"""Cells advanced together: enough for the calls to cost little, few enough for a core's cache."""
MOST_STEPS = 10**6
"""From one look at the states to the next: a frame of a usual state takes some hundred."""
RENEWAL = 8
"""Steps between two measurements of the speed of sound."""

RowChoice = slice | NDArray[np.intp]


def compressible_solution(
    initial: Array,
    grid: Grid,
    boundary: BoundaryCondition,
    eta: Array,
    zeta: Array,
    points: int,
    single: bool = False,
) -> Solution:
    """Velocities, density and pressure, from states (N, X..., d + 2).

    Args:
        boundary: axes that are not periodic have zero gradients at both ends.
        eta: (N,) shear viscosity over density.
        zeta: (N,) bulk viscosity over density.
        points: least number of cells along an axis to compute with.
        single: compute in single precision.

    Raises:
        UserError: ``state_not_positive`` where density or pressure is not; ``state_too_large``, from
            `Solution.advance`, where its sound is too fast.
    """
    ndim = grid.ndim
    if not (initial[..., ndim:] > 0.0).all():
        raise UserError(
            "state_not_positive",
            "density and pressure must be positive everywhere",
            got=float(initial[..., ndim:].min()),
            hint="check the order of the fields: velocities, density, pressure",
        )
    axes = tuple(
        _Axis.of(grid, axis, wraps, max(1, -(-points // n)))
        for axis, (n, wraps) in enumerate(zip(grid.n, boundary.periodic, strict=True))
    )
    cells = math.prod(axis.n * axis.factor for axis in axes)
    groups = in_groups(np.argsort(_loudest(initial, ndim), kind="stable"), max(1, CELLS // cells))
    return Grouped(initial, groups, lambda rows: _Gas(initial[rows], axes, eta[rows], zeta[rows], single))


@dataclass(frozen=True)
class _Axis:
    """One axis of `n` given points, each of them every `factor`-th of the cells from cell `first` on."""

    n: int
    length: float
    offset: float
    wraps: bool
    factor: int
    first: int

    @classmethod
    def of(cls, grid: Grid, axis: int, wraps: bool, factor: int) -> "_Axis":
        """An axis of `factor` times as many cells, or of a few more where the given points then are their centres."""
        offset = grid.offset[axis]
        if not wraps and factor > 1:
            factor = min(
                range(factor, factor + 8), key=lambda f: round(abs(offset * f - 0.5 - round(offset * f - 0.5)), 9)
            )
        first = 0 if wraps else min(max(round(offset * factor - 0.5), 0), factor - 1)
        return cls(grid.n[axis], grid.length[axis], offset, wraps, factor, first)

    @property
    def spacing(self) -> float:
        return self.length / (self.n * self.factor)

    @property
    def given(self) -> slice:
        return slice(self.first, None, self.factor)


class _Gas(Stepped):
    """A few trajectories on the cells of these axes."""

    def __init__(self, initial: Array, axes: tuple[_Axis, ...], eta: Array, zeta: Array, single: bool) -> None:
        super().__init__(initial)
        self._spacing = tuple(axis.spacing for axis in axes)
        self._wraps = tuple(axis.wraps for axis in axes)
        self._given = tuple(axis.given for axis in axes)
        self._eta, self._zeta = eta, zeta
        precision: DTypeLike = np.float32 if single else np.float64
        self._state: Array = conserved(_to_primitive(_refine(initial, axes))).astype(precision)

    def _carried(self) -> Sequence[Array]:
        return (np.moveaxis(self._state, -1, 0),)

    def _advance(self, elapsed: float) -> Array:
        """Goes on with the steps that sound allows each trajectory."""
        state, remaining = self._state, np.full(len(self.initial), elapsed - self.elapsed)
        while (remaining > 0.0).any():
            count = np.ceil(remaining / largest_step(state, self._spacing) * (1.0 - 1e-12))
            if (count > MOST_STEPS).any():
                raise UserError(
                    "state_too_large",
                    "sound or flow is too fast for the reference solver",
                    got=f"{np.nanmax(count):.3g} steps",
                    expected=f"at most {MOST_STEPS}",
                    hint="lower pressure and velocity, or raise the density",
                )
            step = remaining / np.maximum(count, 1.0)
            number = np.minimum(count, RENEWAL)
            roughness = density_roughness(state[0], self._wraps)
            stages = friction_stages(step, self._eta, self._zeta, self._spacing, roughness)
            remaining = np.where(count > RENEWAL, step * (count - RENEWAL), 0.0)
            # Trajectories that do the same number of steps go together: none depends on its company.
            for steps in np.unique(number[number > 0.0]):
                rows = _rows(number == steps)
                state[..., rows] = self._strang(state[..., rows], step[rows], int(steps), stages[rows], rows)
        return _from_primitive(primitive(state)[(slice(None), *self._given)]).astype(np.float64)

    def _strang(self, state: Array, step: Array, count: int, stages: NDArray[np.int64], rows: RowChoice) -> Array:
        """`count` steps of some rows, friction at both ends and between them."""
        eta, zeta = self._eta[rows], self._zeta[rows]

        def rub(state: Array, step: Array) -> Array:
            for inner in np.unique(stages[stages > 0]):
                some = _rows(stages == inner)
                state[..., some] = advance_friction(
                    state[..., some], step[some], int(inner), eta[some], zeta[some], self._spacing, self._wraps
                )
            return state

        state = rub(state, 0.5 * step)
        for remaining in range(count, 0, -1):
            state = advance_flow(state, step, self._spacing, self._wraps)
            state = rub(state, step if remaining > 1 else 0.5 * step)
        return state


def _rows(chosen: NDArray[np.bool_]) -> RowChoice:
    """Where `chosen` is true; a slice where it is everywhere, which copies nothing."""
    return slice(None) if chosen.all() else np.flatnonzero(chosen)


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


def _refine(fields: Array, axes: tuple[_Axis, ...]) -> Array:
    """Fields (N, X..., C) in the cells of these axes."""
    if all(axis.factor == 1 for axis in axes):
        return fields
    smooth = straight = fields
    for index, axis in enumerate(axes, start=1):
        if axis.wraps:
            smooth, straight = trigonometric(smooth, index, axis.factor), linear(straight, index, axis.factor)
        elif axis.factor > 1:
            smooth, straight = _monotone(smooth, index, axis), _monotone(straight, index, axis)
    return as_positive(smooth, straight, range(fields.shape[-1] - 2, fields.shape[-1]))


def _monotone(values: Array, index: int, axis: _Axis) -> Array:
    """Monotone cubics through the given points, constant beyond the outermost ones."""
    from scipy.interpolate import PchipInterpolator

    points = np.arange(-1.0, axis.n + 1.0)
    points[0], points[-1] = -0.5, axis.n - 0.5
    cells = (np.arange(axis.n * axis.factor) - axis.first) / axis.factor
    ends = values.take([0], index), values.take([-1], index)
    known = np.concatenate([ends[0], values, ends[1]], axis=index)
    result: Array = PchipInterpolator(points, known, axis=index)(np.clip(cells, points[0], points[-1]))
    return result
