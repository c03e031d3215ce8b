"""Random functions that are the same on every grid: fields on a torus, and PDEBench's sums of sines on a line.

**Fields on a torus** are sums of waves; Gaussian ones have independent normal amplitudes.

    w(x) = sum over |k_x|, |k_y| <= K of a_k exp(2 pi i k . x),  a_k ~ N weight_k,  x in units of the period

**Sums of sines** (`MultiSine`) are PDEBench's initial states of one dimension, now and then rectified or windowed.

    u(x) = sum_{n=1..K} A_n sin(2 pi c_n n (x - x_0) / P + phi_n),   A_n ~ U(0, 1), phi_n ~ U(0, 2 pi)

K is 4, for compressible flow 3. Two of the numbers 1..K are drawn independently, and c_n counts how often n was: a
number drawn once adds the wave n, one drawn twice the wave 2 n, and one never drawn the constant A_n sin(phi_n). The
phase runs from the first to the last cell centre of PDEBench's grid, P = x_{1023} - x_0, so a state is off periodic
by a thousandth of its slope.

With probability 0.1 the state becomes |u| or -|u|, either equally likely. With probability p, 0.1 and for
compressible flow 0.5, it is cut out by a window 0.45 wide with tanh edges of width 0.01. One random number decides
whether and where: with r ~ U(0, 1) there is a window where r < p, and it begins at 0.1 + 0.35 r.
Reaction-diffusion maps each state onto [0, 1], and so do density and pressure of compressible flow.

Source: Takamoto et al., PDEBench (2022), appendix D, with what its generators do beyond it. Checked on the first frames
of its files, to 1e-6 of their range: period, waves, constants, rectification, windows and the map onto [0, 1].
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.grid import Array, Grid

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


BASE_POINTS = 1024
"""Cells of PDEBench's grid: it fixes the period and the extremes of a state, whatever grid the state is sampled on."""

N_DRAWN = 2
P_RECTIFIED = 0.1
EDGE_WIDTH = 0.01
FIRST_EDGE, EDGE_SPAN = 0.1, 0.35
"""A window begins at `FIRST_EDGE` plus `EDGE_SPAN` times the number that decided for it."""
WINDOW = 0.45


@dataclass(frozen=True)
class MultiSine:
    """What distinguishes the sums of one family from another's.

    Attributes:
        numbers: K, how many terms there are and which numbers are drawn from.
        windowed: probability p of a window.
        window_extent: where the window, which has its own units, has the ends of the box.
    """

    numbers: int = 4
    windowed: float = 0.1
    window_extent: tuple[float, float] = (0.0, 1.0)

    def sample(self, rng: np.random.Generator, count: int, grid: Grid, *, unit_range: bool = False) -> Array:
        """`count` functions (N, X) at the points of a 1-D grid.

        One row of random numbers makes one function: the same generator gives the same functions on every grid, and
        the first rows of a larger `count` are the functions of a smaller one.

        Args:
            unit_range: map each function onto [0, 1], by its extremes on PDEBench's grid.
        """
        draws = rng.random((count, N_DRAWN + 2 * self.numbers + 3))
        values = self._evaluate(draws, grid.positions[0])
        if unit_range:
            base = self._evaluate(draws, (np.arange(BASE_POINTS) + 0.5) / BASE_POINTS)
            low, high = base.min(axis=1, keepdims=True), base.max(axis=1, keepdims=True)
            values = (values - low) / (high - low)
        return values

    def _evaluate(self, draws: Array, position: Array) -> Array:
        """Functions (N, X) from rows of uniform draws, at positions (X,) in units of the box."""
        drawn, amplitude, phase, rest = np.split(draws, np.cumsum([N_DRAWN, self.numbers, self.numbers]), axis=1)
        picked = np.floor(drawn * self.numbers)[:, :, None] == np.arange(self.numbers)
        wave_number = picked.sum(axis=1) * np.arange(1, self.numbers + 1)
        turns = (position - 0.5 / BASE_POINTS) / (1.0 - 1.0 / BASE_POINTS)
        angle = 2.0 * np.pi * (wave_number[:, :, None] * turns + phase[:, :, None])
        values: Array = np.einsum("nk,nkx->nx", amplitude, np.sin(angle))

        rectified, sign, window = (column[:, None] for column in rest.T)
        values = np.where(rectified < P_RECTIFIED, np.where(sign < 0.5, -1.0, 1.0) * np.abs(values), values)
        low, high = self.window_extent
        mask = window_mask(low + (high - low) * position, FIRST_EDGE + EDGE_SPAN * window)
        return np.where(window < self.windowed, values * mask, values)


SCALAR = MultiSine()
"""Of advection, Burgers' equation and reaction-diffusion."""


def window_mask(x: Array, left: Array) -> Array:
    """1 from `left` to `left` + `WINDOW`, 0 outside, with smooth edges."""
    mask: Array = 0.5 * (np.tanh((x - left) / EDGE_WIDTH) - np.tanh((x - left - WINDOW) / EDGE_WIDTH))
    return mask
