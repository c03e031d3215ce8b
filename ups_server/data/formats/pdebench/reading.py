"""What the readers of all layouts share."""

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats import hdf5
from ups_server.data.formats.pdebench.card import Card
from ups_server.data.source import FileSource, FrameIndices, Rows, StoredDataset
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition, Grid

RUN_BYTES = 64 * 2**20
"""What one read from the file aims to hold at most."""

ChannelBlock = tuple[slice, NDArray[np.floating[Any]]]
"""Channels, and their values with the spatial axes in the order of the file."""


class PdebenchSource(FileSource):
    """A file in one of PDEBench's layouts."""

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
        super().__init__(path, equation, boundary, grid, times, count)
        self.file = file
        self.card = card

    @final
    def read(
        self, rows: Rows, frames: FrameIndices = slice(None), stride: int = 1, first: int = 0
    ) -> NDArray[np.float32]:
        """As every source; holds little more than what it returns, however large a row is."""
        chosen, out = self._room(rows, frames, stride, first)
        frame_bytes = 8 * int(np.prod(self.grid.n))
        for places, span in _pieces(chosen, frame_bytes, self.chunk_frames):
            index = (slice(None), chosen[places] - span.start, *self._space(stride, first))
            for target, start, stop in _runs(rows, frame_bytes * (span.stop - span.start)):
                for channels, block in self._blocks(start, stop, span):
                    out[target, places, ..., channels] = self._ordered(block, 2)[index]
        return out

    @final
    def _static_parts(self, row: int, stride: int, first: int) -> Iterator[tuple[slice, NDArray[Any]]]:
        for channels, block in self._static_blocks(row):
            yield channels, self._ordered(block, 0)[self._space(stride, first)]

    @final
    def datasets(self) -> list[StoredDataset]:
        return [StoredDataset(d.name, d.shape, str(d.dtype), d.chunks) for d in self._stored()]

    @final
    def close(self) -> None:
        self.file.close()

    @abstractmethod
    def _stored(self) -> list[h5py.Dataset]:
        """The datasets that hold the values (of the first trajectory, where each has its own)."""

    @abstractmethod
    def _blocks(self, start: int, stop: int, frames: slice) -> Iterator[ChannelBlock]:
        """The values (n, F, X..., c) of consecutive rows and frames, some channels at a time."""

    @abstractmethod
    def _static_blocks(self, row: int) -> Iterator[ChannelBlock]:
        """The static values (X..., s) of a row."""

    def _ordered(self, block: NDArray[np.floating[Any]], leading: int) -> NDArray[np.floating[Any]]:
        """The block with its spatial axes, after `leading` others, in the order x, y, z."""
        order = self.card.order
        return block.transpose(*range(leading), *(leading + axis for axis in order), leading + len(order))


class StackedSource(PdebenchSource):
    """A layout whose datasets hold all trajectories, (N, T, ...).

    Attributes set by the layout: the datasets of the fields and of the static fields, the coefficients (N, K).
    """

    _datasets: list[h5py.Dataset]
    _static: list[h5py.Dataset]
    _table: NDArray[np.float64]

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
        super().__init__(path, file, card, equation, boundary, grid, times, count)
        if self._datasets[0].chunks:
            self.chunk_rows, self.chunk_frames = map(int, self._datasets[0].chunks[:2])

    @property
    @final
    def coefficients(self) -> NDArray[np.float64]:
        return self._table

    @cached_property
    def _unwritten(self) -> frozenset[int]:
        return frozenset(row for found in self._stored() for row in hdf5.unwritten(found).tolist())

    @final
    def _never_written(self) -> frozenset[int]:
        return self._unwritten

    @final
    def _stored(self) -> list[h5py.Dataset]:
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
