"""Several files of the same structure as one, such as the batches of incompressible Navier-Stokes."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.rows import RowNumbers
from ups_server.data.source import TrajectorySource
from ups_server.data.store import Frames, Rows
from ups_server.errors import UserError
from ups_server.pde.grid import BoundaryCondition, Grid
from ups_server.pde.state import Trajectory

MAX_OPEN = 32

Opener = Callable[[], TrajectorySource]


class ChainedSource:
    """The rows of several sources one after the other. A `TrajectorySource`; keeps few files open at a time.

    Raises:
        UserError: ``ragged`` where the files differ in more than their rows and coefficients.
    """

    layout = "several files"

    def __init__(self, openers: Sequence[Opener]) -> None:
        self._openers = list(openers)
        self._open: OrderedDict[int, TrajectorySource] = OrderedDict()
        first = self._source(0)
        self.family: str = first.family
        self.fields: tuple[str, ...] = first.fields
        self.static_fields: tuple[str, ...] = first.static_fields
        self.coefficient_names: tuple[str, ...] = first.coefficient_names
        self.grid: Grid = first.grid
        self.times: NDArray[np.float64] = first.times
        self.boundary: BoundaryCondition = first.boundary
        self.chunk_rows: int = first.chunk_rows
        self.chunk_frames: int = first.chunk_frames
        counts = [self._counted(index) for index in range(len(self._openers))]
        self._first_row = np.cumsum([0, *counts])
        self.n_trajectories = int(self._first_row[-1])

    @cached_property
    def coefficients(self) -> NDArray[np.float64]:
        """(N, K)"""
        return np.concatenate([self._source(index).coefficients for index in range(len(self._openers))])

    @property
    def row_numbers(self) -> RowNumbers:
        """Rows are counted through all files."""
        return RowNumbers.without({}, self.n_trajectories)

    @cached_property
    def row_faults(self) -> dict[int, str]:
        faults: dict[int, str] = {}
        for index, start in enumerate(self._first_row[:-1].tolist()):
            faults |= {start + row: reason for row, reason in self._source(index).row_faults.items()}
        return faults

    def read(self, rows: Rows, frames: Frames = slice(None), stride: int = 1, first: int = 0) -> NDArray[np.float32]:
        """(len(rows), len(frames), X..., C)

        Raises:
            UserError: ``row_out_of_range`` or ``unreadable``.
        """
        if not len(rows):
            return self._source(0).read(rows, frames, stride, first)
        return self._joined(rows, lambda source, own: source.read(own, frames, stride, first))

    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        """(len(rows), X..., S), None for families without static fields."""
        if not self.static_fields or not len(rows):
            return self._source(0).read_static(rows, stride, first)
        return self._joined(rows, lambda source, own: source.read_static(own, stride, first))

    def trajectory(self, index: int) -> Trajectory:
        """Row `index` with all that is needed to read it."""
        which, own = self._locate(index)
        return self._source(which).trajectory(own)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def _joined(self, rows: Rows, read: Callable[[TrajectorySource, list[int]], Any]) -> NDArray[np.float32]:
        parts, places = [], [self._locate(int(row)) for row in rows]
        begin = 0
        for end in range(1, len(places) + 1):
            if end == len(places) or places[end][0] != places[begin][0]:
                parts.append(read(self._source(places[begin][0]), [own for _, own in places[begin:end]]))
                begin = end
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _locate(self, row: int) -> tuple[int, int]:
        if not 0 <= row < self.n_trajectories:
            raise UserError(
                "row_out_of_range", f"there is no trajectory {row}", expected=f"0 to {self.n_trajectories - 1}"
            )
        which = int(np.searchsorted(self._first_row, row, side="right")) - 1
        return which, row - int(self._first_row[which])

    def _counted(self, index: int) -> int:
        """Rows of a file, after a look at its structure."""
        source = self._source(index)
        same = (source.family, source.grid, source.boundary) == (self.family, self.grid, self.boundary)
        if not same or not np.array_equal(source.times, self.times):
            raise UserError("ragged", f"file {index + 1} of {len(self._openers)} differs in structure from the first")
        return source.n_trajectories

    def _source(self, index: int) -> TrajectorySource:
        if index not in self._open:
            if len(self._open) >= MAX_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[index] = self._openers[index]()
        self._open.move_to_end(index)
        return self._open[index]
