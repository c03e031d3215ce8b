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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError

SAFETENSORS = "application/vnd.safetensors"
NPZ = "application/x-npz"

Arrays = dict[str, NDArray[Any]]

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


def from_safetensors(body: bytes) -> tuple[Arrays, dict[str, str]]:
    """(arrays, metadata) of a safetensors body.

    Raises:
        UserError: ``invalid_body``, ``wrong_dtype``.
    """
    import safetensors

    try:
        entries = safetensors.deserialize(body)  # type: ignore[no-untyped-call]
        (size,) = struct.unpack("<Q", body[:8])
        metadata = json.loads(body[8 : 8 + size]).get("__metadata__", {})
    except (safetensors.SafetensorError, struct.error, ValueError) as error:
        raise UserError("invalid_body", "the body is not valid safetensors", got=str(error)) from None
    arrays = {}
    for name, entry in entries:
        dtype = _SAFETENSORS_DTYPES.get(str(entry["dtype"]))
        if dtype is None:
            raise UserError(
                "wrong_dtype", f"{name} has a dtype that is not read", got=entry["dtype"], expected="F32 or F64"
            )
        arrays[name] = np.frombuffer(entry["data"], dtype=dtype).reshape(entry["shape"])
    return arrays, metadata


def from_npz(body: bytes, limit: int) -> tuple[Arrays, dict[str, str]]:
    """(arrays, texts) of an npz body that unpacks to at most `limit` bytes.

    Raises:
        UserError: ``invalid_body``, ``wrong_dtype``, ``body_too_large``.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > limit:
                raise UserError(
                    "body_too_large", "the body unpacks to more than is allowed", got=unpacked, expected=limit
                )
            entries = {
                member.filename.removesuffix(".npy"): _from_npy(archive, member) for member in archive.infolist()
            }
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and the npy header parser raise some ten kinds on hostile bytes
        raise UserError("invalid_body", "the body is not a valid npz file", got=str(error)) from None
    texts = {name: str(array) for name, array in entries.items() if array.dtype.kind == "U" and array.ndim == 0}
    return {name: array for name, array in entries.items() if name not in texts}, texts


def _from_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array. Its header is checked before anything of its size is allocated."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("a compression other than deflate")
    data = archive.read(member)
    stream = io.BytesIO(data)
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
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("an array is not as long as its header says")
    values = np.frombuffer(data, dtype=dtype, offset=stream.tell())
    return values.reshape(shape, order="F" if fortran_order else "C")
