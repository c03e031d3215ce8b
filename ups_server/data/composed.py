"""Sources made of others: some rows of one, or several one after the other."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.source import FrameIndices, RowNumbers, Rows, TrajectorySource
from ups_server.errors import UserError
from ups_server.pde.grid import Trajectory

Opener = Callable[[], TrajectorySource]


class Subset(TrajectorySource):
    """The rows `chosen` of `source`, numbered from 0.

    Args:
        left_out: other rows of `source` -> why they were not chosen, where reports are to say so.
    """

    def __init__(
        self, source: TrajectorySource, chosen: Sequence[int], left_out: Mapping[int, str] | None = None
    ) -> None:
        describe_as(self, source, len(chosen))
        self.source = source
        self.layout = source.layout
        self.chosen = np.asarray(chosen, np.int64)
        self._left_out = left_out

    @property
    def coefficients(self) -> NDArray[np.float64]:
        return self.source.coefficients[self.chosen]

    @cached_property
    def row_numbers(self) -> RowNumbers:
        return self.source.row_numbers.chosen(self.chosen, self._left_out)

    @cached_property
    def row_faults(self) -> Mapping[int, str]:
        faults = self.source.row_faults
        return {place: faults[row] for place, row in enumerate(self.chosen.tolist()) if row in faults}

    def read(
        self, rows: Rows, frames: FrameIndices = slice(None), stride: int = 1, first: int = 0
    ) -> NDArray[np.float32]:
        return self.source.read(self.chosen[np.asarray(rows, np.int64)], frames, stride, first)

    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        return self.source.read_static(self.chosen[np.asarray(rows, np.int64)], stride, first)

    def close(self) -> None:
        self.source.close()


class SameRows(TrajectorySource):
    """All rows of `source`, some of what each of them holds."""

    def __init__(self, source: TrajectorySource) -> None:
        describe_as(self, source, source.n_trajectories)
        self.source = source
        self.layout = source.layout
        self.chunk_frames = 1

    @property
    def coefficients(self) -> NDArray[np.float64]:
        return self.source.coefficients

    @property
    def row_numbers(self) -> RowNumbers:
        return self.source.row_numbers

    @property
    def row_faults(self) -> Mapping[int, str]:
        return self.source.row_faults

    def close(self) -> None:
        self.source.close()


class Thinned(SameRows):
    """Some frames of `source`, and every `stride`-th point of its grid.

    Args:
        frames: their indices, increasing.

    Raises:
        UserError: ``resolution_mismatch`` where the stride does not divide the number of points.
    """

    def __init__(self, source: TrajectorySource, frames: Sequence[int], stride: int) -> None:
        super().__init__(source)
        self.grid = source.grid.subsample(stride)
        self.times = source.times[list(frames)]
        self._frames = np.asarray(frames, np.int64)
        self._stride = stride

    def read(
        self, rows: Rows, frames: FrameIndices = slice(None), stride: int = 1, first: int = 0
    ) -> NDArray[np.float32]:
        chosen = self._frames[frames]
        return self.source.read(rows, chosen, stride * self._stride, first * self._stride)

    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        return self.source.read_static(rows, stride * self._stride, first * self._stride)


class Concat(TrajectorySource):
    """The rows of several files of the same structure, counted through all of them.

    Args:
        names: of the files, for messages.
        most_open: files that are kept open at a time.

    Raises:
        UserError: ``ragged`` where the files differ in more than their rows and coefficients.
    """

    layout = "several files"

    def __init__(self, openers: Sequence[Opener], names: Sequence[str] = (), most_open: int = 32) -> None:
        self._openers = list(openers)
        self._names = list(names)
        self._most_open = most_open
        self._open: OrderedDict[int, TrajectorySource] = OrderedDict()
        describe_as(self, self._source(0), 0)
        counts = [self._counted(index) for index in range(len(self._openers))]
        self._first_row = np.cumsum([0, *counts])
        self.n_trajectories = int(self._first_row[-1])

    @cached_property
    def coefficients(self) -> NDArray[np.float64]:
        return np.concatenate([self._source(index).coefficients for index in range(len(self._openers))])

    @cached_property
    def row_faults(self) -> Mapping[int, str]:
        faults: dict[int, str] = {}
        for index, start in enumerate(self._first_row[:-1].tolist()):
            faults |= {start + row: reason for row, reason in self._source(index).row_faults.items()}
        return faults

    def read(
        self, rows: Rows, frames: FrameIndices = slice(None), stride: int = 1, first: int = 0
    ) -> NDArray[np.float32]:
        if not len(rows):
            return self._source(0).read(rows, frames, stride, first)
        return self._joined(rows, lambda source, places: source.read(places, frames, stride, first))

    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        if not self.static_fields or not len(rows):
            return self._source(0).read_static(rows, stride, first)
        return self._joined(rows, lambda source, places: source.read_static(places, stride, first))

    def trajectory(self, index: int) -> Trajectory:
        which, place = self._locate(index)
        return self._source(which).trajectory(place)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def _joined(self, rows: Rows, read: Callable[[TrajectorySource, list[int]], Any]) -> NDArray[np.float32]:
        parts, located = [], [self._locate(int(row)) for row in rows]
        begin = 0
        for end in range(1, len(located) + 1):
            if end == len(located) or located[end][0] != located[begin][0]:
                parts.append(read(self._source(located[begin][0]), [place for _, place in located[begin:end]]))
                begin = end
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _locate(self, row: int) -> tuple[int, int]:
        """(file, row of the file)"""
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
            what = self._names[index] if self._names else f"file {index + 1} of {len(self._openers)}"
            raise UserError(
                "ragged",
                f"{what} differs in structure from the first file",
                got=_structure(source),
                expected=_structure(self),
            )
        return source.n_trajectories

    def _source(self, index: int) -> TrajectorySource:
        if index not in self._open:
            if len(self._open) >= self._most_open:
                self._open.popitem(last=False)[1].close()
            self._open[index] = self._opened(index)
        self._open.move_to_end(index)
        return self._open[index]

    def _opened(self, index: int) -> TrajectorySource:
        """A file; what is wrong with it names it."""
        try:
            return self._openers[index]()
        except UserError as error:
            if not self._names or self._names[index] in error.message:
                raise
            message = f"{self._names[index]}: {error.message}"
            raise UserError(error.code, message, got=error.got, expected=error.expected, hint=error.hint) from error


def _structure(source: TrajectorySource) -> str:
    """What files of one data set share, as a sentence says it."""
    first, last = source.times[[0, -1]]
    box = " x ".join(f"[{low:g}, {high:g}]" for low, high in source.grid.extent)
    points = " x ".join(map(str, source.grid.n))
    return f"{source.family}, {points} points on {box}, {len(source.times)} frames from t = {first:g} to {last:g}"


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts names by the numbers in them."""
    return [(int(part or 0), text) for text, part in re.findall(r"([^0-9]*)([0-9]*)", name)]


def describe_as(composed: TrajectorySource, source: TrajectorySource, count: int) -> None:
    """Family, fields, grid and times are those of `source`."""
    TrajectorySource.__init__(
        composed,
        source.family,
        source.fields,
        source.static_fields,
        source.coefficient_names,
        source.grid,
        source.times,
        source.boundary,
        count,
    )
    composed.chunk_rows, composed.chunk_frames = source.chunk_rows, source.chunk_frames
