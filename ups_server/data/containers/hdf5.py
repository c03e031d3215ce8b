"""HDF5: every numeric dataset that lies in the file, by its path; MATLAB 7.3 with its axes as MATLAB shows them.

NetCDF-4, which is HDF5, and classic NetCDF (netCDF-3) go to the NetCDF library, which knows named dimensions, scales
and missing values.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data.containers.base import MOST_ARRAYS, Container, Index, StoredArray, plain
from ups_server.data.formats import hdf5
from ups_server.errors import UserError

if TYPE_CHECKING:
    import xarray as xr

DEPTH = 8
MATLAB = b"MATLAB 7.3 MAT-file"
MATLAB_INTERNAL = "#refs#"
MOST_ATTRIBUTE_BYTES = 2**16


def open_hdf5(path: Path) -> Container:
    """Raises UserError ``not_hdf5``, ``file_locked``, ``wrong_shape`` (too many datasets)."""
    if hdf5.is_netcdf(path):
        return open_netcdf(path)
    with path.open("rb") as stream:
        matlab = stream.read(len(MATLAB)) == MATLAB
    file = hdf5.open_plainly(path)
    with hdf5.closed_on_error(file):
        groups: dict[str, dict[str, Any]] = {}
        found = _datasets(file, "", 1, matlab, groups)
        arrays = {name: _array(name, parent, leaf, matlab) for name, parent, leaf in found}
        if len(arrays) >= MOST_ARRAYS:
            raise UserError("wrong_shape", f"{path.name} holds too many datasets", expected=f"below {MOST_ARRAYS}")
        kind = "a MATLAB 7.3 file" if matlab else "an HDF5 file"
        return Container(kind, arrays, _attributes(file), file.close, groups)


def _datasets(
    group: h5py.Group, path: str, depth: int, matlab: bool, groups: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, h5py.Group, str]]:
    """(path, group, name) of every dataset; attributes of groups go to `groups`."""
    for count, name in enumerate(group):
        if count >= MOST_ARRAYS or (matlab and name == MATLAB_INTERNAL):
            return
        if hdf5.has(group, name, h5py.Dataset):
            yield f"{path}{name}", group, name
        elif hdf5.has(group, name, h5py.Group) and depth < DEPTH:
            groups[f"{path}{name}"] = _attributes(group[name])
            yield from _datasets(group[name], f"{path}{name}/", depth + 1, matlab, groups)


def _array(name: str, parent: h5py.Group, leaf: str, matlab: bool) -> StoredArray:
    found = parent[leaf]
    shape = () if found.shape is None else found.shape

    def part(index: Index) -> NDArray[Any]:
        checked = hdf5.dataset(parent, leaf)
        return np.asarray(hdf5.read(checked, index[::-1])).T if matlab else np.asarray(hdf5.read(checked, index))

    chunks = found.chunks
    return StoredArray(
        name,
        shape[::-1] if matlab else shape,
        found.dtype,
        part,
        chunks=None if chunks is None else tuple(chunks[::-1] if matlab else chunks),
        attributes=_attributes(found),
        unwritten=None if matlab else lambda: hdf5.unwritten(found),
    )


def _attributes(found: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    entries = {}
    for name in found.attrs:
        attribute = found.attrs.get_id(name)
        empty = attribute.get_space().get_simple_extent_type() == h5py.h5s.NULL or 0 in attribute.shape
        if not empty and attribute.dtype.kind in "fiubSO" and attribute.get_storage_size() <= MOST_ATTRIBUTE_BYTES:
            value = found.attrs[name]
            if not (isinstance(value, np.ndarray) and any(isinstance(entry, h5py.Reference) for entry in value.flat)):
                entries[name] = value
    return plain(entries)


def open_netcdf(path: Path) -> Container:
    """Raises what xarray raises for damaged files."""
    import xarray as xr

    with path.open("rb") as stream:
        classic = stream.read(3) == b"CDF"
    options: dict[str, Any] = {"engine": "scipy"} if classic else {"engine": "h5netcdf", "phony_dims": "access"}
    file = xr.open_dataset(path, decode_times=False, cache=False, **options)
    arrays = {str(name): _variable(str(name), variable) for name, variable in file.variables.items()}
    return Container("a classic NetCDF file" if classic else "a NetCDF-4 file", arrays, plain(file.attrs), file.close)


def _variable(name: str, variable: "xr.Variable") -> StoredArray:
    chunks = variable.encoding.get("chunksizes")
    return StoredArray(
        name,
        variable.shape,
        variable.dtype,
        _variable_part(variable),
        tuple(map(str, variable.dims)),
        None if chunks is None or len(chunks) != variable.ndim else tuple(map(int, chunks)),
        plain(variable.attrs),
    )


def _variable_part(variable: "xr.Variable") -> Callable[[Index], NDArray[Any]]:
    def part(index: Index) -> NDArray[Any]:
        return np.asarray(variable.isel(dict(zip(variable.dims, index, strict=True))).values)

    return part
