"""States and trajectories in physical units, with everything needed to read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.grid import BoundaryCondition, Grid


@dataclass(frozen=True)
class State:
    """The fields of one family at one time.

    Attributes:
        values: (X..., C) in physical units, fields in the family's order.
        static: (X..., S) fields that do not change in time (forcing), or None.
    """

    family: str
    values: NDArray[np.floating]
    time: float
    grid: Grid
    boundary: BoundaryCondition
    coefficients: Mapping[str, float] = field(default_factory=dict)
    static: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class Trajectory:
    """A solution at several times.

    Attributes:
        values: (T, X..., C) in physical units, fields in the family's order.
        times: (T,) in the family's time unit.
        static: (X..., S) or None.
    """

    family: str
    values: NDArray[np.floating]
    times: NDArray[np.float64]
    grid: Grid
    boundary: BoundaryCondition
    coefficients: Mapping[str, float] = field(default_factory=dict)
    static: NDArray[np.floating] | None = None

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, step: int) -> State:
        return State(
            self.family,
            self.values[step],
            float(self.times[step]),
            self.grid,
            self.boundary,
            self.coefficients,
            self.static,
        )
