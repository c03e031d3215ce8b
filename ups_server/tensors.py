"""Arrays in the bodies of requests and answers: safetensors, npz, and nested lists of numbers in JSON.

Neither of the binary formats needs pickle. In safetensors a text is an entry of the metadata; in npz it is an array of
one unicode string.

Lists in JSON are read into an array a piece at a time: a list of Python numbers takes ten times the bytes of its text,
so that a body of some megabytes would take the memory of the process. The text is cut into pieces of `PIECE` bytes,
behind commas. A piece without its brackets is a flat list, which the ordinary JSON parser reads; the brackets alone
give the shape.

Shared by API and client; imports no torch.
"""

import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import pydantic_core
from numpy.typing import NDArray

from ups_server.errors import UserError

SAFETENSORS = "application/vnd.safetensors"
NPZ = "application/x-npz"

Arrays = dict[str, NDArray[Any]]

PIECE = 2**18
"""Bytes unpacked, or of text read, at a time."""
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


MAX_AXES = 8
NUMBERS = b"0123456789+-.eEinftyINaT"
"""Characters of numbers, `Infinity` and `NaN` included; `true` and `null` have others."""
BLANK = b" \t\r\n"
_LISTS = re.compile(rb"\[[\[\],0-9+\-.eEinftyINa \t\r\n]*")
_OPEN, _CLOSE, _COMMA = b"[],"
_NUMBER = 0
_CLASSES = np.full(256, _NUMBER, np.uint8)
_CLASSES[[_OPEN, _CLOSE, _COMMA]] = 1, 2, 3
_FOLLOWS = np.array(
    # number, [, ], ,
    [
        [True, False, True, True],  # after a number
        [True, True, False, False],  # after [
        [False, False, True, True],  # after ]
        [True, True, False, False],  # after ,
    ]
)


def find_lists(text: bytes | bytearray, start: int) -> tuple[int, int] | None:
    """(start, end) of the nested lists of numbers that begin at `start`; None where they hold anything else."""
    found = _LISTS.match(text, start)
    if found is None:
        return None
    # Behind the lists the match may run on to the next comma, and no further: a name in quotes follows that.
    end = text.rfind(b"]", start, found.end()) + 1
    between = text[end : found.end()].strip(BLANK)
    whole = end > start and between in (b"", b",") and text.count(b"[", start, end) == text.count(b"]", start, end)
    return (start, end) if whole else None


def count_numbers(text: bytes | bytearray, start: int, end: int) -> int:
    """Numbers in the lists between two places, if they are well formed."""
    return text.count(b",", start, end) + 1


def read_lists(text: bytes | bytearray, start: int, end: int) -> NDArray[np.float32]:
    """The array of the lists between two places.

    Raises:
        UserError: ``invalid_json``; ``wrong_shape`` where lists of one level are not equally long.
    """
    values = np.empty(count_numbers(text, start, end), np.float32)
    structure = _Structure()
    place = done = 0
    while start < end:
        stop = end if end - start <= PIECE else text.rfind(b",", start, start + PIECE) + 1
        if stop <= start:
            raise _invalid("no comma in 262144 characters")
        piece = bytes(text[start:stop])
        structure.take(piece)
        numbers = _numbers(piece)
        done = place + len(numbers)
        if done > len(values):
            raise _invalid("a comma too many")
        with np.errstate(over="ignore"):
            values[place:done] = numbers
        start, place = stop, done
    return values[:done].reshape(structure.shape(done))


def _numbers(piece: bytes) -> NDArray[np.float64]:
    """The numbers of a piece, brackets left out."""
    flat = piece.translate(None, b"[]").strip(BLANK)
    try:
        found = pydantic_core.from_json(b"[" + flat.removesuffix(b",") + b"]")
    except ValueError as error:
        raise _invalid(str(error)) from None
    try:
        return np.array(found, np.float64)
    except OverflowError:  # integers beyond float64 are beyond float32 as well
        return np.array([float(str(number)) for number in found])


@dataclass
class _Structure:
    """What the brackets said so far.

    Attributes:
        lengths: how many numbers the innermost lists hold, the lists around them, ..., as far as one has ended.
        depth: of the lists that are open; `axes` of every number.
        numbers: how many there were; `closed`: brackets since the last one.
    """

    lengths: list[int] = field(default_factory=list)
    depth: int = 0
    axes: int = 0
    numbers: int = 0
    last: int = 3

    def take(self, piece: bytes) -> None:
        """The next piece, which ends behind a comma, or with the last bracket."""
        classes = _CLASSES[np.frombuffer(piece.translate(None, BLANK), np.uint8)]
        before = np.concatenate([[self.last], classes[:-1]])
        if not _FOLLOWS[before, classes].all():
            raise _invalid("brackets and commas do not fit together")
        self.last = int(classes[-1])
        depths = self.depth + np.cumsum((classes == 1).astype(np.int32) - (classes == 2), dtype=np.int32)
        self.depth = int(depths[-1])
        commas = np.flatnonzero(classes == 3)
        if not depths[commas].all():
            raise _invalid("the lists end before their last number")
        first_digits = (classes == _NUMBER) & (before != _NUMBER)
        found = depths[first_digits]
        if len(found) == 0:
            return
        self.axes = self.axes or int(found[0])
        if self.axes > MAX_AXES or (found != self.axes).any():
            raise _uneven()
        # Behind number k, before the comma: how many lists ended there.
        ended = self.axes - depths[commas]
        self._check(ended, self.numbers + 1 + np.arange(len(ended)))
        self.numbers += len(commas)

    def _check(self, ended: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
        """Lists of every level end at multiples of one length. After `counts` numbers so many lists ended."""
        for level in range(self.axes - 1):
            ends = ended > level
            if level == len(self.lengths):
                if not ends.any():
                    return
                self.lengths.append(int(counts[np.argmax(ends)]))
            if (ends != (counts % self.lengths[level] == 0)).any():
                raise _uneven()

    def shape(self, count: int) -> tuple[int, ...]:
        """Of all lists, which hold `count` numbers."""
        if self.depth != 0 or self.last != 2 or count == 0:
            raise _invalid("the lists do not end")
        lengths = [1, *self.lengths, *[count] * (self.axes - len(self.lengths))]
        pairs = list(zip(lengths[1:], lengths[:-1], strict=True))
        if any(longer % shorter for longer, shorter in pairs):
            raise _uneven()
        return tuple(longer // shorter for longer, shorter in reversed(pairs))


def _invalid(reason: str) -> UserError:
    return UserError("invalid_json", "the request is not valid JSON", got=reason)


def _uneven() -> UserError:
    return UserError("wrong_shape", "the lists of the initial condition are not equally long", expected="a full array")
