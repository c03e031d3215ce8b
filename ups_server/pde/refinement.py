"""States on grids some whole number of times as fine, the given points among them."""

from collections.abc import Sequence

import numpy as np

from ups_server.pde.boundary import BoundaryCondition
from ups_server.pde.solution import Array


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
