"""Some rows of a source, as a source."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ups_server.data.rows import RowNumbers, trajectory_of
from ups_server.data.source import TrajectorySource
from ups_server.data.store import Frames, Rows
from ups_server.pde.grid import BoundaryCondition, Grid
from ups_server.pde.state import Trajectory


class SelectedRows:
    """The rows `chosen` of `source`, numbered from 0. A `TrajectorySource`.

    Args:
        left_out: other rows of `source` -> why they were not chosen, where that is to be told.
    """

    def __init__(
        self, source: TrajectorySource, chosen: Sequence[int], left_out: Mapping[int, str] | None = None
    ) -> None:
        self.source = source
        self.chosen = np.asarray(chosen, np.int64)
        self.row_numbers: RowNumbers = source.row_numbers.chosen(self.chosen, left_out)

    @cached_property
    def row_faults(self) -> Mapping[int, str]:
        faults = self.source.row_faults
        return {place: faults[row] for place, row in enumerate(self.chosen.tolist()) if row in faults}

    @property
    def layout(self) -> str:
        return self.source.layout

    @property
    def family(self) -> str:
        return self.source.family

    @property
    def fields(self) -> tuple[str, ...]:
        return self.source.fields

    @property
    def static_fields(self) -> tuple[str, ...]:
        return self.source.static_fields

    @property
    def coefficient_names(self) -> tuple[str, ...]:
        return self.source.coefficient_names

    @property
    def coefficients(self) -> NDArray[np.float64]:
        return self.source.coefficients[self.chosen]

    @property
    def grid(self) -> Grid:
        return self.source.grid

    @property
    def times(self) -> NDArray[np.float64]:
        return self.source.times

    @property
    def boundary(self) -> BoundaryCondition:
        return self.source.boundary

    @property
    def n_trajectories(self) -> int:
        return len(self.chosen)

    @property
    def chunk_rows(self) -> int:
        return self.source.chunk_rows

    @property
    def chunk_frames(self) -> int:
        return self.source.chunk_frames

    def read(self, rows: Rows, frames: Frames = slice(None), stride: int = 1, first: int = 0) -> NDArray[np.float32]:
        """(len(rows), len(frames), X..., C)"""
        return self.source.read(self.chosen[np.asarray(rows, np.int64)], frames, stride, first)

    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        """(len(rows), X..., S), None for families without static fields."""
        return self.source.read_static(self.chosen[np.asarray(rows, np.int64)], stride, first)

    def trajectory(self, index: int) -> Trajectory:
        """One row with all that is needed to read it."""
        return trajectory_of(self, index)

    def close(self) -> None:
        """Release the source."""
        self.source.close()
