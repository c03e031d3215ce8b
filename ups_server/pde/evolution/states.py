"""Initial states of evolution equations: four kinds in equal parts, all of order one and periodic.

    sines    sum of three waves of 1 to 6 periods, amplitudes U(-1, 1)
    steps    one or two plateaus with tanh edges 0.01 wide
    fronts   a plateau with tanh edges 0.03 to 0.1 wide
    bumps    one to three periodic bells, exp(-sin^2(pi (x - x_0)) / 2 w^2) with w in U(0.1, 0.4)

One row of random numbers makes one function: the same generator gives the same functions on every grid, and the first
rows of a larger count are the states of a smaller one.
"""

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.grid import Grid

Array = NDArray[np.float64]

KINDS = ("sines", "steps", "fronts", "bumps")
WAVES, MAX_PERIODS = 3, 6
STEP_EDGE, FRONT_EDGE = 0.01, (0.03, 0.1)
BELL_WIDTH = (0.1, 0.4)
BELLS = 3
DRAWS = 12


def sample_states(rng: np.random.Generator, count: int, grid: Grid) -> Array:
    """`count` states (N, X) at the points of a 1-D grid."""
    draws = rng.random((count, DRAWS))
    position = (grid.axes[0] - grid.extent[0][0]) / grid.length[0]
    return np.stack([_state(row, position) for row in draws]) if count else np.empty((0, *grid.n))


def positive_states(states: Array) -> Array:
    """States (N, X) mapped linearly onto [0.05, 1] where any of their values is outside of [0, 1.5]."""
    low, high = states.min(axis=1, keepdims=True), states.max(axis=1, keepdims=True)
    span = np.maximum(high - low, 1e-12)
    inside = (low >= 0.0) & (high <= 1.5)
    return np.where(inside, states, 0.05 + 0.95 * (states - low) / span)


def _state(draws: Array, x: Array) -> Array:
    """One function (X,) of uniform draws (DRAWS,); x (X,) in units of the box."""
    kind, shape, *rest = draws
    own = np.array(rest)
    match KINDS[int(kind * len(KINDS))]:
        case "sines":
            periods = 1 + np.floor(own[:WAVES] * MAX_PERIODS)
            phases, amplitudes = own[3:6, None], 2.0 * own[6:9, None] - 1.0
            waves: Array = (amplitudes * np.sin(2.0 * np.pi * (periods[:, None] * x + phases))).sum(axis=0)
            return waves
        case "steps":
            plateaus = 1 + int(shape * 2)
            return sum(
                (_plateau(x, own[4 * i : 4 * i + 3], STEP_EDGE) for i in range(plateaus)), start=np.zeros_like(x)
            )
        case "fronts":
            edge = FRONT_EDGE[0] + (FRONT_EDGE[1] - FRONT_EDGE[0]) * shape
            return _plateau(x, own[:3], edge)
        case _:
            bells = np.zeros_like(x)
            for centre, width, height in own[: 3 * (1 + int(shape * BELLS))].reshape(-1, 3):
                narrow = BELL_WIDTH[0] + (BELL_WIDTH[1] - BELL_WIDTH[0]) * width
                bells += _height(height) * np.exp(-(np.sin(np.pi * (x - centre)) ** 2) / (2.0 * narrow**2))
            return bells


def _plateau(x: Array, draws: Array, edge: float) -> Array:
    """A periodic plateau 0.2 to 0.6 wide, of uniform draws (3,) for its centre, width and height."""
    centre, half, height = draws
    distance = np.abs((x - centre + 0.5) % 1.0 - 0.5)
    plateau: Array = _height(height) * 0.5 * (1.0 - np.tanh((distance - 0.1 - 0.2 * half) / edge))
    return plateau


def _height(draw: float) -> float:
    """0.3 to 1, of either sign."""
    return (0.3 + 0.7 * abs(2.0 * draw - 1.0)) * (1.0 if draw >= 0.5 else -1.0)
