"""A stored result as one file, in constant memory: the formats of the exporters, with the same content."""

import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.atomic import replacing
from ups_server.data.convert import CHUNK_BYTES, NetcdfTarget, write_npz
from ups_server.data.exporters.base import Header
from ups_server.data.exporters.pdebench_file import PdebenchExporter
from ups_server.data.zarr_steps import ZarrSteps, template
from ups_server.errors import UserError

ALIGNMENT = 8
"""Bytes: safetensors wants its header to end at a multiple."""


def write_file(steps: ZarrSteps, format: str, path: Path) -> None:
    """All frames as a file, which appears when it is whole.

    Raises:
        UserError: ``unknown_format``, or ``no_layout`` where PDEBench has none for the family.
    """
    if format not in WRITERS:
        raise UserError("unknown_format", f"no stored result is written as {format}", got=format, expected=[*WRITERS])
    with replacing(path) as partial:
        WRITERS[format](partial, steps.header, steps)


def _write_hdf5(path: Path, header: Header, steps: ZarrSteps) -> None:
    with PdebenchExporter(path, header) as exporter:
        for frame in range(len(header.times)):
            exporter.write_step(steps.rows(frame))


def _write_netcdf(path: Path, header: Header, steps: ZarrSteps) -> None:
    dataset = template(header)
    target = NetcdfTarget(path, dataset)
    try:
        for name, variable in dataset.variables.items():
            target.create(str(name), variable)
        for name, coordinate in dataset.coords.items():
            target.put(str(name), ..., np.asarray(coordinate.values))
        at_once = max(1, CHUNK_BYTES // (4 * math.prod(header.step_shape)))
        for first in range(0, len(header.times), at_once):
            frames = range(first, min(first + at_once, len(header.times)))
            values = np.stack([steps.rows(frame) for frame in frames], axis=1)
            span = slice(frames.start, frames.stop)
            for channel, field in enumerate(header.family.fields):
                where, chosen = ((slice(None), span), values) if header.batched else ((span,), values[0])
                target.put(field.name, where, chosen[..., channel])
    finally:
        target.file.close()


def _write_npz(path: Path, header: Header, steps: ZarrSteps) -> None:
    write_npz(path, header, {"data": (_shape(header), steps.in_order(len(header.times)))})


def _write_safetensors(path: Path, header: Header, steps: ZarrSteps) -> None:
    small = {"times": header.times, **header.axes()}
    entries: dict[str, Any] = {"__metadata__": {"header": json.dumps(header.document(header.times))}}
    offset = 0
    arrays: list[tuple[str, str, tuple[int, ...], int]] = [
        *((name, "F64", array.shape, 8) for name, array in small.items()),
        ("data", "F32", _shape(header), 4),
    ]
    for name, dtype, shape, size in arrays:
        end = offset + size * int(np.prod(shape))
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for array in small.values():
            stream.write(np.ascontiguousarray(array, "<f8").tobytes())
        for state in _bytes(steps.in_order(len(header.times))):
            stream.write(state)


def _shape(header: Header) -> tuple[int, ...]:
    whole = (header.count, len(header.times), *header.grid.n, len(header.family.fields))
    return whole if header.batched else whole[1:]


def _bytes(states: Iterator[NDArray[np.float32]]) -> Iterator[bytes]:
    return (np.ascontiguousarray(state, "<f4").tobytes() for state in states)


WRITERS: dict[str, Callable[[Path, Header, ZarrSteps], None]] = {
    "safetensors": _write_safetensors,
    "npz": _write_npz,
    "netcdf": _write_netcdf,
    "hdf5": _write_hdf5,
}
"""By the names of the exporters."""
