"""States on other grids of the same box: some whole number of times as fine, any other, or every so many-th point.

`refined` keeps the given points and the sign of positive fields, as solvers need it; `resample` takes any two grids.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde.grid import Array, BoundaryCondition, Grid

SampledValues = NDArray[np.float32]


def refined(
    values: Array,
    factors: Sequence[int],
    first: Sequence[int],
    boundary: BoundaryCondition,
    positive: Sequence[bool],
) -> Array:
    """States (N, X..., C) at so many times as many points an axis, the given ones from the `first` on.

    Along periodic axes the trigonometric interpolant, drawn towards the linear one as far as the fields that are
    `positive` (C,) need it to stay so; elsewhere linear, constant beyond the outermost points.
    """
    if set(factors) == {1}:
        return values
    smooth = straight = values
    for axis, (factor, start, wraps) in enumerate(zip(factors, first, boundary.periodic, strict=True), start=1):
        if wraps:
            smooth = np.roll(trigonometric(smooth, axis, factor), start, axis)
            straight = np.roll(linear(straight, axis, factor), start, axis)
        else:
            smooth, straight = (_bounded(part, axis, factor, start) for part in (smooth, straight))
    fields = np.flatnonzero(np.asarray(positive) & (values > 0.0).all(axis=tuple(range(values.ndim - 1))))
    return as_positive(smooth, straight, fields.tolist())


def as_positive(smooth: Array, straight: Array, fields: Sequence[int]) -> Array:
    """States `smooth` (N, X..., C), drawn towards positive ones as far as these fields need it to be so."""
    if not fields:
        return smooth
    chosen = list(fields)
    # Half of the straight one is as low as the smooth one may go.
    floor = 0.5 * straight[..., chosen]
    share = floor / np.maximum(2.0 * floor - smooth[..., chosen], floor)
    result: Array = straight + share.min(axis=tuple(range(1, smooth.ndim)), keepdims=True) * (smooth - straight)
    return result


def trigonometric(values: Array, axis: int, factor: int) -> Array:
    """The interpolant of waves on a circle, the first point in its place."""
    n = values.shape[axis]
    spectrum = np.moveaxis(np.fft.rfft(values, axis=axis, norm="forward"), axis, 0)
    if n % 2 == 0:
        spectrum[-1] *= 0.5
    return np.fft.irfft(np.moveaxis(spectrum, 0, axis), n=factor * n, axis=axis, norm="forward")


def linear(values: Array, axis: int, factor: int) -> Array:
    """Straight lines on a circle, the first point in its place."""
    turned = np.moveaxis(values, axis, 0)
    share = (np.arange(factor) / factor).reshape(1, factor, *(1,) * (turned.ndim - 1))
    fine = turned[:, None] + share * (np.roll(turned, -1, axis=0) - turned)[:, None]
    return np.moveaxis(fine.reshape(-1, *turned.shape[1:]), 0, axis)


def _bounded(values: Array, axis: int, factor: int, first: int) -> Array:
    """Straight lines, constant beyond the outermost points."""
    fine = np.moveaxis(np.roll(linear(values, axis, factor), first, axis), axis, 0)
    given, last = np.moveaxis(values, axis, 0), first + factor * (values.shape[axis] - 1)
    fine[:first], fine[last:] = given[0], given[-1]
    return np.moveaxis(fine, 0, axis)


def resample(values: SampledValues, source: Grid, target: Grid, boundary: BoundaryCondition) -> SampledValues:
    """Values (B, X..., C) on `source` at the points of `target`, another grid of the same box.

    Along each axis a cubic spline, periodic where the axis is; elsewhere points beyond the outermost of the source
    (less than one of its cells) take the value of its edge. An axis that the grids share is left as it is.
    """
    if source.extent != target.extent:
        raise UserError("invalid_grid", "two grids of one box are needed", got=target.extent, expected=source.extent)
    for axis, wraps in enumerate(boundary.periodic):
        given, wanted = source.axes[axis], target.axes[axis]
        if len(given) != len(wanted) or not np.allclose(given, wanted, atol=1e-9 * source.length[axis]):
            values = _spline(values, given, wanted, source.extent[axis], axis + 1, wraps)
    return values


def coarser(grid: Grid, points: Sequence[int]) -> tuple[Grid, tuple[int, ...]]:
    """The grid of every so many-th point that leaves `points` an axis, and the strides.

    Raises:
        UserError: ``resolution_mismatch`` where the strides are no integers.
    """
    if len(points) != grid.ndim or any(n % p for n, p in zip(grid.n, points, strict=True)):
        raise UserError(
            "resolution_mismatch", "lower resolutions are integer-stride subsamples", got=tuple(points),
            expected=f"divisors of {grid.n}",
        )  # fmt: skip
    strides = tuple(n // p for n, p in zip(grid.n, points, strict=True))
    offset = tuple(o / stride for o, stride in zip(grid.offset, strides, strict=True))
    return Grid(tuple(points), grid.extent, offset), strides


def subsampled(frames: SampledValues, strides: Sequence[int]) -> SampledValues:
    """(..., X..., C), every so many-th point of each axis."""
    index: tuple[Any, ...] = (..., *(slice(None, None, stride) for stride in strides), slice(None))
    chosen: SampledValues = frames[index]
    return chosen


def _spline(
    values: SampledValues,
    given: NDArray[np.float64],
    wanted: NDArray[np.float64],
    extent: tuple[float, float],
    axis: int,
    wraps: bool,
) -> SampledValues:
    from scipy.interpolate import CubicSpline

    low, high = extent
    rows = np.asarray(values, dtype=np.float64)
    if wraps:
        knots = np.append(given, given[0] + high - low)
        closed = np.concatenate([rows, rows.take([0], axis)], axis=axis)
        spline = CubicSpline(knots, closed, axis=axis, bc_type="periodic")
        at = knots[0] + np.mod(wanted - knots[0], high - low)
    else:
        spline = CubicSpline(given, rows, axis=axis, bc_type="not-a-knot")
        at = wanted.clip(given[0], given[-1])
    result: SampledValues = spline(at).astype(np.float32)
    return result
