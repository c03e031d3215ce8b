"""The checker of trajectory files, for the command line, uploads and tests."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ups_server.data.report import AxisReport, CheckReport, DatasetReport, FieldReport, report_text
from ups_server.data.source import TrajectorySource, block_rows, frame_slices, matching, open_source
from ups_server.data.statistics import Moments
from ups_server.data.windows import frame_stride
from ups_server.errors import UserError
from ups_server.pde.described import describe
from ups_server.pde.family import Family, Field

__all__ = ["CheckReport", "check_file", "check_source", "report_text"]

SHOWN_ROWS = 8
PIECE = 2**20
NEGATIVE = 1e-5
"""How far below zero, relative to its largest value, a positive field may round."""


def check_file(path: str | os.PathLike[str], family: str | None = None) -> CheckReport:
    """Read all of a file, in constant memory, and report.

    Raises:
        UserError: where the file is no readable file of trajectories of a known family at all.
    """
    file = Path(path)
    source = open_source(file, family)
    try:
        return check_source(file, source)[0]
    finally:
        source.close()


def check_source(file: Path, source: TrajectorySource) -> tuple[CheckReport, frozenset[int]]:
    """The report of an open file, and the rows that cannot be used."""
    scan = _Scan(source, describe(source.family))
    return _report(file, source, scan), frozenset(scan.unusable)


class _Values:
    """What is known of the values of some fields after a pass over them."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = fields
        self.moments = [Moments(1) for _ in fields]
        self.not_finite = np.zeros(len(fields), np.int64)
        self.negative = np.zeros(len(fields), np.int64)

    def add(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Values (n, ..., C); returns which of the n rows can be used: finite, and not negative where that is wrong."""
        finite = np.isfinite(values)
        usable = _over_rows(finite)
        for channel, moments in enumerate(self.moments):
            good = values[..., channel][finite[..., channel]]
            self.not_finite[channel] += values[..., channel].size - good.size
            if not good.size:
                continue
            for start in range(
                0, good.size, PIECE
            ):  # Moments work in float64: a whole block would need eight times it.
                moments.add(good[start : start + PIECE])
            low = -NEGATIVE * np.abs(good).max()
            if self.fields[channel].positive and good.min() < low:
                self.negative[channel] += int((good < low).sum())
                usable &= _over_rows(~(values[..., channel] < low))
        return usable

    def problems(self) -> Iterator[str]:
        for field, count in zip(self.fields, self.not_finite.tolist(), strict=True):
            if count:
                yield f"{field.name} holds {count} values that are not finite"
        for field, count in zip(self.fields, self.negative.tolist(), strict=True):
            if field.positive and count:
                yield f"{field.name} must not be negative and is at {count} points"

    def reports(self) -> Iterator[FieldReport]:
        for field, moments, bad in zip(self.fields, self.moments, self.not_finite.tolist(), strict=True):
            known = moments.count > 0
            yield FieldReport(
                name=field.name,
                unit=field.unit,
                min=float(moments.low[0]) if known else None,
                max=float(moments.high[0]) if known else None,
                mean=float(moments.mean[0]) if known else None,
                std=float(moments.std[0]) if known else None,
                not_finite=bad,
            )


class _Scan:
    """One pass over the values of a file, in pieces of bounded size."""

    def __init__(self, source: TrajectorySource, family: Family) -> None:
        self.source = source
        self.values = _Values(family.fields)
        self.static = _Values(family.static_fields)
        self.unusable: list[int] = []
        self.still = 0
        self.failures: list[str] = []
        for rows in block_rows(source):
            self._read(rows)

    def _read(self, rows: range) -> None:
        """Add a block; where it cannot be read, find the rows that can."""
        whole, still = np.ones(len(rows), bool), np.full(len(rows), len(self.source.times) > 1)
        try:
            static = self.source.read_static(rows)
            start: NDArray[np.float32] | None = None
            for values in self._parts(rows):
                start = values[:, :1] if start is None else start
                still &= _over_rows(np.equal(values, start))
                whole &= self.values.add(values)
        except UserError as error:
            if len(rows) > 1:
                for row in rows:
                    self._read(range(row, row + 1))
                return
            self.unusable.append(rows.start)
            self.failures.append(str(error))
            return
        if static is not None:
            whole &= self.static.add(static)
        self.unusable += [rows[int(index)] for index in np.flatnonzero(~whole)]
        self.still += int(still.sum())

    def _parts(self, rows: range) -> Iterator[NDArray[np.float32]]:
        if len(rows) > 1:  # Whole rows of several are read at once: a failure adds nothing.
            yield self.source.read(rows)
        else:
            yield from (self.source.read(rows, frames) for frames in frame_slices(self.source))

    def problems(self) -> Iterator[str]:
        if self.failures:
            yield f"{len(self.failures)} trajectories cannot be read, the first because {self.failures[0]}"
        yield from self.values.problems()
        yield from self.static.problems()

    def warnings(self) -> Iterator[str]:
        if self.still:
            yield f"{self.still} trajectories do not change in time"


def _over_rows(truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether all is true, a row."""
    return np.asarray(truth.reshape(len(truth), -1).all(axis=1))


def _report(file: Path, source: TrajectorySource, scan: _Scan) -> CheckReport:
    family = describe(source.family)
    coefficients, failure = _coefficient_ranges(source)
    dt, doubts = _time_step(source, family)
    layout, datasets = _storage(source)
    offsets = [offset for offset in source.grid.offset if offset != 0.5]
    if offsets:
        doubts.append(f"the grid is an integer-stride subsample: its first point lies {offsets[0]:.4g} spacings inside")
    return CheckReport(
        file=str(file),
        bytes=_bytes(file),
        layout=layout,
        family=family.id,
        equation=family.equation,
        coefficients=coefficients,
        axes=tuple(
            AxisReport(n=n, low=low, high=high, spacing=spacing, offset=offset)
            for n, (low, high), spacing, offset in zip(
                source.grid.n, source.grid.extent, source.grid.spacing, source.grid.offset, strict=True
            )
        ),
        frames=len(source.times),
        t_first=float(source.times[0]),
        t_last=float(source.times[-1]),
        dt=dt,
        datasets=datasets,
        fields=tuple(scan.values.reports()),
        static_fields=tuple(scan.static.reports()),
        trajectories=source.n_trajectories,
        usable=source.n_trajectories - len(scan.unusable),
        unusable_rows=tuple(scan.unusable[:SHOWN_ROWS]),
        problems=(*([failure] if failure else []), *scan.problems()),
        warnings=(*doubts, *scan.warnings()),
    )


def _coefficient_ranges(source: TrajectorySource) -> tuple[dict[str, tuple[float, float]], str | None]:
    try:
        table = source.coefficients
    except UserError as error:
        return {}, str(error)
    ranges = {
        name: (float(table[:, column].min()), float(table[:, column].max()))
        for column, name in enumerate(source.coefficient_names)
    }
    return ranges, None


def _time_step(source: TrajectorySource, family: Family) -> tuple[float | None, list[str]]:
    if family.t_final == 0.0:
        return None, []
    if len(source.times) < 2:
        return None, ["there is one frame only: no time step to learn"]
    dt = float(source.times[-1] - source.times[0]) / (len(source.times) - 1)
    try:
        frame_stride(source.times, dt)
    except UserError as error:
        return None, [str(error)]
    try:
        frame_stride(source.times, family.dt)
    except UserError:
        return dt, [f"the frames, {dt:.6g} apart, do not divide the family's step {family.dt:g}"]
    return dt, []


def _bytes(file: Path) -> int:
    parts = matching(file) or [file]
    return sum(
        part.stat().st_size
        for whole in parts
        for part in ([whole] if whole.is_file() else whole.rglob("*"))
        if part.is_file()
    )


def _storage(source: TrajectorySource) -> tuple[str, tuple[DatasetReport, ...]]:
    from ups_server.data.pdebench.reading import PdebenchSource

    if isinstance(source, PdebenchSource):
        found = source.datasets()
        return source.layout, tuple(
            DatasetReport(name=d.name, shape=d.shape, dtype=str(d.dtype), chunks=d.chunks) for d in found
        )
    shape = (source.n_trajectories, len(source.times), *source.grid.n, len(source.fields))
    return source.layout, (DatasetReport(name="values", shape=shape, dtype="float32"),)
