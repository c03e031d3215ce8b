"""NumPy's zip of arrays: `data`, `times`, `x`, ... and the header as JSON text `header`. No object arrays."""

import json
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.exporters.base import WholeExporter


class NpzExporter(WholeExporter):
    format = "npz"
    suffixes = (".npz",)
    media_type = "application/x-npz"

    def encode(self, values: NDArray[np.float32], times: NDArray[np.float64]) -> bytes:
        arrays: dict[str, NDArray[Any]] = {"data": values, "times": times, **self.header.axes()}
        buffer = BytesIO()
        np.savez(buffer, allow_pickle=False, header=np.array(json.dumps(self.header.document(times))), **arrays)
        return buffer.getvalue()
