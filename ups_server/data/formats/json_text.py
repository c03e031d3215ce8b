"""JSON: the header with the values as nested lists `data` ([B,] T, X..., C), `static` too. Small results only."""

import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats.base import Exporter, Header
from ups_server.data.source import Readable, RowProgress


class JsonExporter(Exporter):
    """Values that are not finite become null: JSON has no other word."""

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
        if isinstance(target, Path):
            target.write_bytes(content)
        else:
            target.write(content)


def plain(values: NDArray[np.float32]) -> list[Any]:
    """Nested lists of numbers and nulls."""
    finite = np.isfinite(values)
    if finite.all():
        return list(values.tolist())
    boxed = values.astype(object)
    boxed[~finite] = None
    return list(boxed.tolist())
