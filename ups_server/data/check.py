"""The checker of trajectory files, for the command line, uploads and tests."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from ups_server.data.composed import Subset
from ups_server.data.formats import matching, open_source
from ups_server.data.mapping import Mapping as ArrayMapping
from ups_server.data.probe import probe
from ups_server.data.remote import address_of
from ups_server.data.scan import Scan, ScannedValues
from ups_server.data.source import LISTED_ROWS, LeftOut, TrajectorySource, grouped, rows_text
from ups_server.data.windows import frame_stride
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.registry import known_family

FROZEN = ConfigDict(frozen=True, extra="forbid")


class AxisReport(BaseModel):
    """A spatial axis; `offset` is the place of the first point in spacings (0.5: cell-centred)."""

    model_config = FROZEN

    n: int
    low: float
    high: float
    spacing: float
    offset: float


class DatasetReport(BaseModel):
    """How values are stored."""

    model_config = FROZEN

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...] | None = None


class FieldReport(BaseModel):
    """The values of one field over the whole file; numbers of the finite ones."""

    model_config = FROZEN

    name: str
    unit: str
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    not_finite: int


class CheckReport(BaseModel):
    """What a file holds and whether it can be used.

    Attributes:
        guessed_from: what alone suggests the family, where neither the user nor the file say it.
        coefficients: name -> (lowest, highest) over the trajectories.
        dt: spacing of the frames, None where they are not equally spaced.
        sampled: trajectories that were looked at, where these are not all: values, `usable` and `left_out` are theirs.
        usable: trajectories that were read whole and hold finite values only, none negative where that is wrong.
        unusable_rows: the first of the others.
        left_out: all of the others by reason, the first thousand of each.
        problems: what keeps trajectories from being used; one sentence each.
        warnings: what a user should know.
    """

    model_config = FROZEN

    file: str
    bytes: int
    layout: str
    family: str
    guessed_from: str | None = None
    equation: str
    coefficients: dict[str, tuple[float, float]]
    axes: tuple[AxisReport, ...]
    frames: int
    t_first: float
    t_last: float
    dt: float | None
    datasets: tuple[DatasetReport, ...]
    fields: tuple[FieldReport, ...]
    static_fields: tuple[FieldReport, ...] = ()
    trajectories: int
    sampled: int | None = None
    usable: int
    unusable_rows: tuple[int, ...]
    left_out: tuple[LeftOut, ...] = ()
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def report_text(report: CheckReport) -> str:
    """The report for a person."""
    return "\n".join(_lines(report))


def _lines(report: CheckReport) -> Iterator[str]:
    coefficients = ", ".join(
        f"{name} = {low:g}" if low == high else f"{name} = {low:g} to {high:g}"
        for name, (low, high) in report.coefficients.items()
    )
    spacing = "not equally spaced" if report.dt is None else f"{report.dt:g} apart"
    size = "" if address_of(report.file) else f"{report.bytes / 1e6:.1f} MB, "
    yield f"{report.file}  ({size}{report.layout})"
    yield f"  family        {report.family}: {report.equation}{'' if report.guessed_from is None else ' (guessed)'}"
    yield f"  coefficients  {coefficients or 'none'}"
    for axis, name in zip(report.axes, "xyz", strict=False):
        place = f"{axis.n} points on [{axis.low:g}, {axis.high:g}], first at {axis.offset:g} spacings"
        yield f"  {name}             {place}"
    if report.frames == 1:
        yield f"  time          one frame, t = {report.t_first:g}"
    else:
        yield f"  time          {report.frames} frames, t = {report.t_first:g} to {report.t_last:g}, {spacing}"
    for stored in report.datasets:
        yield f"  stored        {stored.name} {stored.shape} {stored.dtype}"
    for word, fields in (("field ", report.fields), ("static", report.static_fields)):
        for field in fields:
            if field.min is None:
                yield f"  {word}        {field.name}: no finite value"
            else:
                yield f"  {word}        {field.name}: {field.min:.4g} to {field.max:.4g}, mean {field.mean:.4g}"
    looked_at = "" if report.sampled is None else f", {report.sampled} of them looked at"
    yield f"  trajectories  {report.trajectories}{looked_at}, {report.usable} usable"
    for group in report.left_out:
        yield f"  left out      {rows_text(group.rows)}: {group.reason}"
    for sentence in report.problems:
        yield f"  problem       {sentence}"
    for sentence in report.warnings:
        yield f"  note          {sentence}"
    yield "  ok" if report.ok else "  NOT ok"


SMALL_BYTES, PROBE_S = 2**28, 20.0
"""Files up to this size are compared with the reference solver without being asked, for so long at most."""
LARGE_BYTES, SAMPLE_BYTES, SAMPLED_ROWS = 2**32, 2**28, (3, 64)
"""Of files with more values than the first, rows that hold about the second are read, so many at least and at most."""
REPORTED_ROWS, REPORTED_REASONS = 1000, 100
"""Rows of one reason, and reasons, that a report lists at most."""


def check_file(
    path: str | os.PathLike[str],
    family: str | None = None,
    coefficients: Mapping[str, float] | None = None,
    probed: bool | None = None,
    mapping: ArrayMapping | None = None,
    whole: bool = True,
) -> CheckReport:
    """Read all of a file, in constant memory, and report.

    Args:
        family: its id, needed where the file does not say.
        coefficients: needed where the file does not say.
        probed: compare a few rows with the reference solver (see `data.probe`); default: where the file is small.
        mapping: what the file's arrays mean (see `data.mapping`).
        whole: False: of a large file only some rows, evenly spaced; the report says so.

    Raises:
        UserError: where the file is no readable file of trajectories of a known family at all.
    """
    file = Path(path)
    source = open_source(file, family, coefficients, mapping)
    try:
        small = 0 < _bytes(file) <= SMALL_BYTES
        probe_s = PROBE_S if probed or (probed is None and small) else 0.0
        row_bytes = 4 * len(source.times) * math.prod(source.grid.n) * len(source.fields)
        if whole or row_bytes * source.n_trajectories <= LARGE_BYTES:
            return check_source(file, source, probe_s)[0]
        return _sampled(file, source, row_bytes, PROBE_S if probed else 0.0)
    finally:
        source.close()


def _sampled(file: Path, source: TrajectorySource, row_bytes: int, probe_s: float) -> CheckReport:
    """The report of some rows of a large file, and of what is known of the others without reading them."""
    fewest, most = SAMPLED_ROWS
    count = min(source.n_trajectories, max(fewest, min(most, SAMPLE_BYTES // row_bytes)))
    rows = np.unique(np.linspace(0, source.n_trajectories - 1, count).round().astype(np.int64)).tolist()
    report, _ = check_source(file, Subset(source, rows), probe_s)
    others = [reason for row, reason in source.row_faults.items() if row not in set(rows)]
    problems = [f"{len(others)} trajectories not looked at cannot be used, the first: {others[0]}"] if others else []
    note = f"the values are those of {len(rows)} trajectories of {source.n_trajectories}; `--all` reads every one"
    return report.model_copy(
        update={
            "trajectories": source.n_trajectories,
            "sampled": len(rows),
            "problems": (*report.problems, *problems),
            "warnings": (*report.warnings, note),
        }
    )


def check_source(file: Path, source: TrajectorySource, probe_s: float = 0.0) -> tuple[CheckReport, dict[int, str]]:
    """The report of an open file, and the rows that cannot be used, with the reason.

    Args:
        probe_s: seconds for the comparison of a few rows with the reference solver; 0: none.
    """
    scan = Scan(source, known_family(source.family))
    report = _report(file, source, scan)
    if probe_s and not any(scan.values.warnings()):
        rows = [row for row in range(source.n_trajectories) if row not in scan.unusable]
        report = report.model_copy(update={"warnings": (*report.warnings, *probe(source, rows, probe_s))})
    return report, scan.unusable


def _report(file: Path, source: TrajectorySource, scan: Scan) -> CheckReport:
    family = known_family(source.family)
    left_out = source.row_numbers.chosen(np.arange(source.n_trajectories), scan.unusable).left_out
    dt, doubts = _time_step(source, family)
    offsets = [offset for offset in source.grid.offset if offset not in (0.0, 0.5)]
    if offsets:
        doubts.append(f"the grid is an integer-stride subsample: its first point lies {offsets[0]:.4g} spacings inside")
    return CheckReport(
        file=address_of(file) or str(file),
        bytes=_bytes(file),
        layout=source.layout,
        family=family.id,
        guessed_from=source.guessed_from,
        equation=family.equation,
        coefficients=_coefficient_ranges(source),
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
        datasets=tuple(
            DatasetReport(name=stored.name, shape=stored.shape, dtype=stored.dtype, chunks=stored.chunks)
            for stored in source.datasets()
        ),
        fields=tuple(_field_reports(scan.values)),
        static_fields=tuple(_field_reports(scan.static)),
        trajectories=source.n_trajectories + len(source.row_numbers.left_out),
        usable=source.n_trajectories - len(scan.unusable),
        unusable_rows=tuple(sorted(left_out)[:LISTED_ROWS]),
        left_out=tuple(
            LeftOut(reason=group.reason, rows=group.rows[:REPORTED_ROWS])
            for group in grouped(left_out)[:REPORTED_REASONS]
        ),
        problems=tuple(scan.problems()),
        warnings=(*_guesses(source, family), *doubts, *scan.warnings()),
    )


def _field_reports(values: ScannedValues) -> Iterator[FieldReport]:
    for field, moments, bad in zip(values.fields, values.moments, values.not_finite.tolist(), strict=True):
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


def _guesses(source: TrajectorySource, family: Family) -> Iterator[str]:
    """What the report takes for granted though nobody says it."""
    if source.guessed_from is not None:
        yield f"the family {family.id} is guessed from {source.guessed_from}; if it is another, name it or its equation"
    for name in source.assumed:
        yield f"nothing says {name}: the default of {family.id} is assumed"


def _coefficient_ranges(source: TrajectorySource) -> dict[str, tuple[float, float]]:
    """(lowest, highest) of the finite ones."""
    finite = {
        name: column[np.isfinite(column)]
        for name, column in zip(source.coefficient_names, source.coefficients.T, strict=True)
    }
    return {name: (float(column.min()), float(column.max())) for name, column in finite.items() if column.size}


def _time_step(source: TrajectorySource, family: Family) -> tuple[float | None, list[str]]:
    if family.steady:
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
    """What is stored; 0 where that is not known without asking for every object of an address."""
    if address_of(file) is not None:
        return 0
    parts = matching(file) or [file]
    return sum(
        part.stat().st_size
        for whole in parts
        for part in ([whole] if whole.is_file() else whole.rglob("*"))
        if part.is_file()
    )
