"""Trajectories of one family on one grid, wherever they are stored: what every source gives, and reading in pieces."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition, Grid, Trajectory

Rows = Sequence[int] | NDArray[np.integer[Any]]
FrameIndices = slice | Sequence[int] | NDArray[np.integer[Any]]

RowProgress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""

BLOCK_BYTES = 64 * 2**20
"""What one streaming read aims to hold at most."""


class Readable(Protocol):
    """Values that can be read a part at a time."""

    @property
    def fields(self) -> tuple[str, ...]: ...
    @property
    def static_fields(self) -> tuple[str, ...]: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def times(self) -> NDArray[np.float64]: ...
    @property
    def n_trajectories(self) -> int: ...
    @property
    def chunk_rows(self) -> int:
        """Rows that are stored together: streams read multiples of it."""
        ...

    @property
    def chunk_frames(self) -> int:
        """Frames that are stored together."""
        ...

    def read(self, rows: Rows, frames: FrameIndices = slice(None)) -> NDArray[np.float32]:
        """(len(rows), len(frames), X..., C) in physical units."""
        ...

    def read_static(self, rows: Rows) -> NDArray[np.float32] | None:
        """(len(rows), X..., S) fields that do not change in time, None for families without."""
        ...


@dataclass(frozen=True)
class StoredDataset:
    """How values are stored, for reports."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...] | None = None


class TrajectorySource(ABC):
    """Trajectories of one family on one grid, read lazily. Files, stores, parts of them and lists of them look alike.

    Attributes:
        layout: how it is stored, for reports.
        family: its id.
        fields, static_fields: names of the last axis of values and of static values.
        coefficient_names: of the columns of `coefficients`, in the family's order.
        times: (T,)
        chunk_rows, chunk_frames: rows and frames that are stored together: streams read multiples of them.
        guessed_from: what alone suggests the family, where neither user nor file say it.
        assumed: coefficients that neither user nor file say: the family's defaults stand for them.
    """

    layout: str
    chunk_rows: int = 1
    chunk_frames: int = 1
    guessed_from: str | None = None
    assumed: tuple[str, ...] = ()

    def __init__(
        self,
        family: str,
        fields: tuple[str, ...],
        static_fields: tuple[str, ...],
        coefficient_names: tuple[str, ...],
        grid: Grid,
        times: NDArray[np.float64],
        boundary: BoundaryCondition,
        n_trajectories: int,
    ) -> None:
        self.family = family
        self.fields = fields
        self.static_fields = static_fields
        self.coefficient_names = coefficient_names
        self.grid = grid
        self.times = times
        self.boundary = boundary
        self.n_trajectories = n_trajectories

    @property
    @abstractmethod
    def coefficients(self) -> NDArray[np.float64]:
        """(N, K), columns in the order of `coefficient_names`."""

    @property
    def row_numbers(self) -> "RowNumbers":
        """The numbers that the rows have in their file; `read` and `trajectory` take places in the source."""
        return RowNumbers.without({}, self.n_trajectories)

    @property
    def row_faults(self) -> Mapping[int, str]:
        """Row -> why it cannot be used, as far as coefficients and storage tell before a value is read."""
        return {}

    @abstractmethod
    def read(
        self, rows: Rows, frames: FrameIndices = slice(None), stride: int = 1, first: int = 0
    ) -> NDArray[np.float32]:
        """(len(rows), len(frames), X..., C) in physical units, every `stride`-th point from point `first` on.

        Raises:
            UserError: ``row_out_of_range`` or ``unreadable``.
        """

    @abstractmethod
    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        """(len(rows), X..., S) fields that do not change in time, None for families without."""

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def datasets(self) -> list[StoredDataset]:
        """What holds the values (of the first trajectory, where each has its own)."""
        shape = (self.n_trajectories, len(self.times), *self.grid.n, len(self.fields))
        return [StoredDataset("values", shape, "float32")]

    def trajectory(self, index: int) -> Trajectory:
        """Row `index` with all that is needed to read it."""
        static = self.read_static([index])
        return Trajectory(
            self.family,
            self.read([index])[0],
            self.times,
            self.grid,
            self.boundary,
            self._named_coefficients(index),
            None if static is None else static[0],
        )

    def preview(self, index: int) -> Trajectory:
        """Row `index` thinned to what a picture can show: large files cost little memory.

        At most `PREVIEW_FRAMES` frames, evenly spaced, and every so many points.

        Raises:
            UserError: ``row_out_of_range``, or ``picture_not_available`` for 3-D states.
        """
        if self.grid.ndim not in PREVIEW_POINTS:
            raise UserError("picture_not_available", "only 1-D and 2-D states can be drawn", got=f"{self.grid.ndim}-D")
        if not 0 <= index < self.n_trajectories:
            raise UserError(
                "row_out_of_range", f"there is no trajectory {index}", expected=f"0 to {self.n_trajectories - 1}"
            )
        count = len(self.times)
        frames = np.unique(np.linspace(0, count - 1, min(count, PREVIEW_FRAMES)).round().astype(np.int64))
        stride = _preview_stride(self.grid.n, PREVIEW_POINTS[self.grid.ndim])
        static = self.read_static([index], stride)
        return Trajectory(
            self.family,
            np.concatenate([self.read([index], [int(frame)], stride)[0] for frame in frames]),
            self.times[frames],
            self.grid.subsample(stride),
            self.boundary,
            self._named_coefficients(index),
            None if static is None else static[0],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @final
    def _named_coefficients(self, index: int) -> dict[str, float]:
        return dict(zip(self.coefficient_names, self.coefficients[index].tolist(), strict=True))

    @final
    def _points(self, stride: int, first: int) -> tuple[int, ...]:
        """Points an axis of what `read` gives."""
        return tuple(len(range(first, n, stride)) for n in self.grid.n)

    @final
    def _space(self, stride: int, first: int) -> tuple[slice, ...]:
        """The index of the spatial axes."""
        return (slice(first, None, stride),) * self.grid.ndim


PREVIEW_FRAMES = 101
PREVIEW_POINTS = {1: 1024, 2: 256}
"""At most, per axis, by dimensions."""


def _preview_stride(n: tuple[int, ...], at_most: int) -> int:
    """The smallest stride that divides all of `n` and leaves at most `at_most` points."""
    wanted = (stride for stride in range(1, max(n) + 1) if max(n) // stride <= at_most)
    return next((stride for stride in wanted if all(points % stride == 0 for points in n)), 1)


NEVER_WRITTEN = "its values were never all written"


class FileSource(TrajectorySource):
    """A file whose equation is known.

    Attributes:
        equation: the family of the file.
    """

    def __init__(
        self,
        path: Path,
        equation: Family,
        boundary: BoundaryCondition,
        grid: Grid,
        times: NDArray[np.float64],
        count: int,
    ) -> None:
        fields, static = (tuple(entry.name for entry in group) for group in (equation.fields, equation.static_fields))
        names = tuple(coefficient.name for coefficient in equation.coefficients)
        super().__init__(equation.id, fields, static, names, grid, times, boundary, count)
        self.path = path
        self.equation = equation

    @cached_property
    def row_faults(self) -> Mapping[int, str]:
        unwritten = dict.fromkeys(sorted(self._never_written()), NEVER_WRITTEN)
        return coefficient_faults(self.equation, self.coefficients) | unwritten

    @final
    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        if not self.static_fields:
            return None
        self._check_rows(rows)
        out = np.empty((len(rows), *self._points(stride, first), len(self.static_fields)), np.float32)
        for target, row in zip(out, rows, strict=True):
            for channels, values in self._static_parts(int(row), stride, first):
                target[..., channels] = values
        return out

    @abstractmethod
    def _static_parts(self, row: int, stride: int, first: int) -> Iterator[tuple[int | slice, NDArray[Any]]]:
        """The static fields of a row, some channels at a time: one (X...), or several (X..., s)."""

    @final
    def _room(
        self, rows: Rows, frames: FrameIndices, stride: int, first: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What `read` begins with: the numbers of the frames, and an array for the values.

        Raises:
            UserError: ``row_out_of_range``.
        """
        self._check_rows(rows)
        chosen = np.arange(len(self.times))[frames]
        return chosen, np.empty((len(rows), len(chosen), *self._points(stride, first), len(self.fields)), np.float32)

    def _never_written(self) -> Collection[int]:
        """Rows whose values are not all in the file."""
        return ()

    @final
    def _check_rows(self, rows: Rows) -> None:
        """Raises UserError ``row_out_of_range``, ``never_written``."""
        unwritten = self._never_written()
        for row in rows:
            if not 0 <= row < self.n_trajectories:
                raise UserError(
                    "row_out_of_range",
                    f"{self.path.name} has no trajectory {row}",
                    expected=f"0 to {self.n_trajectories - 1}",
                )
            if row in unwritten:
                raise UserError("never_written", f"trajectory {row} cannot be read: {NEVER_WRITTEN}")


LISTED_ROWS = 8
"""Rows that a sentence names."""


class LeftOut(BaseModel):
    """Rows of a file that are not used, by their numbers in the file, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class RowNumbers:
    """The numbers that rows of a source have in their file, where some rows of the file are left out.

    Attributes:
        numbers: (N,) the number in the file of each row of the source.
        left_out: number in the file -> why that row is not in the source.
        unrecorded: rows that an earlier version left out without saying which, all behind the last of `left_out`:
            numbers from there on are not known.
    """

    numbers: NDArray[np.int64]
    left_out: Mapping[int, str] = field(default_factory=dict)
    unrecorded: int = 0

    @classmethod
    def without(cls, left_out: Mapping[int, str], count: int, unrecorded: int = 0) -> Self:
        """Those of `count` rows that are what a file holds beside `left_out`."""
        kept = np.ones(count + len(left_out), bool)
        kept[[row for row in left_out if row < len(kept)]] = False
        return cls(np.flatnonzero(kept).astype(np.int64), left_out, unrecorded)

    def chosen(self, places: NDArray[np.int64], left_out: Mapping[int, str] | None = None) -> "RowNumbers":
        """Those of some rows of the source; `left_out`, by place in the source, joins what was left out before."""
        more = {int(self.numbers[place]): reason for place, reason in (left_out or {}).items()}
        return RowNumbers(self.numbers[places], {**self.left_out, **more}, self.unrecorded)

    def place(self, number: int, name: str) -> int:
        """Where the row with this number stands in the source.

        Raises:
            UserError: ``unusable_row`` where it was left out, ``row_out_of_range``, or ``unknown_row``.
        """
        if number in self.left_out:
            raise unusable_row(number, name, self.left_out[number])
        if self.unrecorded and number > max(self.left_out, default=-1):
            raise UserError(
                "unknown_row",
                f"an earlier version left {self.unrecorded} trajectories of {name} out without recording which",
                got=number,
                hint="upload the file again",
            )
        found = np.flatnonzero(self.numbers == number)
        if not len(found):
            total = len(self.numbers) + len(self.left_out)
            raise UserError(
                "row_out_of_range", f"{name} has no trajectory {number}", got=number, expected=f"0 to {total - 1}"
            )
        return int(found[0])


def unusable_row(number: int, name: str, reason: str) -> UserError:
    return UserError(
        "unusable_row", f"trajectory {number} of {name} cannot be used: {reason}", got=number, hint="choose another one"
    )


def grouped(left_out: Mapping[int, str]) -> tuple[LeftOut, ...]:
    """The rows of each reason together, in order."""
    rows: dict[str, list[int]] = {}
    for number, reason in sorted(left_out.items()):
        rows.setdefault(reason, []).append(number)
    return tuple(LeftOut(reason=reason, rows=tuple(numbers)) for reason, numbers in rows.items())


def rows_text(rows: Sequence[int]) -> str:
    """`row 3`, or `rows 2, 4, 5`, the first few."""
    first = ", ".join(map(str, rows[:LISTED_ROWS]))
    more = f" and {len(rows) - LISTED_ROWS} more" if len(rows) > LISTED_ROWS else ""
    return f"row{'' if len(rows) == 1 else 's'} {first}{more}"


def by_row(groups: Iterable[LeftOut]) -> dict[int, str]:
    """Number in the file -> reason."""
    return {row: group.reason for group in groups for row in group.rows}


def coefficient_faults(family: Family, table: NDArray[np.float64]) -> dict[int, str]:
    """Row -> what is wrong with its coefficients (N, K): not finite, or outside the physical domain."""
    faults: dict[int, str] = {}
    for coefficient, column in zip(family.coefficients, table.T, strict=True):
        low, high = coefficient.domain
        inside = np.isfinite(column) & ((column > low) if coefficient.low_open else (column >= low)) & (column <= high)
        for row in np.flatnonzero(~inside).tolist():
            faults.setdefault(row, f"its coefficient {coefficient.name} is {column[row]:g}, outside its domain")
    return faults


def place_of(source: TrajectorySource, number: int, name: str) -> int:
    """Where the row that the file calls `number` stands in `source`.

    Raises:
        UserError: ``unusable_row`` or ``row_out_of_range``.
    """
    place = source.row_numbers.place(number, name)
    if place in source.row_faults:
        raise unusable_row(number, name, source.row_faults[place])
    return place


def summary(left_out: Mapping[int, str]) -> list[dict[str, Any]]:
    """`grouped` as plain JSON values, for reports."""
    return [group.model_dump(mode="json") for group in grouped(left_out)]


def pieces(
    source: Readable, bytes_at_most: int = BLOCK_BYTES, progress: RowProgress | None = None
) -> Iterator[tuple[range, slice, NDArray[np.float32]]]:
    """All values in order, as (rows, frames, values (n, F, X..., C)) of bounded size, however large a row is.

    Rows whole where they fit, else one row in several pieces; both aligned with the file's chunks.
    """
    for rows in block_rows(source, bytes_at_most):
        for frames in frame_slices(source, bytes_at_most) if len(rows) == 1 else (slice(0, len(source.times)),):
            yield rows, frames, source.read(rows, frames)
        if progress is not None:
            progress(rows.stop, source.n_trajectories)


def static_pieces(source: Readable) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The static fields (X..., S), row by row."""
    for row in range(source.n_trajectories if source.static_fields else 0):
        static = source.read_static([row])
        if static is not None:
            yield row, static[0]


def frame_slices(source: Readable, bytes_at_most: int = BLOCK_BYTES) -> Iterator[slice]:
    """The frames of one row in slices of bounded size."""
    count = max(1, bytes_at_most // (4 * int(np.prod(source.grid.n)) * len(source.fields)))
    if count > source.chunk_frames:
        count -= count % source.chunk_frames
    for start in range(0, len(source.times), count):
        yield slice(start, min(start + count, len(source.times)))


def blocks(source: Readable, bytes_at_most: int = BLOCK_BYTES) -> Iterator[tuple[range, NDArray[np.float32]]]:
    """All rows in order, in blocks (rows, values (n, T, X..., C)) of bounded size, aligned with the file's chunks."""
    for rows in block_rows(source, bytes_at_most):
        yield rows, source.read(rows)


def block_rows(source: Readable, bytes_at_most: int = BLOCK_BYTES) -> Iterator[range]:
    """The rows of each block."""
    row_bytes = 4 * len(source.times) * int(np.prod(source.grid.n)) * len(source.fields)
    count = max(1, bytes_at_most // row_bytes)
    if count > source.chunk_rows:
        count -= count % source.chunk_rows
    for start in range(0, source.n_trajectories, count):
        yield range(start, min(start + count, source.n_trajectories))
