"""NetCDF-4 with CF conventions: one variable a field over (trajectory,) time, x, ...; coordinates with units."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats import hdf5
from ups_server.data.formats.arrays import AXES, ArraySource
from ups_server.data.formats.base import Format, Given, damage_named
from ups_server.errors import UserError


class NetcdfFormat(Format):
    name = "netcdf"
    hdf5 = True

    def matches(self, path: Path, first: bytes) -> bool:
        return path.is_file() and hdf5.is_netcdf(path)

    def open(self, path: Path, given: Given) -> "XarraySource":
        with damage_named(path):
            return XarraySource(path, given)


class XarraySource(ArraySource):
    """One variable a field over (trajectory,) time, x, ..."""

    layout = "NetCDF or Zarr"

    def __init__(self, path: Path, given: Given) -> None:
        import xarray as xr

        if path.is_dir():
            self._file = xr.open_dataset(
                path, engine="zarr", decode_times=False, cache=False, backend_kwargs={"consolidated": False}
            )
        else:
            self._file = xr.open_dataset(path, engine="h5netcdf", decode_times=False, cache=False)
        try:
            self._describe(path, given)
        except BaseException:
            self._file.close()
            raise

    def _describe(self, path: Path, given: Given) -> None:
        entries = dict(self._file.attrs)
        if "boundary" in entries:
            entries["boundary"] = json.loads(entries["boundary"])
        coordinates = {name: np.asarray(c.values, np.float64) for name, c in self._file.coords.items() if c.ndim <= 1}
        axes = {name: coordinates.pop(name) for name in AXES if name in coordinates}
        times = coordinates.pop("time", np.full(1, np.nan))
        names = {str(name): value for name, value in coordinates.items() if name != "trajectory"}
        equation, count = given.equation(path, entries.get("family")), self._file.sizes.get("trajectory", 1)
        super().__init__(path, equation, entries, times, axes, names, count, given.coefficients)
        for name, order in (
            *((name, ("time", *AXES[: self.grid.ndim])) for name in self.fields),
            *((name, AXES[: self.grid.ndim]) for name in self.static_fields),
        ):
            if name not in self._file.data_vars:
                raise UserError("missing_dataset", f"{path.name} has no variable {name}", got=list(self._file))
            found = self._file[name]
            if {*found.dims} - {"trajectory"} != {*order}:
                raise UserError("wrong_shape", f"{name} has other axes", got=found.dims, expected=order)
            if found.dtype.kind != "f":
                raise UserError("wrong_dtype", f"{name} does not hold floating-point numbers", got=str(found.dtype))

    def close(self) -> None:
        self._file.close()

    def _values(self, channel: int, row: int, frames: slice, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        axes = AXES[: self.grid.ndim]
        return self._chosen(self.fields[channel], row, {"time": frames, **dict(zip(axes, space, strict=True))})

    def _static(self, channel: int, row: int, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        return self._chosen(self.static_fields[channel], row, dict(zip(AXES, space, strict=False)))

    def _chosen(self, name: str, row: int, where: dict[str, slice]) -> NDArray[np.floating[Any]]:
        found = self._file[name]
        index: dict[str, Any] = {**where, "trajectory": row} if "trajectory" in found.dims else dict(where)
        return np.asarray(found.isel(index).transpose(*where).values)
