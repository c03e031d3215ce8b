"""Gaussian random fields on the unit torus whose amplitudes fall as a power of the wave number.

    w(x) = sum over k of a_k exp(2 pi i k . x),  a_k ~ N |scale k|^(-2 smoothness) where |scale k|^2 > 0.1, else 0

Fields are sums of the same waves on every grid; |k_x| and |k_y| end at `MODES`, what 64 points resolve.
"""

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.family import Array

MODES = 31
LOWEST = 0.1
"""Smallest |scale k|^2 of a wave that takes part."""

Waves = NDArray[np.complex128]


def draw_waves(rng: np.random.Generator, channels: int, scale: float, smoothness: float) -> Waves:
    """Amplitudes (channels, K, K) of real fields with zero mean, whose mean square over all channels is 1."""
    side = 2 * MODES + 1
    mode = np.arange(-MODES, MODES + 1)
    square = scale**2 * (mode[:, None] ** 2 + mode**2)
    weight = np.where(square > LOWEST, np.maximum(square, LOWEST) ** -smoothness, 0.0)
    real, imaginary = rng.standard_normal((2, channels, side, side))
    waves = (real + 1j * imaginary) * weight
    # The real part of the sum: k and -k together.
    waves = 0.5 * (waves + waves[:, ::-1, ::-1].conj())
    result: Waves = waves / np.sqrt((np.abs(waves) ** 2).sum(axis=(1, 2)).mean())
    return result


def sum_waves(waves: Waves, x: Array, y: Array) -> Array:
    """The fields (channels, X, Y) at the points (x, y) of the torus."""
    mode = np.arange(-MODES, MODES + 1)
    along_x, along_y = (np.exp(2j * np.pi * np.outer(mode, points)) for points in (x, y))
    result: Array = np.ascontiguousarray((along_x.T @ waves @ along_y).real)
    return result
