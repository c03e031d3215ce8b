"""Output formats: one exporter class each. A new format is one file and one line here."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ups_server.data.atomic import replacing
from ups_server.data.exporters.base import Coefficients, Exporter, Header
from ups_server.data.exporters.json_text import JsonExporter
from ups_server.data.exporters.netcdf import NetcdfExporter
from ups_server.data.exporters.npz import NpzExporter
from ups_server.data.exporters.pdebench_file import PdebenchExporter
from ups_server.data.exporters.safetensors_file import SafetensorsExporter
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import Grid, Trajectory
from ups_server.pde.registry import family as registered

__all__ = ["EXPORTERS", "FORMATS", "MEDIA_TYPES", "Exporter", "Header", "encode", "export", "format_of"]

FORMATS: dict[str, type[Exporter]] = {
    exporter.format: exporter
    for exporter in (SafetensorsExporter, NpzExporter, NetcdfExporter, PdebenchExporter, JsonExporter)
}
"""By name; the first is the default binary format."""

EXPORTERS: dict[str, type[Exporter]] = {
    suffix: exporter for exporter in FORMATS.values() for suffix in exporter.suffixes
}
"""By file suffix."""

MEDIA_TYPES: dict[str, str] = {exporter.media_type: name for name, exporter in FORMATS.items()}
"""Media type -> format."""


def format_of(path: str | Path) -> str:
    """The format a file name's suffix asks for.

    Raises:
        UserError: ``unknown_format``.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in EXPORTERS:
        raise UserError(
            "unknown_format", f"no format writes {suffix or 'files without a suffix'}", expected=list(EXPORTERS)
        )
    return EXPORTERS[suffix].format


def encode(
    format: str,
    values: NDArray[np.floating[Any]],
    times: NDArray[np.float64],
    family: Family,
    grid: Grid,
    coefficients: Coefficients,
    attributes: Mapping[str, Any] | None = None,
    batched: bool = True,
) -> bytes:
    """Trajectories (B, T, X..., C) as the bytes of a file.

    Args:
        batched: False drops the trajectory axis of a single trajectory (HDF5 always has one).

    Raises:
        UserError: ``unknown_format`` or ``wrong_shape``.
    """
    buffer = BytesIO()
    header = Header(family, grid, np.asarray(times), coefficients, len(values), attributes or {}, batched)
    _write(buffer, _exporter(format), header, values)
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
    values = np.stack([trajectory.values for trajectory in batch])
    if not isinstance(target, str | Path):
        _write(target, _exporter(format or "safetensors"), header, values)
        return
    chosen = _exporter(format or format_of(target))
    with replacing(Path(target)) as partial:
        _write(partial, chosen, header, values)


def _exporter(format: str) -> type[Exporter]:
    if format not in FORMATS:
        raise UserError("unknown_format", f"there is no format {format}", got=format, expected=list(FORMATS))
    return FORMATS[format]


def _write(
    target: Path | BinaryIO, exporter: type[Exporter], header: Header, values: NDArray[np.floating[Any]]
) -> None:
    with exporter(target, header) as opened:
        for step in range(values.shape[1]):
            opened.write_step(values[:, step])
