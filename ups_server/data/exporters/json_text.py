"""JSON: the header with the values as nested lists `data` ([B,] T, X..., C). Small results only."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.exporters.base import WholeExporter


class JsonExporter(WholeExporter):
    """Values that are not finite become null: JSON has no other word."""

    format = "json"
    suffixes = (".json",)
    media_type = "application/json"

    def encode(self, values: NDArray[np.float32], times: NDArray[np.float64]) -> bytes:
        document = {**self.header.document(times), "data": plain(values)}
        return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def plain(values: NDArray[np.float32]) -> list[Any]:
    """Nested lists of numbers and nulls."""
    finite = np.isfinite(values)
    if finite.all():
        return list(values.tolist())
    boxed = values.astype(object)
    boxed[~finite] = None
    return list(boxed.tolist())
