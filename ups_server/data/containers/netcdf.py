"""NetCDF-4 and classic NetCDF (netCDF-3): variables with named dimensions, scales and missing values applied."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.containers.base import Container, Index, StoredArray, plain

if TYPE_CHECKING:
    import xarray as xr

HDF5_SIGNATURE = b"\x89HDF"


def open_netcdf(path: Path) -> Container:
    """Raises what xarray raises for damaged files."""
    import xarray as xr

    with path.open("rb") as stream:
        classic = stream.read(3) == b"CDF"
    file = xr.open_dataset(path, engine="scipy" if classic else "h5netcdf", decode_times=False, cache=False)
    arrays = {str(name): _array(str(name), variable) for name, variable in file.variables.items()}
    return Container("a classic NetCDF file" if classic else "a NetCDF-4 file", arrays, plain(file.attrs), file.close)


def _array(name: str, variable: "xr.Variable") -> StoredArray:
    chunks = variable.encoding.get("chunksizes")
    return StoredArray(
        name,
        variable.shape,
        variable.dtype,
        _part(variable),
        tuple(map(str, variable.dims)),
        None if chunks is None or len(chunks) != variable.ndim else tuple(map(int, chunks)),
        plain(variable.attrs),
    )


def _part(variable: "xr.Variable") -> Callable[[Index], NDArray[Any]]:
    def part(index: Index) -> NDArray[Any]:
        return np.asarray(variable.isel(dict(zip(variable.dims, index, strict=True))).values)

    return part
