"""Scores of a prediction against a target, and power spectra; arrays (N, T, X..., C) in physical units.

`error_moments` reduces a pair of arrays to means over the points of the grid; every score is a function of these, so
that trajectories may arrive in batches (`concatenate`) and nothing larger than (N, T, C) is kept. All arithmetic is
float64. A diverged prediction gives non-finite scores, never an exception.

A relative score divides by a norm of the target. A norm below `FLOOR` times the root mean square of that field over
its whole trajectory counts as that floor; where the whole trajectory is zero the error is left absolute.

Wave numbers are counted in cycles per box and gathered by the integer part of their length. Along a periodic axis the
transform is Fourier's. For a spectrum, a field is first continued along a bounded axis by its mirror image, so that no
jump at the sides leaks into high wave numbers; half cycles then exist too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.grid import Array, BoundaryCondition, Floats

FLOOR = 1e-6
"""Smallest norm of a field at one step, relative to its trajectory, that an error is divided by: float32 files do not
resolve less."""

BANDS: dict[str, tuple[int, int | None]] = {"low": (0, 3), "mid": (4, 11), "high": (12, None)}
"""PDEBench's bands of the integer wave number, both ends included."""


@dataclass(frozen=True)
class ErrorMoments:
    """What the scores need of the error e = prediction - target, per trajectory, step and field.

    Attributes:
        squared_error: (N, T, C) mean over points of e².
        squared_target: (N, T, C) mean over points of target².
        variance_target: (N, T, C) variance of the target over points.
        mean_error: (N, T, C) mean over points of e.
        max_error: (N, T, C) max over points of |e|.
        boundary_squared_error: (N, T, C) mean of e² over the cells that touch the boundary of the box.
        band_squared_error: (N, T, C, 3) mean over the wave numbers of each of `BANDS` of the squared amplitude of e.
    """

    squared_error: Array
    squared_target: Array
    variance_target: Array
    mean_error: Array
    max_error: Array
    boundary_squared_error: Array
    band_squared_error: Array

    @property
    def finite(self) -> bool:
        """Is the prediction finite everywhere?"""
        return bool(np.isfinite(self.squared_error).all())


def error_moments(prediction: Floats, target: Floats) -> ErrorMoments:
    """Reduces a batch of predictions (N, T, X..., C) and targets of the same shape.

    Raises:
        ValueError: the shapes differ or have no spatial axis.
    """
    if prediction.shape != target.shape or target.ndim < 4:
        raise ValueError(f"shapes {prediction.shape} and {target.shape} are not both (N, T, X..., C)")
    space = tuple(range(2, target.ndim - 1))
    truth = target.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        error = prediction.astype(np.float64) - truth
        squared = error**2
        return ErrorMoments(
            squared_error=squared.mean(axis=space),
            squared_target=(truth**2).mean(axis=space),
            variance_target=truth.var(axis=space),
            mean_error=error.mean(axis=space),
            max_error=np.abs(error).max(axis=space),
            boundary_squared_error=squared[:, :, _boundary_cells(target.shape[2:-1])].mean(axis=2),
            band_squared_error=_band_energies(error, space),
        )


def concatenate(batches: Sequence[ErrorMoments]) -> ErrorMoments:
    """The moments of all trajectories of several batches, in order."""
    return ErrorMoments(
        **{
            entry.name: np.concatenate([getattr(batch, entry.name) for batch in batches])
            for entry in fields(ErrorMoments)
        }
    )


def rmse(moments: ErrorMoments) -> Array:
    """Root mean square error over points, (N, T, C)."""
    return np.sqrt(moments.squared_error)


def nrmse(moments: ErrorMoments) -> Array:
    """``||e|| / ||target||`` of each sample with all its fields lumped into one norm (as UPS scores), (N, T)."""
    scale = moments.squared_target.sum(axis=2)
    return _relative(moments.squared_error.sum(axis=2), scale, scale.mean(axis=1, keepdims=True))


def nrmse_per_field(moments: ErrorMoments) -> Array:
    """``||e|| / ||target||`` per sample, step and field (PDEBench's nRMSE before averaging), (N, T, C)."""
    return _relative(moments.squared_error, moments.squared_target, _trajectory_square(moments))


def nrmse_trajectory(moments: ErrorMoments) -> Array:
    """``sqrt(sum e² / sum target²)`` over all steps, points and fields of a trajectory, (N,)."""
    return _relative(moments.squared_error.mean(axis=1).sum(axis=1), moments.squared_target.mean(axis=1).sum(axis=1))


def nrmse_trajectory_per_field(moments: ErrorMoments) -> Array:
    """``sqrt(sum e² / sum target²)`` over all steps and points of a trajectory, per field, (N, C)."""
    return _relative(moments.squared_error.mean(axis=1), moments.squared_target.mean(axis=1))


def nrmse_step_trajectory(moments: ErrorMoments) -> Array:
    """The error of each step over the trajectory-wide norm, fields lumped, (N, T).

    Unlike `nrmse` it stays meaningful where the target decays.
    """
    scale = moments.squared_target.sum(axis=2).mean(axis=1, keepdims=True)
    return _relative(moments.squared_error.sum(axis=2), scale)


def nrmse_step_trajectory_per_field(moments: ErrorMoments) -> Array:
    """The error of each step over the trajectory-wide norm, per field, (N, T, C)."""
    return _relative(moments.squared_error, _trajectory_square(moments))


def vrmse(moments: ErrorMoments) -> Array:
    """Root of mean square error over the target's variance in space, (N, T, C): predicting the mean scores 1."""
    return _relative(moments.squared_error, moments.variance_target, _trajectory_square(moments))


def max_error(moments: ErrorMoments) -> Array:
    """Largest absolute error over points and trajectories, (T, C)."""
    largest: Array = moments.max_error.max(axis=0)
    return largest


def conservation_rmse(moments: ErrorMoments) -> Array:
    """PDEBench's cRMSE, (T, C): ``sqrt(mean over trajectories of (sum_x prediction - sum_x target)²) / points``."""
    with np.errstate(over="ignore"):
        return np.asarray(np.sqrt((moments.mean_error**2).mean(axis=0)))


def boundary_rmse(moments: ErrorMoments) -> Array:
    """PDEBench's bRMSE, (N, T, C): root mean square error over the cells on the boundary of the box."""
    return np.sqrt(moments.boundary_squared_error)


def fourier_rmse(moments: ErrorMoments) -> Array:
    """PDEBench's fRMSE, (N, T, C, 3): root mean square amplitude of the error over each of `BANDS`.

    The amplitude at wave number k is ``|F_k| / n`` in 1-D. In d dimensions it is the root of the sum of
    ``|F|² / points²`` over the modes whose ``|k|`` (in cycles per box) has integer part k, each conjugate pair counted
    once. NaN where the grid is too coarse to hold the band.
    """
    return np.sqrt(moments.band_squared_error)


def skill(moments: ErrorMoments, baseline: ErrorMoments) -> Array:
    """RMS error over all steps and points divided by the same of the baseline (persistence), (N, C).

    NaN only where the baseline is exact (a field that does not change): such a trajectory says nothing about skill.
    Infinite where the prediction is not finite.
    """
    ours, theirs = moments.squared_error.mean(axis=1), baseline.squared_error.mean(axis=1)
    moving = theirs > 0
    ratio = np.sqrt(np.where(np.isnan(ours), np.inf, ours) / np.where(moving, theirs, 1.0))
    return np.where(moving, ratio, np.nan)


def _trajectory_square(moments: ErrorMoments) -> Array:
    square: Array = moments.squared_target.mean(axis=1, keepdims=True)
    return square


def _relative(squared_error: Array, squared_norm: Array, squared_scale: Array | None = None) -> Array:
    """``sqrt(squared_error / squared_norm)`` with the norm guarded as the module says."""
    scale = squared_norm if squared_scale is None else squared_scale
    guarded = np.maximum(squared_norm, np.where(scale > 0, FLOOR**2 * scale, 1.0))
    return np.sqrt(squared_error / guarded)


def _boundary_cells(n: tuple[int, ...]) -> NDArray[np.bool_]:
    """True at every cell that touches a side of the box, (X...)."""
    inside = np.zeros(n, dtype=bool)
    inside[tuple(slice(1, -1) for _ in n)] = True
    return ~inside


def _band_energies(error: Array, space: tuple[int, ...]) -> Array:
    """Mean over the wave numbers of each band of the squared amplitude, (N, T, C, bands)."""
    n = tuple(error.shape[axis] for axis in space)
    shells, weights = _shells(n)
    energy = np.abs(np.fft.fftn(error, axes=space, norm="forward")) ** 2
    flat = np.moveaxis(energy, -1, 2).reshape(*error.shape[:2], error.shape[-1], -1)
    result = np.full((*flat.shape[:-1], len(BANDS)), np.nan)
    for index, (low, high) in enumerate(BANDS.values()):
        chosen = (shells >= low) & (shells <= (shells.max() if high is None else high))
        if chosen.any():
            result[..., index] = flat[..., chosen] @ weights[chosen] / np.unique(shells[chosen]).size
    return result


def _shells(n: tuple[int, ...]) -> tuple[NDArray[np.int64], Array]:
    """Integer part of |k| per mode, and the weight that counts each conjugate pair once; both (points,)."""
    waves = np.meshgrid(*(np.fft.fftfreq(points, 1 / points).round() for points in n), indexing="ij")
    radius = np.sqrt(np.sum([wave**2 for wave in waves], axis=0))
    own_conjugate = np.all([(2 * wave) % points == 0 for wave, points in zip(waves, n, strict=True)], axis=0)
    return np.floor(radius + 1e-9).astype(np.int64).ravel(), np.where(own_conjugate, 1.0, 0.5).ravel()


def power_spectrum(values: Floats, boundary: BoundaryCondition) -> Array:
    """Power (N, T, K, C) of values (N, T, X..., C) at wave numbers 0 to K - 1.

    The powers of a field add up to its mean square over the box (Parseval). A plane wave a sin(2 pi k x) has a^2 / 2
    at k; in a periodic box the power at 0 is the squared mean.
    """
    periodic = boundary.periodic
    extended = values.astype(np.float64)
    for axis, wraps in enumerate(periodic, start=2):
        if not wraps:
            extended = np.concatenate([extended, np.flip(extended, axis)], axis)
    space = tuple(range(2, values.ndim - 1))
    power = np.abs(np.fft.fftn(extended, axes=space, norm="forward")) ** 2
    shells = _spectral_shells([extended.shape[axis] for axis in space], periodic)
    flat = np.moveaxis(power, -1, 2).reshape(-1, shells.size)
    spectrum = np.array([np.bincount(shells, row, shells.max() + 1) for row in flat], dtype=np.float64)
    result: Array = np.moveaxis(spectrum.reshape(*values.shape[:2], values.shape[-1], -1), 2, -1)
    return result


def _spectral_shells(n: Sequence[int], periodic: Sequence[bool]) -> NDArray[np.int64]:
    """Integer part of |k| in cycles per box for each mode (points,); a mirrored axis has twice the box's length."""
    axes = [np.fft.fftfreq(points, (1.0 if wraps else 2.0) / points) for points, wraps in zip(n, periodic, strict=True)]
    radius = np.sqrt(sum(wave**2 for wave in np.meshgrid(*axes, indexing="ij")))
    shells: NDArray[np.int64] = np.floor(radius + 1e-9).astype(np.int64).ravel()
    return shells
