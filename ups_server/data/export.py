"""Writing trajectories in any of the formats: to a file, a folder or bytes; in constant memory."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ups_server.data.atomic import replacing
from ups_server.data.formats import exporters
from ups_server.data.formats.base import CoefficientValues, Exporter, Header, InMemory
from ups_server.data.source import Readable, RowProgress, TrajectorySource
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import Grid, Trajectory
from ups_server.pde.registry import family as registered
from ups_server.pde.registry import known_family


def suffixes() -> dict[str, Exporter]:
    """The exporters by file suffix."""
    return {suffix: exporter for exporter in exporters().values() for suffix in exporter.suffixes}


def media_types() -> dict[str, str]:
    """Media type -> format, of those that write bytes."""
    return {found.media_type: name for name, found in exporters().items() if found.media_type is not None}


def exporter_of(path: str | Path) -> Exporter:
    """The exporter that a file name's suffix asks for.

    Raises:
        UserError: ``unknown_format``.
    """
    suffix, known = Path(path).suffix.lower(), suffixes()
    if suffix not in known:
        raise UserError(
            "unknown_format", f"no format writes {suffix or 'files without a suffix'}", expected=list(known)
        )
    return known[suffix]


def media_type_of(path: str | Path) -> str:
    """The media type that a file name's suffix asks for.

    Raises:
        UserError: ``unknown_format``, for folders too.
    """
    found = exporter_of(path)
    if found.media_type is None:
        raise UserError("unknown_format", f"{found.format} is no single file", expected=list(media_types().values()))
    return found.media_type


def write_file(
    path: Path, header: Header, values: Readable, format: str | None = None, progress: RowProgress | None = None
) -> None:
    """Write all of `values`, in constant memory; the file or folder appears when it is whole.

    Args:
        format: default: what the suffix of `path` asks for.

    Raises:
        UserError: ``unknown_format``, ``file_exists`` (a folder), and those of the exporter and of reading.
    """
    exporter = exporter_of(path) if format is None else _exporter(format)
    if path.is_dir():
        raise UserError("file_exists", f"{path} exists", hint="delete it, or choose another path")
    with (_replacing_folder if exporter.media_type is None else replacing)(path) as partial:
        exporter.write(partial, header, values, progress)


def encode(
    format: str,
    values: NDArray[np.floating[Any]],
    times: NDArray[np.float64],
    family: Family,
    grid: Grid,
    coefficients: CoefficientValues,
    attributes: Mapping[str, Any] | None = None,
    batched: bool = True,
    static: NDArray[np.floating[Any]] | None = None,
) -> bytes:
    """Trajectories (B, T, X..., C) as the bytes of a file.

    Args:
        static: (B, X..., S), of families with static fields.
        batched: False drops the trajectory axis of a single trajectory (HDF5 always has one).

    Raises:
        UserError: ``unknown_format`` or ``wrong_shape``.
    """
    buffer = BytesIO()
    header = Header(family, grid, np.asarray(times), coefficients, len(values), attributes or {}, batched)
    _exporter(format).write(buffer, header, InMemory(header, values, static))
    return buffer.getvalue()


def export(
    trajectories: Trajectory | Sequence[Trajectory],
    target: str | Path | BinaryIO,
    format: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write one trajectory, or several on the same grid and times, to a file or binary stream.

    A single `Trajectory` is written without the trajectory axis, a sequence with it.

    Args:
        format: default: what the suffix of `target` asks for.

    Raises:
        UserError: ``unknown_format``, or ``ragged`` where the trajectories do not match.
    """
    batch = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    first = batch[0]
    for other in batch:
        same = (other.family, other.grid, other.boundary) == (first.family, first.grid, first.boundary)
        if not same or other.values.shape != first.values.shape or not np.array_equal(other.times, first.times):
            raise UserError("ragged", "trajectories in one file share family, grid, boundary and times")
    coefficients: dict[str, float | NDArray[np.float64]] = {
        name: np.array([trajectory.coefficients[name] for trajectory in batch]) for name in first.coefficients
    }
    header = Header(
        registered(first.family),
        first.grid,
        first.times,
        coefficients if len(batch) > 1 else dict(first.coefficients),
        len(batch),
        attributes or {},
        not isinstance(trajectories, Trajectory),
        first.boundary,
    )
    static = None if first.static is None else np.stack([_static(trajectory) for trajectory in batch])
    values = InMemory(header, np.stack([trajectory.values for trajectory in batch]), static)
    if isinstance(target, str | Path):
        write_file(Path(target), header, values, format)
    else:
        _exporter(format or "safetensors").write(target, header, values)


def _static(trajectory: Trajectory) -> NDArray[np.floating[Any]]:
    """Raises UserError ``ragged`` where other trajectories of the file have static fields and this one has none."""
    if trajectory.static is None:
        raise UserError("ragged", "trajectories in one file all have static fields, or none")
    return trajectory.static


def convert(
    source: TrajectorySource,
    target: str | os.PathLike[str],
    progress: RowProgress | None = None,
    format: str | None = None,
) -> Path:
    """Write all trajectories of `source` to a file, always with a trajectory axis; it appears when it is whole.

    Args:
        format: default: what the suffix of `target` asks for.

    Raises:
        UserError: ``unknown_format``, ``file_exists`` (a folder), ``no_layout``, ``unusable_file``,
            and those of reading.
    """
    path = Path(target)
    exporter = exporter_of(path) if format is None else _exporter(format)
    if source.row_faults:
        row, reason = next(iter(sorted(source.row_faults.items())))
        raise UserError("unusable_file", f"trajectory {row} cannot be copied: {reason}", got=len(source.row_faults))
    write_file(path, header_of(source), source, exporter.format, progress)
    return path


def header_of(source: TrajectorySource, family: Family | None = None) -> Header:
    """Everything about the trajectories of a source but their values; `family`: where this process does not know it."""
    return Header(
        family or known_family(source.family),
        source.grid,
        source.times,
        {name: source.coefficients[:, column] for column, name in enumerate(source.coefficient_names)},
        source.n_trajectories,
        boundary=source.boundary,
    )


def _exporter(format: str) -> Exporter:
    known = exporters()
    if format not in known:
        raise UserError("unknown_format", f"there is no format {format}", got=format, expected=list(known))
    return known[format]


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`; renamed on success, removed on failure."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
