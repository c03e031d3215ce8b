"""Named arrays and texts from the bytes of safetensors and npz: binary bodies of requests and answers.

Neither needs pickle. In safetensors a text is an entry of the metadata; in npz it is an array of one unicode string.
Shared by API and client; imports no torch.
"""

import io
import json
import math
import struct
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError

SAFETENSORS = "application/vnd.safetensors"
NPZ = "application/x-npz"

Arrays = dict[str, NDArray[Any]]

PIECE = 2**18
"""Bytes unpacked at a time."""
MAX_DIRECTORY = 2**16
"""Bytes of the list of entries of an npz file: some hundred entries."""

_SAFETENSORS_DTYPES = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I8": "|i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "|u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}


def to_safetensors(arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> bytes:
    """Arrays, with texts as metadata."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=dict(texts))


def from_safetensors(body: bytes | bytearray, header_limit: int | None = None) -> tuple[Arrays, dict[str, str]]:
    """(arrays, metadata) of a safetensors body. The arrays are views of its bytes: nothing is copied.

    Args:
        header_limit: most bytes of the JSON that describes the arrays and holds the metadata.

    Raises:
        UserError: ``invalid_body``, ``wrong_dtype``, ``body_too_large``.
    """
    try:
        (size,) = struct.unpack_from("<Q", body)
        if header_limit is not None and header_limit < size <= len(body) - 8:
            raise _too_much_text(size, header_limit)
        if size > len(body) - 8:
            raise ValueError("the header is longer than the body")
        entries = json.loads(body[8 : 8 + size])
        texts = {str(name): str(text) for name, text in entries.pop("__metadata__", {}).items()}
        return _arrays_of(entries, memoryview(body)[8 + size :]), texts
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError("invalid_body", "the body is not valid safetensors", got=str(error)) from None


def _arrays_of(entries: Mapping[str, Any], data: memoryview) -> Arrays:
    """The arrays that the entries of a header describe, which lie in `data` one behind another."""
    arrays, place = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise UserError(
                "wrong_dtype", f"{name} has a dtype that is not read", got=entry["dtype"], expected="F32 or F64"
            )
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
            raise ValueError(f"{name} has no valid shape")
        if start != place or end - start != math.prod(shape) * np.dtype(dtype).itemsize or end > len(data):
            raise ValueError(f"{name} is not as long as its shape says")
        arrays[name] = np.frombuffer(data[start:end], dtype).reshape(shape)
        place = end
    if place != len(data):
        raise ValueError("there are bytes behind the last array")
    return arrays


def from_npz(body: bytes | bytearray, limit: int, text_limit: int | None = None) -> tuple[Arrays, dict[str, str]]:
    """(arrays, texts) of an npz body that unpacks to at most `limit` bytes.

    What the archive says of its sizes is checked before it is believed: no more is unpacked than was announced.

    Args:
        text_limit: most characters of a text.

    Raises:
        UserError: ``invalid_body``, ``wrong_dtype``, ``body_too_large``.
    """
    try:
        _check_directory(body)
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > limit:
                raise UserError(
                    "body_too_large", "the body unpacks to more than is allowed", got=unpacked, expected=limit
                )
            entries = {
                member.filename.removesuffix(".npy"): _from_npy(archive, member, text_limit)
                for member in archive.infolist()
            }
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and the npy header parser raise some ten kinds on hostile bytes
        raise UserError("invalid_body", "the body is not a valid npz file", got=str(error)) from None
    texts = {name: str(array) for name, array in entries.items() if array.dtype.kind == "U" and array.ndim == 0}
    return {name: array for name, array in entries.items() if name not in texts}, texts


def _check_directory(body: bytes | bytearray) -> None:
    """Refuses archives whose list of entries would itself take much memory: `zipfile` reads all of it first."""
    end = len(body) - 22
    if end < 0 or body[end : end + 4] != b"PK\x05\x06" or body[-2:] != b"\0\0":
        raise ValueError("it does not end with the directory of an archive without a comment")
    (size,) = struct.unpack_from("<I", body, end + 12)
    if size > MAX_DIRECTORY or (end >= 20 and body[end - 20 : end - 16] == b"PK\x06\x07"):
        raise ValueError("it has too many entries")


def _from_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, text_limit: int | None) -> NDArray[Any]:
    """One array. Its header is checked before anything of its size is allocated."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("a compression other than deflate")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"npy version {version}")
        if dtype.hasobject or dtype.kind not in "iufU":
            raise UserError(
                "wrong_dtype", "npz arrays must be plain numbers", got=str(dtype), expected="float32 or float64"
            )
        size = math.prod(shape) * dtype.itemsize
        if size != member.file_size - stream.tell() or min(shape, default=0) < 0:
            raise ValueError("an array is not as long as its header says")
        if dtype.kind == "U" and text_limit is not None and size > 4 * text_limit:
            raise _too_much_text(size // 4, text_limit)
        data = bytearray(size)
        _fill(stream, memoryview(data))
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")


def _fill(stream: IO[bytes], data: memoryview) -> None:
    """Unpacks so many bytes, a piece at a time; there must be no more."""
    place = 0
    while place < len(data):
        piece = stream.read(min(PIECE, len(data) - place))
        if not piece:
            raise ValueError("an array is shorter than its header says")
        data[place : place + len(piece)] = piece
        place += len(piece)
    if stream.read(1):
        raise ValueError("an array is longer than its header says")


def _too_much_text(got: int, limit: int) -> UserError:
    return UserError(
        "body_too_large",
        "the text beside the arrays is too long",
        got=got,
        expected=f"at most {limit} bytes",
        hint="send the state as an array of its own, `initial_condition`",
    )
