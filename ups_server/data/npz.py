"""Arrays of an npz that is not compressed, as maps of their bytes in the file: only what is asked for is read."""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError

MOST_ARRAYS = 64


@dataclass(frozen=True)
class StoredArray:
    """One array of the file.

    Attributes:
        offset: place of its first value in the file.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool

    def part(self, index: int | None = None) -> NDArray[Any]:
        """The array, or `array[index]`, as a map of its bytes."""
        if index is None or self.fortran:
            whole = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, "F" if self.fortran else "C")
            return whole if index is None else whole[index]
        size = math.prod(self.shape[1:])
        return np.memmap(self.path, self.dtype, "r", self.offset + index * size * self.dtype.itemsize, self.shape[1:])


def stored_arrays(path: Path) -> dict[str, StoredArray]:
    """The arrays by name.

    Raises:
        UserError: ``unsupported_storage`` (compressed), ``wrong_dtype``, ``wrong_shape``, ``truncated``.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) > MOST_ARRAYS:
        raise UserError("wrong_shape", f"{path.name} holds too many arrays", got=len(entries), expected=MOST_ARRAYS)
    return {entry.filename.removesuffix(".npy"): _stored(path, entry) for entry in entries}


def _stored(path: Path, entry: zipfile.ZipInfo) -> StoredArray:
    name = entry.filename.removesuffix(".npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise UserError("unsupported_storage", f"{name} in {path.name} is compressed", hint="write it with np.savez")
    with path.open("rb") as stream:
        stream.seek(entry.header_offset + 26)
        lengths = np.frombuffer(stream.read(4), "<u2")
        stream.seek(entry.header_offset + 30 + int(lengths.sum()))
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        offset = stream.tell()
    if dtype.hasobject or 0 in shape or dtype.itemsize == 0:
        raise UserError("wrong_dtype", f"{name} in {path.name} holds no numbers", got=(shape, str(dtype)))
    if any(n < 0 for n in shape) or offset + math.prod(shape) * dtype.itemsize > path.stat().st_size:
        raise UserError("truncated", f"{name} in {path.name} reaches beyond the end of the file", got=shape)
    return StoredArray(path, offset, dtype, tuple(shape), fortran)
