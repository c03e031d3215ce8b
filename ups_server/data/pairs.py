"""Triples of states of one trajectory, (t, t + tau, t + tau + sigma), under the equation's exact symmetries."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ups_server.data.splits import Split
from ups_server.data.store import Store
from ups_server.data.windows import Windows
from ups_server.pde.grid import Grid

Points = Literal["strided", "cells"]
"""Where the points of a coarser grid lie: on every so many-th point of the store, or in the centres of its cells."""


@dataclass(frozen=True)
class Triples:
    """R triples.

    Attributes:
        states: (R, 3, X..., C). times: (R, 3).
        coefficients: (R, K). static: (R, X..., S), or None.
        grid: of the points.
    """

    family: str
    states: NDArray[np.float32]
    times: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    static: NDArray[np.float32] | None
    grid: Grid


class LeadTimes:
    """Draws triples from one split of a store.

    Args:
        longest: of the lead times.
        initial: share of the triples that begin with the first frame.
        early: exponent of the other starts, U(0, 1) ** early of what the trajectory allows.
    """

    def __init__(
        self, store: Store, dt: float, longest: float, split: Split = Split.TRAIN, initial: float = 0.3,
        early: float = 1.5,
    ) -> None:  # fmt: skip
        self.store, self.longest, self.initial, self.early = store, longest, initial, early
        self._windows = {n: Windows(store, dt, n, split) for n in _resolutions(store.grid)}
        self.times = np.asarray(store.times)

    def draw(self, rng: np.random.Generator, count: int, n: int, points: Points = "strided") -> Triples:
        """`count` triples of different trajectories at n points along the first axis."""
        windows = self._windows[n]
        stride = windows.stride
        inner = windows if points == "strided" else self._windows[self.store.grid.n[0]]
        rows = rng.choice(windows.rows, count, replace=count > len(windows.rows))
        picked = np.stack([self._frames(rng) for _ in range(count)])
        given = (*inner.grid.n, len(self.store.fields))
        states = np.empty((count, 3, *windows.grid.n, len(self.store.fields)), np.float32)
        static = None
        if self.store.static_fields:
            static = np.empty((count, *windows.grid.n, len(self.store.static_fields)), np.float32)
        for index, row in enumerate(rows):
            symmetry = inner.draw(rng)
            for place, frame in enumerate(self.store.frames(int(row), picked[index].tolist())):
                target = np.empty(given, np.float32)
                symmetry.place(frame, target)
                symmetry.turn(target, inner.turning)
                states[index, place] = target if points == "strided" else averaged(target, stride)
            fixed = self.store.static_view(int(row))
            if static is not None and fixed is not None:
                target = np.empty((*inner.grid.n, fixed.shape[-1]), np.float32)
                symmetry.place(fixed, target)
                symmetry.turn(target, inner.static_turning)
                static[index] = target if points == "strided" else averaged(target, stride)
        grid = windows.grid if points == "strided" else Grid(windows.grid.n, windows.grid.extent)
        return Triples(self.store.family, states, self.times[picked], self.store.coefficients[rows], static, grid)

    def _frames(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Three frames: lead times are uniform in their logarithm."""
        times, last = self.times, len(self.times) - 1
        first = 0 if rng.random() < self.initial else int(rng.random() ** self.early * (last - 1))
        steps = []
        start = first
        for _ in range(2):
            most = max(min(self.longest, times[last] - times[start]), times[1])
            lead = times[1] * (most / times[1]) ** rng.random()
            end = int(np.clip(np.searchsorted(times, times[start] + lead * 0.999), start + 1, last))
            steps.append(end)
            start = min(end, last - 1)
        return np.array([first, *steps])


def averaged(values: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """Means over `stride` cells along each axis of values (X..., C): what a coarser grid of cells holds."""
    for axis in range(values.ndim - 1):
        shape = values.shape
        parts = values.reshape(*shape[:axis], shape[axis] // stride, stride, *shape[axis + 1 :])
        values = parts.mean(axis + 1)
    return values


def _resolutions(grid: Grid) -> list[int]:
    """Of the store and, by halves, down to 32 points along the first axis."""
    found, n = [grid.n[0]], grid.n[0]
    while n % 2 == 0 and n > 32:
        n //= 2
        found.append(n)
    return found
