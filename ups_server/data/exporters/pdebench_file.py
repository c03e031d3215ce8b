"""HDF5 in the layout PDEBench publishes the family in; written step by step. Always with a trajectory axis.

Texts too long for an attribute are datasets of the group `about`.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.exporters.base import LONGEST_ATTRIBUTE, Exporter
from ups_server.data.formats.pdebench.writing import layout_file


class PdebenchExporter(Exporter):
    format = "hdf5"
    suffixes = (".h5", ".hdf5")
    media_type = "application/x-hdf5"

    def open(self) -> None:
        header = self.header
        self._file = layout_file(
            self.target, header.family, header.coefficients, header.times, header.grid, header.count, header.boundary
        )
        for name, value in header.attributes.items():
            plain = value if isinstance(value, str | int | float) else json.dumps(value)
            if isinstance(plain, str) and len(plain.encode()) > LONGEST_ATTRIBUTE:
                self._file.file[f"about/{name}"] = plain
            else:
                self._file.file.attrs[name] = plain

    def put(self, step: int, values: NDArray[np.floating[Any]]) -> None:
        self._file.put(values[:, None], slice(None), slice(step, step + 1))

    def close(self) -> None:
        if 0 < self.steps < len(self.header.times):
            self._file.keep_frames(self.steps)
        self._file.close()
