"""What the readers of all layouts share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Self, final

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data.store import Frames, Rows
from ups_server.errors import UserError
from ups_server.pde.boundary import BoundaryCondition
from ups_server.pde.family import Family
from ups_server.pde.grid import Grid
from ups_server.pde.state import Trajectory

RUN_BYTES = 64 * 2**20


class PdebenchSource(ABC):
    """A file in one of PDEBench's layouts. A `TrajectorySource`.

    Attributes:
        layout: its name, for reports.
    """

    layout: ClassVar[str]

    def __init__(
        self, path: Path, file: h5py.File, equation: Family, grid: Grid, times: NDArray[np.float64], count: int
    ) -> None:
        self.path = path
        self.file = file
        self.equation = equation
        self.grid = grid
        self.times = times
        self.n_trajectories = count

    @property
    @final
    def family(self) -> str:
        return self.equation.id

    @property
    @final
    def fields(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.equation.fields)

    @property
    @final
    def coefficient_names(self) -> tuple[str, ...]:
        return tuple(coefficient.name for coefficient in self.equation.coefficients)

    @property
    @final
    def boundary(self) -> BoundaryCondition:
        return self.equation.boundary

    @property
    @abstractmethod
    def coefficients(self) -> NDArray[np.float64]:
        """(N, K)"""

    @property
    @abstractmethod
    def chunk_rows(self) -> int:
        """Rows stored together."""

    @abstractmethod
    def datasets(self) -> list[h5py.Dataset]:
        """The datasets that hold the fields (of the first trajectory, where each has its own)."""

    @abstractmethod
    def read(self, rows: Rows, frames: Frames = slice(None), stride: int = 1, first: int = 0) -> NDArray[np.float32]:
        """(len(rows), len(frames), X..., C)

        Raises:
            UserError: ``row_out_of_range`` or ``unreadable``.
        """

    @final
    def trajectory(self, index: int) -> Trajectory:
        """Row `index` with all that is needed to read it."""
        return Trajectory(
            self.family,
            self.read([index])[0],
            self.times,
            self.grid,
            self.boundary,
            dict(zip(self.coefficient_names, self.coefficients[index].tolist(), strict=True)),
        )

    @final
    def close(self) -> None:
        """Close the file."""
        self.file.close()

    @final
    def __enter__(self) -> Self:
        return self

    @final
    def __exit__(self, *exception: object) -> None:
        self.close()

    @final
    def _buffer(
        self, rows: Rows, frames: Frames, stride: int, first: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The frame numbers and the array to fill; checks the rows."""
        for row in rows:
            if not 0 <= row < self.n_trajectories:
                raise UserError(
                    "row_out_of_range",
                    f"{self.path.name} has no trajectory {row}",
                    expected=f"0 to {self.n_trajectories - 1}",
                )
        chosen = np.arange(len(self.times))[frames]
        points = tuple(len(range(first, n, stride)) for n in self.grid.n)
        return chosen, np.empty((len(rows), len(chosen), *points, len(self.fields)), np.float32)

    @final
    def _row_bytes(self, frames: slice) -> int:
        return 8 * int((frames.stop - frames.start) * np.prod(self.grid.n))


def runs(rows: Rows, row_bytes: int) -> Iterator[tuple[slice, int, int]]:
    """Consecutive rows to be read at once: (their places in `rows`, first row, one past the last)."""
    at_most = max(1, RUN_BYTES // row_bytes)
    begin = 0
    for place in range(1, len(rows) + 1):
        ends = place == len(rows) or rows[place] != rows[place - 1] + 1 or place - begin == at_most
        if ends:
            yield slice(begin, place), int(rows[begin]), int(rows[place - 1]) + 1
            begin = place
