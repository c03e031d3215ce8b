"""Formats that are written and not read here: safetensors and JSON."""

import json
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats.base import Exporter, Header
from ups_server.data.source import Readable, RowProgress, pieces, static_pieces

ALIGNMENT = 8
"""Bytes: the header ends at a multiple."""


class SafetensorsExporter(Exporter):
    """Tensors `data`, `times`, `x`, ..., `static`; the header as JSON in the metadata entry `header`.

    The library writes what lies in memory whole; this writes the same container piece by piece.
    """

    format = "safetensors"
    suffixes = (".safetensors",)
    media_type = "application/vnd.safetensors"

    def write(
        self, target: Path | BinaryIO, header: Header, values: Readable, progress: RowProgress | None = None
    ) -> None:
        small = {"times": header.times, **header.axes()}
        shapes = [(name, "F64", array.shape, 8) for name, array in small.items()]
        if values.static_fields:
            shapes.append(("static", "F32", (header.count, *header.grid.n, len(values.static_fields)), 4))
        shapes.append(("data", "F32", header.shape, 4))
        entries: dict[str, Any] = {"__metadata__": {"header": json.dumps(header.document())}}
        offset = 0
        for name, dtype, shape, size in shapes:
            end = offset + size * math.prod(shape)
            entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        with _stream(target) as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for array in small.values():
                stream.write(np.ascontiguousarray(array, "<f8").data)
            for _, static in static_pieces(values):
                stream.write(np.ascontiguousarray(static, "<f4").data)
            for _, _, block in pieces(values, progress=progress):
                stream.write(np.ascontiguousarray(block, "<f4").data)


@contextmanager
def _stream(target: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(target, Path):
        with target.open("wb") as stream:
            yield stream
    else:
        yield target


class JsonExporter(Exporter):
    """The header with the values as nested lists `data` ([B,] T, X..., C), `static` too. Small results only.

    Values that are not finite become null: JSON has no other word.
    """

    format = "json"
    suffixes = (".json",)
    media_type = "application/json"

    def write(
        self, target: Path | BinaryIO, header: Header, values: Readable, progress: RowProgress | None = None
    ) -> None:
        data = values.read(range(header.count)).reshape(header.shape)
        document = {**header.document(), "data": plain(data)}
        if (static := values.read_static(range(header.count))) is not None:
            document["static"] = plain(static)
        content = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
        with _stream(target) as stream:
            stream.write(content)


def plain(values: NDArray[np.float32]) -> list[Any]:
    """Nested lists of numbers and nulls."""
    finite = np.isfinite(values)
    if finite.all():
        return list(values.tolist())
    boxed = values.astype(object)
    boxed[~finite] = None
    return list(boxed.tolist())
