"""Random fields on a torus: sums of waves, the same on every grid. Gaussian ones have independent normal amplitudes.

w(x) = sum over |k_x|, |k_y| <= K of a_k exp(2 pi i k . x),  a_k ~ N weight_k,  x in units of the period
"""

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.family import Array

Waves = NDArray[np.complex128]

LOWEST = 0.1
"""Smallest |scale k|^2 of a wave that takes part in a field of falling amplitudes."""


def draw_waves(rng: np.random.Generator, channels: int, weight: Array) -> Waves:
    """Amplitudes (channels, 2 K + 1, 2 K + 1) of real fields whose mean square over all channels is 1.

    Args:
        weight: (2 K + 1, 2 K + 1) of the wave numbers -K to K along x and y.
    """
    real, imaginary = rng.standard_normal((2, channels, *weight.shape))
    waves = (real + 1j * imaginary) * weight
    # The real part of the sum: k and -k together.
    waves = 0.5 * (waves + waves[:, ::-1, ::-1].conj())
    result: Waves = waves / np.sqrt((np.abs(waves) ** 2).sum(axis=(1, 2)).mean())
    return result


def sum_waves(waves: Waves, x: Array, y: Array) -> Array:
    """The fields (channels, X, Y) at the points (x, y), in units of the period."""
    along_x, along_y = (
        np.exp(2j * np.pi * np.outer(_modes(count), points))
        for count, points in zip(waves.shape[1:], (x, y), strict=True)
    )
    result: Array = np.ascontiguousarray((along_x.T @ waves @ along_y).real)
    return result


def falling(highest: int, scale: float, smoothness: float) -> Array:
    """Weights |scale k|^(-2 smoothness) up to K = `highest`, none for |scale k|^2 below `LOWEST`: zero mean."""
    square = scale**2 * _square(highest)
    result: Array = np.where(square > LOWEST, np.maximum(square, LOWEST) ** -smoothness, 0.0)
    return result


def bell(highest: int, length: float) -> Array:
    """Weights up to K = `highest` of the correlation exp(-r^2 / 2 length^2), `length` in units of the period."""
    result: Array = np.exp(-((np.pi * length) ** 2) * _square(highest))
    return result


def waves_off_the_axes(highest: int) -> Array:
    """Weights |k|^(-1/2) up to K = `highest`, none where k_x or k_y is 0."""
    modes = _modes(2 * highest + 1)
    square = _square(highest)
    result: Array = np.where(np.outer(modes, modes) != 0.0, np.maximum(square, 1.0) ** -0.25, 0.0)
    return result


def _modes(count: int) -> Array:
    return np.arange(count, dtype=np.float64) - count // 2


def _square(highest: int) -> Array:
    modes = _modes(2 * highest + 1)
    result: Array = modes[:, None] ** 2 + modes**2
    return result
