"""NetCDF-4 with CF conventions: one variable a field, coordinates with units; long texts are scalar variables."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from ups_server.data.exporters.base import LONGEST_ATTRIBUTE, WholeExporter


class NetcdfExporter(WholeExporter):
    format = "netcdf"
    suffixes = (".nc",)
    media_type = "application/x-netcdf"

    def encode(self, values: NDArray[np.float32], times: NDArray[np.float64]) -> bytes:
        from ups_server.data.exporters.dataset import build_dataset

        buffer = BytesIO()
        dataset = build_dataset(self.header, values, times)
        for name, text in list(dataset.attrs.items()):
            if isinstance(text, str) and len(text.encode()) > LONGEST_ATTRIBUTE:
                del dataset.attrs[name]
                dataset[name] = ((), text)
        dataset.to_netcdf(buffer, engine="h5netcdf")
        return buffer.getvalue()
