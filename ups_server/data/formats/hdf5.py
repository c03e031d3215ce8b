"""Opening HDF5 files that others wrote: plain local float data, or one clear sentence.

What is no HDF5, or a layout that is not read, is named by its first bytes or the names in it, with how to bring it in.
"""

import itertools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats.base import FIRST_BYTES
from ups_server.errors import UserError

ZIP = b"PK\x03\x04"
LAYOUT = (
    "write its arrays with h5py as PDEBench does: tensor (N, T, X), x-coordinate, t-coordinate, coefficients as "
    "attributes; data/README.md has every layout"
)
MAPPED = "say with a mapping what its arrays mean: `ups data inspect FILE` proposes one, `--map` uses it"


@dataclass(frozen=True)
class Foreign:
    """A format that is not read.

    Attributes:
        matches: whether a file beginning with these bytes is one.
        name: as a sentence says it.
        hint: how to bring it in.
    """

    matches: Callable[[bytes], bool]
    name: str
    hint: str


def _begins(*words: bytes) -> Callable[[bytes], bool]:
    return lambda first: first.startswith(words)


def _is_html(first: bytes) -> bool:
    return first.lstrip().lower().startswith((b"<!doctype html", b"<html"))


FOREIGN = (
    Foreign(
        _begins(b"MATLAB 5.0 MAT-file"), "a MATLAB 5 file", f"{MAPPED}; or read it with scipy.io.loadmat and {LAYOUT}"
    ),
    Foreign(
        _begins(b"MATLAB 7.3 MAT-file"),
        "a MATLAB 7.3 file, whose axes are in reverse order",
        f"{MAPPED}; or read it with h5py, turn its axes round and {LAYOUT}",
    ),
    Foreign(
        _begins(b"CDF\x01", b"CDF\x02", b"CDF\x05"),
        "a classic netCDF file (netCDF-3), not NetCDF-4",
        f"{MAPPED}; or `nccopy -k nc4 IN.nc OUT.nc` makes NetCDF-4 of it",
    ),
    Foreign(_begins(b"GRIB"), "a GRIB file", f"read it with cfgrib or `cdo -f nc4 copy` and {LAYOUT}"),
    Foreign(
        _begins(b"\x93NUMPY"),
        "a .npy file, which says neither axes nor equation",
        f"{MAPPED}; or load it with NumPy and {LAYOUT}",
    ),
    Foreign(
        _begins(b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "a pickle",
        f"load it where it was made and {LAYOUT}",
    ),
    Foreign(_begins(b"\x1f\x8b"), "compressed with gzip", "decompress it with gunzip, or tar -xzf"),
    Foreign(_begins(b"BZh"), "compressed with bzip2", "decompress it with bunzip2"),
    Foreign(_begins(b"\xfd7zXZ"), "compressed with xz", "decompress it with unxz"),
    Foreign(_begins(b"\x28\xb5\x2f\xfd"), "compressed with zstd", "decompress it with unzstd"),
    Foreign(_is_html, "an HTML page, such as an error in place of a download", "download the file again"),
    Foreign(
        _begins(b"version https://git-lfs.github.com/spec/"),
        "a Git LFS pointer, not the file itself",
        "`git lfs pull` fetches the file",
    ),
)
TORCH = Foreign(
    _begins(ZIP), "a file of torch.save", f"{MAPPED}; or load it with torch.load(..., weights_only=True) and {LAYOUT}"
)
OTHER_ZIP = Foreign(_begins(ZIP), "a zip archive, not an npz", "unpack it")


def refuse_foreign(path: Path) -> None:
    """Raises UserError ``not_hdf5`` for a file that is empty or another format, known by its first bytes."""
    with path.open("rb") as stream:
        first = stream.read(FIRST_BYTES)
    if not first:
        raise UserError("not_hdf5", f"{path.name} is empty")
    found = next((foreign for foreign in FOREIGN if foreign.matches(first)), None)
    if first.startswith(ZIP):
        found = zip_of(path)
        if found is None:
            raise UserError("not_hdf5", f"{path.name} is an npz file, not an HDF5 file")
    if found is not None:
        raise UserError("not_hdf5", f"{path.name} is {found.name}", hint=found.hint)


def zip_of(path: Path) -> Foreign | None:
    """What a zip archive is, None for an npz, damaged ones too, which its reader refuses."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError):
        return None
    if any(name.endswith("data.pkl") for name in names):
        return TORCH
    return None if all(name.endswith(".npy") for name in names) else OTHER_ZIP


COLLECTIONS: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset({"dimensions", "t0_fields"}),
        "in the layout of The Well (dimensions, t0_fields, …), which names no equation",
        MAPPED,
    ),
    (
        frozenset({"sims"}),
        "in the layout of PBDL (group sims), which is not read",
        f"take each sim as a row and {LAYOUT}",
    ),
)
"""Names at the root of an HDF5 file -> the collection whose layout they are, and how to bring it in."""


def refuse_collections(name: str, root: set[str]) -> None:
    """Raises UserError ``unknown_layout`` for the layouts of other collections."""
    for names, what, hint in COLLECTIONS:
        if names <= root:
            raise UserError("unknown_layout", f"{name} is {what}", got=sorted(root)[:8], hint=hint)


FAMILY = "family"
"""The attribute of a file that names its family."""
CHUNK_CACHE_BYTES = 64 * 2**20
"""Published files have chunks of several MB across rows: HDF5's default of 1 MB would decode them again and again."""
CHUNK_CACHE_SLOTS = 10007
MAX_CHUNK_BYTES = 2**30
ROOT_NAMES = 64
"""Names at the root that are looked at to recognise another collection's layout."""
LZF = 32000
BUILT_IN_FILTERS = {1, 2, 3, 6, LZF}
"""Deflate, shuffle, Fletcher-32, scale-offset and LZF, which h5py brings, by their registered numbers."""


def open_file(path: Path) -> h5py.File:
    """Open for reading.

    Raises:
        UserError: ``not_hdf5`` (empty, truncated or another format), ``unreadable`` (rights), ``file_locked``, or
            ``unknown_layout`` for the layouts of other collections.
    """
    refuse_foreign(path)
    file = open_plainly(path)
    with closed_on_error(file):
        if FAMILY not in file.attrs:  # with it, it is a file of The Well that explains itself
            refuse_collections(path.name, {name for name in itertools.islice(file, ROOT_NAMES)})
    return file


class Closable(Protocol):
    def close(self) -> None: ...


@contextmanager
def closed_on_error(file: Closable) -> Iterator[None]:
    """Closes an open file where what is done with it fails; else it stays open."""
    try:
        yield
    except BaseException:
        file.close()
        raise


def open_plainly(path: Path) -> h5py.File:
    """Open a file of any layout for reading.

    Raises:
        UserError: ``not_hdf5``, ``file_locked``.
    """
    try:
        return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES, rdcc_nslots=CHUNK_CACHE_SLOTS)
    except OSError as error:
        raise _not_opened(path, str(error)) from error


def _not_opened(path: Path, reason: str) -> UserError:
    """What h5py says of a file that it does not open."""
    if "unable to lock file" in reason:
        return UserError(
            "file_locked",
            f"{path.name} is open for writing in another process",
            hint="close it there; HDF5_USE_FILE_LOCKING=FALSE reads it all the same",
        )
    if "already open for write" in reason or "consistency flags" in reason:
        return UserError(
            "file_locked",
            f"{path.name} is open for writing in another process, or its writer was killed",
            hint=f"close it there; where nobody writes it, `h5clear -s {path.name}` takes the mark away",
        )
    return UserError("not_hdf5", f"{path.name} {'is truncated' if 'truncated' in reason else 'is not an HDF5 file'}")


def is_netcdf(path: Path) -> bool:
    """Whether it is HDF5 that a NetCDF library wrote."""
    try:
        with h5py.File(path, "r") as file:
            return "_NCProperties" in file.attrs
    except OSError:  # not HDF5, or damaged: whoever opens it says so
        return False


def has(group: h5py.Group, name: str, kind: type) -> bool:
    """Whether `name` is a hard link to a group or dataset: links into other files are never followed."""
    return isinstance(group.get(name, getlink=True), h5py.HardLink) and group.get(name, getclass=True) is kind


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """A dataset whose data lie in this file.

    Raises:
        UserError: ``missing_dataset``, ``unsupported_storage`` or ``never_written``.
    """
    label = f"{group.name.rstrip('/')}/{name}"
    if not has(group, name, h5py.Dataset):
        raise UserError("missing_dataset", f"the file has no dataset {label}")
    found = group[name]
    if found.is_virtual or found.external:
        raise UserError("unsupported_storage", f"{label} keeps its data in other files")
    plist = found.id.get_create_plist()
    if any(plist.get_filter(index)[0] not in BUILT_IN_FILTERS for index in range(plist.get_nfilters())):
        raise UserError("unsupported_storage", f"{label} needs a filter plugin to be read")
    if found.chunks and int(np.prod(found.chunks, dtype=np.float64)) * found.dtype.itemsize > MAX_CHUNK_BYTES:
        raise UserError("unsupported_storage", f"{label} is stored in chunks of over 1 GiB", got=found.chunks)
    if found.size and found.id.get_storage_size() == 0:
        raise UserError("never_written", f"{label} declares values that were never written")
    return found


def float_dataset(group: h5py.Group, name: str, ndim: int) -> h5py.Dataset:
    """A dataset of floating-point numbers with `ndim` axes.

    Raises:
        UserError: ``wrong_dtype`` or ``wrong_shape``, and those of `dataset`.
    """
    found = dataset(group, name)
    if found.dtype.kind != "f":
        raise UserError(
            "wrong_dtype", f"{found.name} does not hold floating-point numbers", got=str(found.dtype), expected="float"
        )
    if found.ndim != ndim:
        raise UserError("wrong_shape", f"{found.name} has {found.ndim} axes", got=found.shape, expected=f"{ndim} axes")
    if 0 in found.shape:
        raise UserError("empty_file", f"{found.name} holds no values", got=found.shape)
    return found


def vector(group: h5py.Group, name: str) -> NDArray[np.float64]:
    """A one-dimensional dataset of finite numbers, such as an axis.

    Raises:
        UserError: ``wrong_axis`` and those of `dataset`.
    """
    found = dataset(group, name)
    if found.ndim != 1 or found.dtype.kind not in "fiu" or found.size > 2**24:
        raise UserError("wrong_axis", f"{found.name} is no list of coordinates", got=(found.shape, str(found.dtype)))
    if len(unwritten(found)):
        raise UserError("never_written", f"{found.name} was never written")
    values = read(found, ()).astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError("wrong_axis", f"{found.name} holds values that are not finite")
    return values


def read(source: h5py.Dataset, selection: Any) -> NDArray[np.floating[Any]]:
    """`source[selection]`.

    Raises:
        UserError: ``unreadable``: the bytes are damaged or missing.
    """
    try:
        return cast(NDArray[np.floating[Any]], source[selection])
    except OSError as error:
        raise UserError("unreadable", f"{source.name} cannot be read: its data are damaged or missing") from error


def unwritten(source: h5py.Dataset) -> NDArray[np.int64]:
    """Indices along the first axis whose values are not all stored: reading them would give fill values."""
    if source.chunks is None:  # is stored whole or, which `dataset` refuses, not at all
        return np.arange(0)
    first, *others = (-(-n // chunk) for n, chunk in zip(source.shape, source.chunks, strict=True))
    expected = int(np.prod(others, dtype=np.int64))
    if source.id.get_num_chunks() >= first * expected:
        return np.arange(0)
    stored_chunks = np.zeros(first, np.int64)

    def count(chunk: Any) -> None:
        stored_chunks[chunk.chunk_offset[0] // source.chunks[0]] += 1

    source.id.chunk_iter(count)
    return np.flatnonzero(np.repeat(stored_chunks < expected, source.chunks[0])[: len(source)])


def numbers(attributes: h5py.AttributeManager) -> list[tuple[str, NDArray[np.float64]]]:
    """The numeric attributes that are not empty, by name; their case differs between files, and within one."""
    found = []
    for name in attributes:
        attribute = attributes.get_id(name)
        empty = attribute.get_space().get_simple_extent_type() == h5py.h5s.NULL
        if not empty and attribute.dtype.kind in "fiu" and attribute.get_storage_size() <= 2**24:
            found.append((name, np.asarray(attributes[name], dtype=np.float64)))
    return found


def text(attributes: h5py.AttributeManager, name: str) -> str | None:
    """A text attribute, None where absent or empty.

    Raises:
        UserError: ``wrong_attribute`` where it is no text.
    """
    if name not in attributes:
        return None
    value = attributes[name]
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if not isinstance(value, str):
        raise UserError("wrong_attribute", f"the attribute {name} is no text", got=str(type(value).__name__))
    return value
