"""PDEBench's initial states for its scalar 1-D families: sums of sines, now and then rectified or windowed.

    u(x) = sum_{n=1..4} A_n sin(2 pi m_n (x - x_0) / P + phi_n),   A_n ~ U(0, 1), phi_n ~ U(0, 2 pi)

Two mode numbers are drawn independently from 1..4. A mode drawn once has m_n = n, one drawn twice m_n = 2 n (so wave
numbers reach 8, the paper's n_max), and one not drawn has m_n = 0: it adds the constant A_n sin(phi_n). The phase
runs from the first to the last cell centre of PDEBench's grid, P = x_{1023} - x_0, so a state is off periodic by a
thousandth of its slope.

With probability 0.1 each, u becomes +-|u| (either sign equally likely), and is cut out by a window 0.45 wide that
begins at U(0.1, 0.45), with tanh edges of width 0.01. Reaction-diffusion maps each state onto [0, 1].

Source: Takamoto et al., PDEBench (2022), appendix D: two modes, amplitudes, phases, rectification and window with
their 10 %. Fitted to the first frames of a few files, to 1e-6 of their range: the period, the constants, waves 2 and
4 alone, the pairs (2, 3) and (2, 4), rectified states, the [0, 1] map, and the window's width and edges. Not settled
by these few: how often one mode is drawn twice (a quarter here; eight of the ten different states that could be read,
always wave 2 or 4, beside the pairs (2, 3) and (2, 4)). Such states are part of what is drawn here, but rarer.
"""

import numpy as np

from ups_server.pde.family import Array
from ups_server.pde.grid import Grid

BASE_POINTS = 1024
"""Cells of PDEBench's grid: it fixes the period and the extremes of a state, whatever grid the state is sampled on."""

N_MODES = 4
N_DRAWN = 2
P_RECTIFIED = 0.1
P_WINDOWED = 0.1
EDGE_WIDTH = 0.01
LEFT_EDGE = (0.1, 0.45)
WINDOW = 0.45


def sample_multi_sine(
    rng: np.random.Generator,
    count: int,
    grid: Grid,
    *,
    unit_range: bool = False,
    window_extent: tuple[float, float] = (0.0, 1.0),
) -> Array:
    """`count` initial states (N, X) at the points of a 1-D grid.

    One row of random numbers makes one function: the same generator gives the same functions on every grid, and the
    first rows of a larger `count` are the states of a smaller one.

    Args:
        unit_range: map each function onto [0, 1].
        window_extent: where the window, which has its own units, has the ends of the box.
    """
    draws = rng.random((count, N_DRAWN + 2 * N_MODES + 4))
    (lo, _), length = grid.extent[0], grid.length[0]
    values = _evaluate(draws, (grid.axes[0] - lo) / length, window_extent)
    if unit_range:
        base = _evaluate(draws, (np.arange(BASE_POINTS) + 0.5) / BASE_POINTS, window_extent)
        low, high = base.min(axis=1, keepdims=True), base.max(axis=1, keepdims=True)
        values = (values - low) / (high - low)
    return values


def _evaluate(draws: Array, position: Array, window_extent: tuple[float, float]) -> Array:
    """Functions (N, X) from uniform draws (N, 14), at positions (X,) in units of the box."""
    drawn, amplitude, phase, rest = np.split(draws, np.cumsum([N_DRAWN, N_MODES, N_MODES]), axis=1)
    picked = np.floor(drawn * N_MODES)[:, :, None] == np.arange(N_MODES)
    mode = picked.sum(axis=1) * np.arange(1, N_MODES + 1)
    turns = (position - 0.5 / BASE_POINTS) / (1.0 - 1.0 / BASE_POINTS)
    angle = 2.0 * np.pi * (mode[:, :, None] * turns + phase[:, :, None])
    values: Array = np.einsum("nk,nkx->nx", amplitude, np.sin(angle))

    rectified, sign, windowed, left = (column[:, None] for column in rest.T)
    values = np.where(rectified < P_RECTIFIED, np.where(sign < 0.5, -1.0, 1.0) * np.abs(values), values)
    low, high = window_extent
    inside = low + (high - low) * position - (LEFT_EDGE[0] + (LEFT_EDGE[1] - LEFT_EDGE[0]) * left)
    window = 0.5 * (np.tanh(inside / EDGE_WIDTH) - np.tanh((inside - WINDOW) / EDGE_WIDTH))
    return np.where(windowed < P_WINDOWED, values * window, values)
