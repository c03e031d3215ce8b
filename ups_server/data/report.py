"""What the checker says about a file."""

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from ups_server.data.source import LeftOut

SHOWN_ROWS = 8
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
    yield f"{report.file}  ({report.bytes / 1e6:.1f} MB, {report.layout})"
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
    yield f"  trajectories  {report.trajectories}, {report.usable} usable"
    for group in report.left_out:
        yield f"  left out      {rows_text(group.rows)}: {group.reason}"
    for sentence in report.problems:
        yield f"  problem       {sentence}"
    for sentence in report.warnings:
        yield f"  note          {sentence}"
    yield "  ok" if report.ok else "  NOT ok"


def rows_text(rows: Sequence[int]) -> str:
    """`row 3`, or `rows 2, 4, 5`, the first few."""
    shown = ", ".join(map(str, rows[:SHOWN_ROWS]))
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    return f"row{'' if len(rows) == 1 else 's'} {shown}{more}"
