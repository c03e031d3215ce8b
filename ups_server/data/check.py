"""The checker of trajectory files, for the command line, uploads and tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ups_server.data.report import AxisReport, CheckReport, DatasetReport, FieldReport, report_text
from ups_server.data.source import TrajectorySource, block_rows, open_source
from ups_server.data.statistics import Moments
from ups_server.data.windows import frame_stride
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.registry import family as registered

__all__ = ["CheckReport", "check_file", "report_text"]

SHOWN_ROWS = 8
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
        return _report(file, source)
    finally:
        source.close()


class _Scan:
    """One pass over the values."""

    def __init__(self, source: TrajectorySource, family: Family) -> None:
        self.family = family
        self.moments = [Moments(1) for _ in source.fields]
        self.not_finite = np.zeros(len(source.fields), np.int64)
        self.negative = np.zeros(len(source.fields), np.int64)
        self.unusable: list[int] = []
        self.still = 0
        self.failures: list[str] = []
        for rows in block_rows(source):
            self._read(source, rows)

    def _read(self, source: TrajectorySource, rows: range) -> None:
        """Add a block; where it cannot be read, find the rows that can."""
        try:
            values = source.read(rows)
        except UserError as error:
            if len(rows) > 1:
                for row in rows:
                    self._read(source, range(row, row + 1))
                return
            self.unusable.append(rows.start)
            self.failures.append(str(error))
        else:
            self._add(rows, values)

    def _add(self, rows: range, values: NDArray[np.float32]) -> None:
        finite = np.isfinite(values)
        whole = finite.all(axis=tuple(range(1, values.ndim)))
        self.unusable += [rows[int(index)] for index in np.flatnonzero(~whole)]
        self.still += int((values == values[:, :1]).all(axis=tuple(range(1, values.ndim))).sum())
        for channel, moments in enumerate(self.moments):
            good = values[..., channel][finite[..., channel]]
            self.not_finite[channel] += values[..., channel].size - good.size
            self.negative[channel] += int((good < -NEGATIVE * np.abs(good).max(initial=0.0)).sum())
            if good.size:
                moments.add(good)

    def problems(self) -> Iterator[str]:
        if self.failures:
            yield f"{len(self.failures)} trajectories cannot be read, the first because {self.failures[0]}"
        for name, count in zip(self._names(), self.not_finite.tolist(), strict=True):
            if count:
                yield f"{name} holds {count} values that are not finite"
        for field, count in zip(self.family.fields, self.negative.tolist(), strict=True):
            if field.positive and count:
                yield f"{field.name} must not be negative and is at {count} points"

    def warnings(self) -> Iterator[str]:
        if self.still:
            yield f"{self.still} trajectories do not change in time"

    def fields(self) -> Iterator[FieldReport]:
        for field, moments, bad in zip(self.family.fields, self.moments, self.not_finite.tolist(), strict=True):
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

    def _names(self) -> list[str]:
        return [field.name for field in self.family.fields]


def _report(file: Path, source: TrajectorySource) -> CheckReport:
    family = registered(source.family)
    scan = _Scan(source, family)
    coefficients, failure = _coefficient_ranges(source)
    dt, doubts = _time_step(source, family)
    layout, datasets = _storage(source)
    offsets = [offset for offset in source.grid.offset if offset != 0.5]
    if offsets:
        doubts.append(f"the grid is an integer-stride subsample: its first point lies {offsets[0]:.4g} spacings inside")
    return CheckReport(
        file=str(file),
        bytes=sum(part.stat().st_size for part in ([file] if file.is_file() else file.iterdir())),
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
        fields=tuple(scan.fields()),
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


def _storage(source: TrajectorySource) -> tuple[str, tuple[DatasetReport, ...]]:
    from ups_server.data.pdebench.reading import PdebenchSource

    if isinstance(source, PdebenchSource):
        found = source.datasets()
        return source.layout, tuple(
            DatasetReport(name=d.name, shape=d.shape, dtype=str(d.dtype), chunks=d.chunks) for d in found
        )
    shape = (source.n_trajectories, len(source.times), *source.grid.n, len(source.fields))
    return "transcoded store", (DatasetReport(name="values", shape=shape, dtype="float32"),)
