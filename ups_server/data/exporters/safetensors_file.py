"""safetensors: tensors `data`, `times`, `x`, ...; the header as JSON in the metadata entry `header`."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.exporters.base import WholeExporter


class SafetensorsExporter(WholeExporter):
    format = "safetensors"
    suffixes = (".safetensors",)
    media_type = "application/vnd.safetensors"

    def encode(self, values: NDArray[np.float32], times: NDArray[np.float64]) -> bytes:
        from safetensors.numpy import save

        arrays: dict[str, NDArray[Any]] = {"data": np.ascontiguousarray(values), "times": times, **self.header.axes()}
        return bytes(save(arrays, {"header": json.dumps(self.header.document(times))}))
