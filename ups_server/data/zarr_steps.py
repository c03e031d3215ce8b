"""A Zarr v3 store that grows step by step: one chunk a field and step, uncompressed, readable while it is written.

The metadata say from the beginning how many frames are planned: frames that are not there yet read as NaN. They are
also in the group's own document (consolidated), so that readers over HTTP, which cannot list folders, find everything.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.atomic import replace_bytes
from ups_server.data.exporters.base import Header

METADATA = "zarr.json"


class ZarrSteps:
    """Frames of trajectories in a folder.

    Args:
        header: of all frames that are planned.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder, self.header = folder, header
        self._fields = [field.name for field in header.family.fields]
        self._rest = ".0" * header.grid.ndim

    def begin(self) -> None:
        """Writes what is known before the first frame; frames that are there already stay."""
        self.describe(self.header)
        for name, variable in template(self.header).coords.items():
            suffix = ".0" * variable.ndim
            replace_bytes(
                self.folder / str(name) / f"c{suffix}", np.ascontiguousarray(variable.values, "<f8").tobytes()
            )

    def describe(self, header: Header) -> None:
        """Writes the metadata of fewer frames, or with other attributes."""
        dataset, arrays = template(header), dict[str, Any]()
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
        for channel, name in enumerate(self._fields):
            replace_bytes(self._chunk(name, frame), np.ascontiguousarray(values[..., channel], "<f4").tobytes())

    def row(self, frame: int, row: int) -> NDArray[np.float32]:
        """The state (X..., C) of one trajectory in one frame."""
        count = math.prod(self.header.grid.n)
        out = np.empty((*self.header.grid.n, len(self._fields)), np.float32)
        for channel, name in enumerate(self._fields):
            flat = np.fromfile(self._chunk(name, frame), "<f4", count, offset=4 * count * row)
            out[..., channel] = flat.reshape(self.header.grid.n)
        return out

    def rows(self, frame: int) -> NDArray[np.float32]:
        """The states (B, X..., C) of one frame."""
        return np.stack([self.row(frame, row) for row in range(self.header.count)])

    def in_order(self, frames: int) -> Iterator[NDArray[np.float32]]:
        """Every state (X..., C): of the first trajectory from frame to frame, then of the next."""
        for row in range(self.header.count):
            for frame in range(frames):
                yield self.row(frame, row)

    def _chunk(self, name: str, frame: int) -> str:
        return f"{self.folder}{os.sep}{name}{os.sep}c{'.0' if self.header.batched else ''}.{frame}{self._rest}"


def template(header: Header) -> Any:
    """The `xarray.Dataset` of a result, with its coordinates and attributes, every value the same single zero."""
    from ups_server.data.exporters.dataset import build_dataset

    shape = (len(header.times), *header.grid.n, len(header.family.fields))
    values = np.broadcast_to(np.float32(0), (header.count, *shape) if header.batched else shape)
    dataset = build_dataset(header, values, header.times)
    if header.coefficients:  # CF's way to say that a variable without a dimension of its name is a coordinate
        for name in dataset.data_vars:
            dataset[name].attrs["coordinates"] = " ".join(header.coefficients)
    return dataset


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
