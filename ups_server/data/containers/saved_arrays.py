"""Arrays as NumPy and PyTorch save them, alone or by name. Nothing in a file is run: no objects.

NumPy: an array alone (.npy), or a zip of arrays (.npz), of which no more than a piece is mapped at a time; one that is
compressed is written to a temporary file when its first part is asked for. PyTorch (`torch.save`): a tensor, or a
dictionary of tensors, read with `weights_only=True`: its restricted loader makes tensors and plain values, and refuses
everything else.
"""

import math
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ups_server.data.containers.base import MOST_ARRAYS, Container, Index, StoredArray
from ups_server.errors import UserError

if TYPE_CHECKING:
    import torch

ALONE = "array"
"""What the array of a .npy file is called."""
MOST_BYTES = 2**31
"""Of a compressed array, without its compression."""
PIECE = 2**25
"""Bytes of an array that are mapped at a time."""
SPOOLED = 2**20
"""Bytes that are decompressed at a time."""


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
    arrays, spools = {}, ExitStack()
    with zipfile.ZipFile(path) as archive:
        if len(archive.infolist()) > MOST_ARRAYS:
            raise UserError("wrong_shape", f"{path.name} holds too many arrays")
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as stream:
                shape, fortran, dtype = _read_header(stream)
                header = stream.tell()
            if dtype.hasobject or any(n < 0 for n in shape):
                continue
            if entry.compress_type == zipfile.ZIP_STORED:
                offset = _data_offset(path, entry) + header
                if offset + math.prod(shape) * dtype.itemsize > path.stat().st_size:
                    raise UserError("truncated", f"{name} in {path.name} reaches beyond the end of the file", got=shape)
                arrays[name] = _mapped(name, path, dtype, shape, offset, fortran)
            else:
                arrays[name] = _decompressed(name, path, entry, dtype, shape, fortran, spools)
    return Container("an .npz file", arrays, close=spools.close)


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, in Fortran's order?, type)"""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _header(path: Path, stream: Any) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    shape, fortran, dtype = _read_header(stream)
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
    return StoredArray(name, shape, dtype, lambda index: part_of(path, dtype, shape, offset, fortran, index))


def part_of(
    place: Path | BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int, fortran: bool, index: Index
) -> NDArray[Any]:
    """`array[index]` of an array in the bytes of a file, of which no more than `PIECE` are mapped at a time."""
    if 0 in shape:
        return np.zeros(shape, dtype)[index]
    if fortran:
        return part_of(place, dtype, shape[::-1], offset, False, index[::-1]).T
    return _gathered(place, dtype, shape, offset, index)


def _gathered(
    place: Path | BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int, index: Index
) -> NDArray[Any]:
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    if not index:
        return np.array(np.memmap(place, dtype, "r", offset, shape))
    first, *others = index
    rest = tuple(others)
    if isinstance(first, int):
        return _gathered(place, dtype, shape[1:], offset + row_bytes * range(shape[0])[first], rest)
    rows = range(shape[0])[first]
    if row_bytes > PIECE and len(shape) > 1:
        parts = [_gathered(place, dtype, shape[1:], offset + row_bytes * row, rest) for row in rows]
        return np.stack(parts) if parts else np.zeros((0, *shape[1:]), dtype)[(slice(None), *rest)]
    step = max(1, PIECE // (row_bytes * rows.step))
    blocks = [rows[start : start + step] for start in range(0, len(rows), step)]
    found = [
        np.array(
            np.memmap(place, dtype, "r", offset + row_bytes * block[0], (block[-1] + 1 - block[0], *shape[1:]))[
                (slice(None, None, rows.step), *rest)
            ]
        )
        for block in blocks
    ]
    return np.concatenate(found) if found else np.zeros((0, *shape[1:]), dtype)[(slice(None), *rest)]


def _decompressed(
    name: str,
    path: Path,
    entry: zipfile.ZipInfo,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    fortran: bool,
    spools: ExitStack,
) -> StoredArray:
    size = math.prod(shape) * dtype.itemsize

    @cache
    def spooled() -> BinaryIO:
        if size > MOST_BYTES:
            raise UserError(
                "unsupported_storage",
                f"{name} in {path.name} is compressed, and {size / 2**30:.1f} GiB when it is not",
                expected=f"at most {MOST_BYTES / 2**30:g} GiB",
                hint="write it with np.savez, which does not compress",
            )
        spool = spools.enter_context(tempfile.TemporaryFile(prefix="ups-"))  # noqa: SIM115
        _decompress(path, entry, size, spool)
        return spool

    def part(index: Index) -> NDArray[Any]:
        return part_of(spooled(), dtype, shape, 0, fortran, index)

    return StoredArray(name, shape, dtype, part)


def _decompress(path: Path, entry: zipfile.ZipInfo, size: int, target: BinaryIO) -> None:
    """Writes the values of an entry to `target`, piece by piece.

    Raises:
        UserError: ``truncated``.
    """
    with zipfile.ZipFile(path) as archive, archive.open(entry) as stream:
        _read_header(stream)
        left = size
        while left and (piece := stream.read(min(left, SPOOLED))):
            target.write(piece)
            left -= len(piece)
        stream.read(1)  # at the end of an entry its checksum is compared
    if left:
        raise UserError("truncated", f"{entry.filename} in {path.name} ends before its array does")
    target.flush()


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
