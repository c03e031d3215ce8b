"""Files as arrays with names, whatever wrote them: what a mapping gives a meaning to.

MATLAB 5; HDF5, with MATLAB 7.3 and NetCDF; Zarr; arrays saved by NumPy and PyTorch. A file is recognised by its first
bytes; nothing but the arrays' names, shapes and small attributes is read when it is opened.
"""

import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py

from ups_server.data.containers.base import Container, StoredArray
from ups_server.data.formats.base import FIRST_BYTES, ZARR_ROOT
from ups_server.data.formats.hdf5 import ZIP, refuse_foreign
from ups_server.data.remote import address_of
from ups_server.errors import UserError

__all__ = ["Container", "StoredArray", "open_container", "prepare"]

NETCDF_3 = (b"CDF\x01", b"CDF\x02", b"CDF\x05")


def open_container(path: Path) -> Container:
    """Open a file, or a folder of Zarr, which may be behind an address.

    Raises:
        UserError: ``not_found``, ``unknown_layout`` (a folder of something else), ``not_hdf5`` (another format),
            ``unreadable`` (damaged).
    """
    address = address_of(path)
    if address is None and not path.exists():
        raise UserError("not_found", f"there is no file {path}")
    try:
        return _opener(path)(path) if address is None else _remote(path, address)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each library has its own for files that are damaged
        raise UserError("unreadable", f"{path.name} is damaged or of another format") from error


def prepare(first: bytes) -> None:
    """Loads, before rights are given up, the libraries that files with these first bytes need and that are large, or
    start threads."""
    if not first.startswith(ZIP):
        return
    if b"/data.pkl" in first or b"/.format_version" in first:
        with suppress(ImportError):
            import torch  # noqa: F401
    elif b".npy" not in first:
        from ups_server.data.containers.zarr import start_loop

        start_loop()


def _remote(path: Path, address: str) -> Container:
    from ups_server.data.containers.zarr import open_remote

    return open_remote(path, address)


def _opener(path: Path) -> Callable[[Path], Container]:
    from ups_server.data.containers import hdf5, matlab, saved_arrays, zarr

    if path.is_dir():
        if not any((path / name).is_file() for name in ZARR_ROOT):
            raise UserError("unknown_layout", f"{path.name} is a folder, but not Zarr")
        return zarr.open_zarr
    with path.open("rb") as stream:
        first = stream.read(FIRST_BYTES)
    if first.startswith(b"MATLAB 5.0 MAT-file"):
        return matlab.open_matlab
    if first.startswith(NETCDF_3):
        return hdf5.open_netcdf
    if first.startswith(b"\x93NUMPY"):
        return saved_arrays.open_npy
    if first.startswith(ZIP):
        names = _zip_names(path)
        if any(name.endswith("/data.pkl") for name in names):
            return saved_arrays.open_torch
        if zarr.root_of(names) is not None:
            return zarr.open_zarr
        if names and all(name.endswith(".npy") for name in names):
            return saved_arrays.open_npz
    if h5py.is_hdf5(path):
        return hdf5.open_hdf5
    refuse_foreign(path)
    raise UserError(
        "not_hdf5",
        f"{path.name} is of no format that is read",
        hint="numpy.loadtxt reads numbers in text; numpy.savez writes arrays with their names",
    )


def _zip_names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()
