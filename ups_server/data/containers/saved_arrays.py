"""Arrays as NumPy and PyTorch save them, alone or by name, mapped into memory. Nothing in a file is run: no objects.

NumPy: an array alone (.npy), or a zip of arrays (.npz); one that is compressed is read whole when its first part is
asked for. PyTorch (`torch.save`): a tensor, or a dictionary of tensors, read with `weights_only=True`: its restricted
loader makes tensors and plain values, and refuses everything else.
"""

import math
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.containers.base import MOST_ARRAYS, Container, Index, StoredArray
from ups_server.errors import UserError

if TYPE_CHECKING:
    import torch

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


ALONE_TENSOR = "tensor"
"""What a tensor that is saved alone is called."""
DEPTH = 4


def open_torch(path: Path) -> Container:
    """Raises UserError ``unreadable`` (not only tensors, or damaged), ``missing_library`` (PyTorch)."""
    try:
        import torch
    except ImportError as error:
        raise UserError("missing_library", "files of torch.save are read with PyTorch", hint="install it") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what the restricted loader does not know, and what is damaged
        raise UserError(
            "unreadable",
            f"{path.name} is damaged or holds more than tensors",
            hint="save a tensor, or a dictionary of tensors",
        ) from error
    arrays: dict[str, StoredArray] = {}
    attributes: dict[str, Any] = {}
    for name, value in _entries(content, "", 1):
        if len(arrays) >= MOST_ARRAYS:
            raise UserError("wrong_shape", f"{path.name} holds too many tensors")
        if isinstance(value, torch.Tensor):
            arrays[name] = _tensor(name, value)
        elif isinstance(value, int | float | str):
            attributes[name] = value
    return Container("a file of torch.save", arrays, attributes)


def _entries(content: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    if not isinstance(content, Mapping | list | tuple):
        yield prefix.rstrip("/") or ALONE_TENSOR, content
    elif depth <= DEPTH:
        for name, value in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from _entries(value, f"{prefix}{name}/", depth + 1)


def _tensor(name: str, tensor: "torch.Tensor") -> StoredArray:
    import torch

    dense = tensor.detach()
    if dense.layout is not torch.strided or dense.dtype in (torch.bfloat16,) or dense.is_quantized:
        dtype = np.dtype(object)  # not what NumPy can hold: `StoredArray.numeric` says no
        return StoredArray(name, tuple(dense.shape), dtype, lambda index: np.empty(0))
    values = dense.numpy()
    return StoredArray(name, values.shape, values.dtype, lambda index: np.array(values[index]))
