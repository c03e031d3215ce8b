"""NumPy's files: an array alone (.npy), mapped into memory, or a zip of arrays (.npz). No object arrays.

An array of an npz that is compressed is read whole when its first part is asked for.
"""

import math
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.containers.base import MOST_ARRAYS, Container, Index, StoredArray
from ups_server.errors import UserError

ALONE = "array"
"""What the array of a .npy file is called."""
MOST_BYTES = 2**31
"""Of a compressed array, which is read whole."""


def open_npy(path: Path) -> Container:
    """Raises UserError ``wrong_dtype`` (objects), ``truncated``."""
    with path.open("rb") as stream:
        dtype, shape, fortran = _header(path, stream)
        offset = stream.tell()
    if offset + math.prod(shape) * dtype.itemsize > path.stat().st_size:
        raise UserError("truncated", f"{path.name} ends before its array does", got=shape)
    return Container("a .npy file", {ALONE: _mapped(ALONE, path, dtype, shape, offset, fortran)})


def open_npz(path: Path) -> Container:
    """Raises UserError ``wrong_dtype``, ``truncated``, ``wrong_shape`` (too many arrays)."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        if len(archive.infolist()) > MOST_ARRAYS:
            raise UserError("wrong_shape", f"{path.name} holds too many arrays")
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(stream)
                header = stream.tell()
            if dtype.hasobject or any(n < 0 for n in shape):
                continue
            if entry.compress_type == zipfile.ZIP_STORED:
                offset = _data_offset(path, entry) + header
                if offset + math.prod(shape) * dtype.itemsize > path.stat().st_size:
                    raise UserError("truncated", f"{name} in {path.name} reaches beyond the end of the file", got=shape)
                arrays[name] = _mapped(name, path, dtype, shape, offset, fortran)
            else:
                arrays[name] = _decompressed(name, path, entry, dtype, shape)
    return Container("an .npz file", arrays)


def _header(path: Path, stream: Any) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or any(n < 0 for n in shape):
        raise UserError("wrong_dtype", f"{path.name} holds Python objects, not numbers", got=str(dtype))
    return dtype, shape, fortran


def _data_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin, behind its own header."""
    with path.open("rb") as stream:
        stream.seek(entry.header_offset + 26)
        lengths = np.frombuffer(stream.read(4), "<u2")
    return entry.header_offset + 30 + int(lengths.sum())


def _mapped(
    name: str, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int, fortran: bool
) -> StoredArray:
    def part(index: Index) -> NDArray[Any]:
        if 0 in shape:
            return np.zeros(shape, dtype)[index]
        return np.array(np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")[index])

    return StoredArray(name, shape, dtype, part)


def _decompressed(
    name: str, path: Path, entry: zipfile.ZipInfo, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> StoredArray:
    @cache
    def all_of_it() -> NDArray[Any]:
        if math.prod(shape) * dtype.itemsize > MOST_BYTES:
            raise UserError(
                "unsupported_storage",
                f"{name} in {path.name} is compressed and too large to be read whole",
                hint="write it with np.savez, which does not compress",
            )
        with zipfile.ZipFile(path) as archive, archive.open(entry) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    return StoredArray(name, shape, dtype, lambda index: all_of_it()[index])
