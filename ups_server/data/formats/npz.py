"""NumPy's zip of arrays: `data`, `times`, `x`, ... and the header as JSON text `header`. No object arrays.

An npz that is not compressed is read through maps of its bytes: only what is asked for is read.
"""

import json
import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats.base import AXIS_NAMES, Exporter, Format, Given, Header, damage_named
from ups_server.data.formats.description import ArraySource
from ups_server.data.formats.hdf5 import ZIP, zip_of
from ups_server.data.source import Readable, RowProgress, pieces, static_pieces
from ups_server.errors import UserError


class NpzFormat(Format):
    name = "npz"

    def matches(self, path: Path, first: bytes) -> bool:
        return first.startswith(ZIP) and zip_of(path) is None

    def open(self, path: Path, given: Given) -> "NpzSource":
        with damage_named(path):
            return NpzSource(path, given)


class NpzExporter(Exporter):
    format = "npz"
    suffixes = (".npz",)
    media_type = "application/x-npz"

    def write(
        self, target: Path | BinaryIO, header: Header, values: Readable, progress: RowProgress | None = None
    ) -> None:
        small = {"header": np.array(json.dumps(header.document())), "times": header.times, **header.axes()}
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name, array in small.items():
                with archive.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)
            if values.static_fields:
                shape = (header.count, *header.grid.n, len(values.static_fields))
                _write_array(archive, "static", shape, (static for _, static in static_pieces(values)))
            blocks = (block for _, _, block in pieces(values, progress=progress))
            _write_array(archive, "data", header.shape, blocks)


def _write_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], blocks: Iterable[NDArray[np.float32]]
) -> None:
    """An array whose blocks follow one another in C order, and need not fit into memory together."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for block in blocks:
            stream.write(np.ascontiguousarray(block, "<f4").data)


class NpzSource(ArraySource):
    """`data` ([N,] T, X..., C), mapped into memory a row at a time, and the header as JSON text."""

    layout = "npz"

    def __init__(self, path: Path, given: Given) -> None:
        self._arrays = mapped_arrays(path)
        if not {"header", "data", "times"} <= set(self._arrays):
            raise UserError("missing_dataset", f"{path.name} lacks header, data or times", got=list(self._arrays)[:12])
        entries = json.loads(str(self._small("header").astype(str)))
        if not isinstance(entries, dict) or not isinstance(entries.get("coefficients", {}), dict):
            raise UserError("wrong_attribute", f"the header of {path.name} is no mapping")
        equation = given.equation(path, entries.get("family"))
        data = self._arrays["data"]
        self._alone = len(data.shape) == equation.ndim + 2
        count = 1 if self._alone else data.shape[0]
        times = np.asarray(self._small("times"), np.float64)
        axes = {name: np.asarray(self._small(name), np.float64) for name in AXIS_NAMES if name in self._arrays}
        coefficients = {name: np.asarray(value, np.float64) for name, value in entries.get("coefficients", {}).items()}
        super().__init__(path, equation, entries, times, axes, coefficients, count, given.coefficients)
        expected = (count, len(times), *self.grid.n, len(self.fields))
        self._expect("data", expected)
        if self.static_fields:
            if "static" not in self._arrays:
                raise UserError("missing_dataset", f"{path.name} lacks static", expected=self.static_fields)
            self._expect("static", (count, *self.grid.n, len(self.static_fields)))

    def close(self) -> None:
        """Nothing stays open: every read maps what it reads."""

    def _small(self, name: str) -> NDArray[Any]:
        return self._arrays[name].part()

    def _expect(self, name: str, shape: tuple[int, ...]) -> None:
        found = self._arrays[name]
        wanted = shape[1:] if self._alone and len(found.shape) == len(shape) - 1 else shape
        if found.shape != wanted or found.dtype.kind != "f":
            raise UserError(
                "wrong_shape", f"{name} does not fit the axes", got=(found.shape, str(found.dtype)), expected=shape
            )

    def _row(self, name: str, row: int) -> NDArray[Any]:
        found = self._arrays[name]
        axes = self.grid.ndim + (2 if name == "data" else 1)
        return found.part() if len(found.shape) == axes else found.part(row)

    def _values(self, channel: int, row: int, frames: slice, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        where: tuple[Any, ...] = (frames, *space, channel)
        return np.asarray(self._row("data", row)[where])

    def _static(self, channel: int, row: int, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        where: tuple[Any, ...] = (*space, channel)
        return np.asarray(self._row("static", row)[where])


MOST_ARRAYS = 64


@dataclass(frozen=True)
class MappedArray:
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


def mapped_arrays(path: Path) -> dict[str, MappedArray]:
    """The arrays by name.

    Raises:
        UserError: ``unsupported_storage`` (compressed), ``wrong_dtype``, ``wrong_shape``, ``truncated``.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) > MOST_ARRAYS:
        raise UserError("wrong_shape", f"{path.name} holds too many arrays", got=len(entries), expected=MOST_ARRAYS)
    return {entry.filename.removesuffix(".npy"): _mapped(path, entry) for entry in entries}


def _mapped(path: Path, entry: zipfile.ZipInfo) -> MappedArray:
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
    return MappedArray(path, offset, dtype, tuple(shape), fortran)
