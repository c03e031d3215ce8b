"""Zarr (version 3): a folder of arrays, or a zip of one; a variable a field over (trajectory,) time, x, ..."""

import json
import math
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ups_server.data.atomic import replace_bytes
from ups_server.data.formats.base import Exporter, Format, Given, Header, damage_named
from ups_server.data.formats.hdf5 import ZIP
from ups_server.data.formats.netcdf import XarraySource, chunk_shape, fill, template
from ups_server.data.source import FrameIndices, Readable, RowProgress, Rows
from ups_server.errors import UserError

if TYPE_CHECKING:
    import xarray as xr


METADATA = "zarr.json"


class ZarrFormat(Format):
    name = "zarr"

    def matches(self, path: Path, first: bytes) -> bool:
        if path.is_dir():
            return path.suffix.lower() == ".zarr" or (path / METADATA).is_file()
        return first.startswith(ZIP) and _is_zipped(path)

    def open(self, path: Path, given: Given) -> XarraySource:
        with damage_named(path):
            return XarraySource(path, given)


class ZarrExporter(Exporter):
    format = "zarr"
    suffixes = (".zarr",)
    media_type = None

    def write(
        self, target: Path | BinaryIO, header: Header, values: Readable, progress: RowProgress | None = None
    ) -> None:
        if not isinstance(target, Path):
            raise UserError("unknown_format", "Zarr is a folder, not bytes", got=self.format)
        dataset = template(header, bool(values.static_fields))
        fill(_ZarrFolder(target, dataset), dataset, header, values, progress)
        _consolidate(target)


class ZarrZipExporter(Exporter):
    """The folder as one file, not compressed again."""

    format = "zarr_zip"
    suffixes = (".zip",)
    media_type = "application/zip"

    def write(
        self, target: Path | BinaryIO, header: Header, values: Readable, progress: RowProgress | None = None
    ) -> None:
        beside = target.parent if isinstance(target, Path) else None
        with tempfile.TemporaryDirectory(prefix=".zarr-", dir=beside) as name:
            folder = Path(name) / "content.zarr"
            ZarrExporter().write(folder, header, values, progress)
            with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
                for entry in sorted(folder.rglob("*"), key=lambda entry: (entry.name != METADATA, entry)):
                    if entry.is_file():
                        archive.write(entry, entry.relative_to(folder).as_posix())


def _consolidate(folder: Path) -> None:
    """Has the group's own document hold those of its arrays, for readers that cannot list folders."""
    arrays = {found.parent.name: json.loads(found.read_bytes()) for found in sorted(folder.glob(f"*/{METADATA}"))}
    group = json.loads((folder / METADATA).read_bytes())
    inline = {"kind": "inline", "must_understand": False, "metadata": arrays}
    replace_bytes(folder / METADATA, _json({**group, "consolidated_metadata": inline}))


def _is_zipped(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return METADATA in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError):  # whoever opens it says so
        return False


class _ZarrFolder:
    def __init__(self, path: Path, dataset: "xr.Dataset") -> None:
        import zarr

        attributes = {name: _plain(value) for name, value in dataset.attrs.items()}
        self.group = zarr.open_group(path, mode="w", zarr_format=3, attributes=attributes)

    def create(self, name: str, variable: "xr.Variable") -> None:
        self.group.create_array(
            name,
            shape=variable.shape,
            dtype=variable.dtype,
            chunks=chunk_shape(variable) if variable.ndim else "auto",
            dimension_names=[str(dimension) for dimension in variable.dims],
            attributes={**variable.attrs},
        )

    def put(self, name: str, where: Any, values: NDArray[Any]) -> None:
        self.group[name][where] = values


class ZarrSteps:
    """A Zarr store that grows step by step: one chunk a field and step, uncompressed, readable while it is written.

    The metadata say from the beginning how many frames are planned: frames that are not there yet read as NaN. They are
    also in the group's own document (consolidated), so that readers over HTTP, which cannot list folders, find
    everything. What was written is `Readable`.

    Args:
        header: of all frames that are planned.
    """

    chunk_rows = chunk_frames = 1

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder, self.header = folder, header
        self.fields = tuple(field.name for field in header.family.fields)
        self.grid, self.times, self.n_trajectories = header.grid, header.times, header.count
        self._rest = ".0" * header.grid.ndim
        names = (field.name for field in header.family.static_fields)
        self.static_fields = tuple(name for name in names if (folder / name / METADATA).is_file())

    def begin(self, static: NDArray[np.floating[Any]] | None = None) -> None:
        """Writes what is known before the first frame; frames that are there already stay.

        Args:
            static: (B, X..., S), of families with static fields.
        """
        if static is not None:
            self.static_fields = tuple(field.name for field in self.header.family.static_fields)
            for channel, fixed in enumerate(self.static_fields):
                replace_bytes(self._fixed(fixed), np.ascontiguousarray(static[..., channel], "<f4").tobytes())
        self.describe(self.header)
        for name, variable in template(self.header).coords.items():
            suffix = ".0" * variable.ndim
            replace_bytes(
                self.folder / str(name) / f"c{suffix}", np.ascontiguousarray(variable.values, "<f8").tobytes()
            )

    def describe(self, header: Header) -> None:
        """Writes the metadata of fewer frames, or with other attributes."""
        dataset, arrays = template(header, bool(self.static_fields)), dict[str, Any]()
        for name, variable in dataset.variables.items():
            arrays[str(name)] = document = self._array(variable, name in dataset.coords)
            replace_bytes(self.folder / str(name) / METADATA, _json(document))
        attributes = {name: _plain(value) for name, value in dataset.attrs.items()}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        inline = {"kind": "inline", "must_understand": False, "metadata": arrays}
        replace_bytes(self.folder / METADATA, _json({**group, "consolidated_metadata": inline}))

    def _array(self, variable: Any, whole: bool) -> dict[str, Any]:
        """Metadata of an array: `whole` in one chunk, as long as what was planned, else one step a chunk."""
        steps = len(self.header.times) if whole else 1
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(variable.shape),
            "data_type": "float64" if whole else "float32",
            "chunk_grid": {
                "name": "regular",
                "configuration": {
                    "chunk_shape": [steps if name == "time" else size for name, size in variable.sizes.items()]
                },
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": "NaN",
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "attributes": {name: _plain(value) for name, value in variable.attrs.items()},
            "dimension_names": list(variable.dims),
        }

    def put(self, frame: int, values: NDArray[np.floating[Any]]) -> None:
        """The states (B, X..., C) of one frame."""
        for channel, name in enumerate(self.fields):
            replace_bytes(self._chunk(name, frame), np.ascontiguousarray(values[..., channel], "<f4").tobytes())

    def row(self, frame: int, row: int) -> NDArray[np.float32]:
        """The state (X..., C) of one trajectory in one frame."""
        count = math.prod(self.header.grid.n)
        out = np.empty((*self.header.grid.n, len(self.fields)), np.float32)
        for channel, name in enumerate(self.fields):
            flat = np.fromfile(self._chunk(name, frame), "<f4", count, offset=4 * count * row)
            out[..., channel] = flat.reshape(self.header.grid.n)
        return out

    def read(self, rows: Rows, frames: FrameIndices = slice(None)) -> NDArray[np.float32]:
        """(len(rows), len(frames), X..., C)"""
        chosen = np.arange(len(self.times))[frames].tolist()
        out = np.empty((len(rows), len(chosen), *self.grid.n, len(self.fields)), np.float32)
        for target, row in zip(out, rows, strict=True):
            for place, frame in enumerate(chosen):
                target[place] = self.row(frame, int(row))
        return out

    def read_static(self, rows: Rows) -> NDArray[np.float32] | None:
        """(len(rows), X..., S)"""
        if not self.static_fields:
            return None
        shape = (self.n_trajectories, *self.grid.n)
        fields = [np.fromfile(self._fixed(name), "<f4").reshape(shape) for name in self.static_fields]
        return np.stack(fields, axis=-1)[np.asarray(rows, np.int64)]

    def _fixed(self, name: str) -> str:
        """The one chunk of a field that does not change."""
        return f"{self.folder}{os.sep}{name}{os.sep}c{'.0' if self.header.batched else ''}{self._rest}"

    def _chunk(self, name: str, frame: int) -> str:
        return f"{self.folder}{os.sep}{name}{os.sep}c{'.0' if self.header.batched else ''}.{frame}{self._rest}"


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
