"""What the readers of all layouts share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, final

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data import hdf5
from ups_server.data.pdebench.card import Card
from ups_server.data.rows import RowNumbers, coefficient_faults, trajectory_of
from ups_server.data.store import Frames, Rows
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition, Grid
from ups_server.pde.state import Trajectory

RUN_BYTES = 64 * 2**20
"""What one read from the file aims to hold at most."""

NEVER_WRITTEN = "its values were never all written"

Block = tuple[slice, NDArray[np.floating[Any]]]
"""Channels, and their values with the spatial axes in the order of the file."""


class PdebenchSource(ABC):
    """A file in one of PDEBench's layouts. A `TrajectorySource`.

    Attributes:
        layout: its name, for reports.
        guessed_from: what alone suggests the family, where neither user nor file say it.
        assumed: coefficients that neither user nor file say: the family's defaults stand for them.
    """

    layout: ClassVar[str]
    guessed_from: str | None = None
    assumed: tuple[str, ...] = ()

    def __init__(
        self,
        path: Path,
        file: h5py.File,
        card: Card,
        equation: Family,
        boundary: BoundaryCondition,
        grid: Grid,
        times: NDArray[np.float64],
        count: int,
    ) -> None:
        self.path = path
        self.file = file
        self.card = card
        self.equation = equation
        self.boundary = boundary
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
    def static_fields(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.equation.static_fields)

    @property
    @final
    def coefficient_names(self) -> tuple[str, ...]:
        return tuple(coefficient.name for coefficient in self.equation.coefficients)

    @property
    @abstractmethod
    def coefficients(self) -> NDArray[np.float64]:
        """(N, K)"""

    @property
    @final
    def row_numbers(self) -> RowNumbers:
        return RowNumbers.without({}, self.n_trajectories)

    @cached_property
    def row_faults(self) -> dict[int, str]:
        """Row -> why it cannot be used, before a value is read."""
        return coefficient_faults(self.equation, self.coefficients)

    @property
    @abstractmethod
    def chunk_rows(self) -> int:
        """Rows stored together."""

    @property
    @abstractmethod
    def chunk_frames(self) -> int:
        """Frames stored together."""

    @abstractmethod
    def datasets(self) -> list[h5py.Dataset]:
        """The datasets that hold the values (of the first trajectory, where each has its own)."""

    @final
    def read(self, rows: Rows, frames: Frames = slice(None), stride: int = 1, first: int = 0) -> NDArray[np.float32]:
        """(len(rows), len(frames), X..., C); holds little more than what it returns, however large a row is.

        Raises:
            UserError: ``row_out_of_range`` or ``unreadable``.
        """
        self._check_rows(rows)
        chosen = np.arange(len(self.times))[frames]
        out = np.empty((len(rows), len(chosen), *self._points(stride, first), len(self.fields)), np.float32)
        frame_bytes = 8 * int(np.prod(self.grid.n))
        for places, span in _pieces(chosen, frame_bytes, self.chunk_frames):
            index = (slice(None), chosen[places] - span.start, *self._space(stride, first))
            for target, start, stop in _runs(rows, frame_bytes * (span.stop - span.start)):
                for channels, block in self._blocks(start, stop, span):
                    out[target, places, ..., channels] = self._ordered(block, 2)[index]
        return out

    @final
    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        """(len(rows), X..., S), None for families without static fields."""
        if not self.static_fields:
            return None
        self._check_rows(rows)
        out = np.empty((len(rows), *self._points(stride, first), len(self.static_fields)), np.float32)
        for target, row in zip(out, rows, strict=True):
            for channels, block in self._static_blocks(int(row)):
                target[..., channels] = self._ordered(block, 0)[self._space(stride, first)]
        return out

    @final
    def trajectory(self, index: int) -> Trajectory:
        """Row `index` with all that is needed to read it."""
        return trajectory_of(self, index)

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

    @abstractmethod
    def _blocks(self, start: int, stop: int, frames: slice) -> Iterator[Block]:
        """The values (n, F, X..., c) of consecutive rows and frames, some channels at a time."""

    @abstractmethod
    def _static_blocks(self, row: int) -> Iterator[Block]:
        """The static values (X..., s) of a row."""

    def _ordered(self, block: NDArray[np.floating[Any]], leading: int) -> NDArray[np.floating[Any]]:
        """The block with its spatial axes, after `leading` others, in the order x, y, z."""
        order = self.card.order
        return block.transpose(*range(leading), *(leading + axis for axis in order), leading + len(order))

    def _points(self, stride: int, first: int) -> tuple[int, ...]:
        return tuple(len(range(first, n, stride)) for n in self.grid.n)

    def _space(self, stride: int, first: int) -> tuple[slice, ...]:
        return (slice(first, None, stride),) * self.grid.ndim

    def _check_rows(self, rows: Rows) -> None:
        for row in rows:
            if not 0 <= row < self.n_trajectories:
                raise UserError(
                    "row_out_of_range",
                    f"{self.path.name} has no trajectory {row}",
                    expected=f"0 to {self.n_trajectories - 1}",
                )


class StackedSource(PdebenchSource):
    """A layout whose datasets hold all trajectories, (N, T, ...).

    Attributes set by the layout: the datasets of the fields and of the static fields, the coefficients (N, K).
    """

    _datasets: list[h5py.Dataset]
    _static: list[h5py.Dataset]
    _table: NDArray[np.float64]

    @property
    @final
    def coefficients(self) -> NDArray[np.float64]:
        return self._table

    @cached_property
    def row_faults(self) -> dict[int, str]:
        unwritten = dict.fromkeys(sorted(self._unwritten), NEVER_WRITTEN)
        return coefficient_faults(self.equation, self.coefficients) | unwritten

    @cached_property
    def _unwritten(self) -> frozenset[int]:
        """Rows whose values are not all in the file."""
        return frozenset(row for found in self.datasets() for row in hdf5.unwritten(found).tolist())

    def _check_rows(self, rows: Rows) -> None:
        super()._check_rows(rows)
        for row in rows if self._unwritten else ():
            if row in self._unwritten:
                raise UserError("never_written", f"trajectory {row} cannot be read: {NEVER_WRITTEN}")

    @property
    @final
    def chunk_rows(self) -> int:
        chunks = self._datasets[0].chunks
        return int(chunks[0]) if chunks else 1

    @property
    @final
    def chunk_frames(self) -> int:
        chunks = self._datasets[0].chunks
        return int(chunks[1]) if chunks else 1

    @final
    def datasets(self) -> list[h5py.Dataset]:
        return [*self._datasets, *self._static]


def _pieces(chosen: NDArray[np.int64], frame_bytes: int, chunk: int) -> Iterator[tuple[slice, slice]]:
    """Frames to be read at once: (their places in `chosen`, the consecutive frames of the file that hold them).

    A piece stays below `RUN_BYTES` and skips chunks that hold none of the frames.
    """
    at_most = max(1, RUN_BYTES // frame_bytes)
    begin = 0
    for place in range(1, len(chosen) + 1):
        piece = chosen[begin : place + 1]
        ends = (
            place == len(chosen)
            or abs(int(chosen[place]) - int(chosen[place - 1])) > chunk
            or int(piece.max() - piece.min()) >= at_most
        )
        if ends:
            done = chosen[begin:place]
            yield slice(begin, place), slice(int(done.min()), int(done.max()) + 1)
            begin = place


def _runs(rows: Rows, row_bytes: int) -> Iterator[tuple[slice, int, int]]:
    """Consecutive rows to be read at once: (their places in `rows`, first row, one past the last)."""
    at_most = max(1, RUN_BYTES // row_bytes)
    begin = 0
    for place in range(1, len(rows) + 1):
        ends = place == len(rows) or rows[place] != rows[place - 1] + 1 or place - begin == at_most
        if ends:
            yield slice(begin, place), int(rows[begin]), int(rows[place - 1]) + 1
            begin = place
