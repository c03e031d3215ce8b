"""A store of trajectories, in our own layout: raw float32 shards and a manifest. `data/README.md` specifies it.

A row is mapped, copied from and unmapped, so that memory stays constant however large the store is; one descriptor a
shard stays open, so that no sample costs a file open.
"""

import hashlib
import json
import math
import mmap
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ups_server.data.source import FrameIndices, LeftOut, RowNumbers, Rows, TrajectorySource, by_row
from ups_server.errors import UserError
from ups_server.pde.grid import BoundaryCondition, Grid

FORMAT_VERSION = 1
MANIFEST, PLAN = "manifest.json", "writing.json"
"""A folder holds the one when it is a store, the other while it is becoming one."""


class GridRecord(BaseModel):
    """A `Grid` on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: tuple[int, ...]
    extent: tuple[tuple[float, float], ...]
    offset: tuple[float, ...]
    closed: tuple[bool, ...] = ()

    @classmethod
    def of(cls, grid: Grid) -> "GridRecord":
        closed = grid.closed if any(grid.closed) else ()
        return cls(n=grid.n, extent=grid.extent, offset=grid.offset, closed=closed)

    def grid(self) -> Grid:
        return Grid(self.n, self.extent, self.offset, self.closed)


class StoreLayout(BaseModel):
    """What every row of a store has in common.

    Attributes:
        fields: names of the last axis of the values, in the family's order.
        times: (T,) in the family's time unit.
        boundary: [low, high] kinds per axis.
        coefficients: names of the columns of the coefficient table.
        static_fields: names of the last axis of the static values; empty for families without.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    fields: tuple[str, ...]
    grid: GridRecord
    times: tuple[float, ...]
    boundary: tuple[tuple[str, str], ...]
    coefficients: tuple[str, ...] = ()
    static_fields: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: TrajectorySource) -> Self:
        """What the rows of a source have in common."""
        return cls(
            family=source.family,
            fields=source.fields,
            grid=GridRecord.of(source.grid),
            times=tuple(source.times.tolist()),
            boundary=tuple((low, high) for low, high in source.boundary.as_names()),
            coefficients=source.coefficient_names,
            static_fields=source.static_fields,
        )

    @property
    def boundary_condition(self) -> BoundaryCondition:
        return BoundaryCondition.from_names([list(sides) for sides in self.boundary])

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(T, X..., C)"""
        return (len(self.times), *self.grid.n, len(self.fields))

    @property
    def static_shape(self) -> tuple[int, ...]:
        """(X..., S)"""
        return (*self.grid.n, len(self.static_fields))


class Shard(BaseModel):
    """Consecutive rows in one set of files; checksums by file name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: str
    coefficients: str
    static: str | None = None
    count: int
    sha256: dict[str, str]


class StoreManifest(BaseModel):
    """The whole store.

    Attributes:
        left_out: rows of the file that the store was made of which are not in it, by their numbers there; None where
            nothing was recorded: a store that was not made of a file, or by an earlier version.
        provenance: where the rows came from; free JSON, not part of the fingerprint.
        fingerprint: sha256 over layout and shard checksums: equal fingerprints mean equal data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    layout: StoreLayout
    count: int
    shards: tuple[Shard, ...]
    left_out: tuple[LeftOut, ...] | None = None
    provenance: dict[str, Any] = {}
    fingerprint: str

    @property
    def family(self) -> str:
        return self.layout.family


def fingerprint(layout: StoreLayout, shards: tuple[Shard, ...]) -> str:
    """sha256 of the canonical JSON of layout and shards."""
    described = layout.model_dump(mode="json")
    if not any(layout.grid.closed):  # as before there were nodes with both ends
        del described["grid"]["closed"]
    content = {"layout": described, "shards": [shard.model_dump(mode="json") for shard in shards]}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


MAX_OPEN_SHARDS = 256
VALUE = np.dtype("<f4")
COEFFICIENT = np.dtype("<f8")


class Store(TrajectorySource):
    """A finished store. Its rows have no faults: they were checked when it was made."""

    layout = "transcoded store"

    def __init__(self, path: Path, manifest: StoreManifest) -> None:
        layout = manifest.layout
        super().__init__(
            layout.family,
            layout.fields,
            layout.static_fields,
            layout.coefficients,
            layout.grid.grid(),
            np.asarray(layout.times, dtype=np.float64),
            layout.boundary_condition,
            manifest.count,
        )
        self.path = path
        self.manifest = manifest
        self._first_row = list(accumulate((shard.count for shard in manifest.shards), initial=0))
        self._open: OrderedDict[str, int] = OrderedDict()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a finished store.

        Raises:
            UserError: ``not_found``, ``store_incomplete`` (its writer never finished) or ``store_corrupt``.
        """
        folder = Path(path)
        file = folder / MANIFEST
        if not folder.is_dir():
            raise UserError("not_found", f"there is no store {folder}")
        if not file.is_file():
            raise UserError(
                "store_incomplete",
                f"{folder} has no {MANIFEST}",
                hint="run the command that builds it again; it resumes",
            )
        store = cls(folder, _load_manifest(file))
        store._check_sizes()
        return store

    @cached_property
    def row_numbers(self) -> RowNumbers:
        """The numbers of the rows in the file that the store was made of."""
        left_out = by_row(self.manifest.left_out or ())
        refused = self.manifest.provenance.get("refused", 0)
        return RowNumbers.without(left_out, len(self), max(0, int(refused) - len(left_out)))

    def __len__(self) -> int:
        return self.manifest.count

    @cached_property
    def coefficients(self) -> NDArray[np.float64]:
        """(N, K), columns in the order of `coefficient_names`."""
        width = len(self.coefficient_names)
        tables = [np.fromfile(self.path / shard.coefficients, COEFFICIENT) for shard in self.manifest.shards]
        return np.concatenate(tables or [np.zeros(0)]).reshape(len(self), width).astype(np.float64)

    def view(self, row: int) -> NDArray[np.float32]:
        """Row `row` as a read-only (T, X..., C) view of its file; it stays mapped as long as the view lives."""
        shard, index = self._locate(row)
        return self._map(shard.values, index, self.manifest.layout.row_shape)

    def frames(self, row: int, indices: Iterable[int]) -> Iterator[NDArray[np.float32]]:
        """Frames (X..., C) of row `row`, each read by itself, read-only: cheaper than a view where few are wanted.

        Raises:
            UserError: ``row_out_of_range``, or ``store_corrupt`` where the file was cut since it was opened.
        """
        shard, place = self._locate(row)
        count, *shape = self.manifest.layout.row_shape
        size = math.prod(shape) * VALUE.itemsize
        descriptor = self._descriptor(shard.values)
        for index in indices:
            content = os.pread(descriptor, size, (place * count + index) * size)
            if len(content) < size:
                raise UserError("store_corrupt", f"{self.path / shard.values} is cut", got=len(content), expected=size)
            yield np.ndarray(shape, VALUE, content)

    def static_view(self, row: int) -> NDArray[np.float32] | None:
        """The static fields (X..., S) of row `row`, None for families without."""
        shard, index = self._locate(row)
        return None if shard.static is None else self._map(shard.static, index, self.manifest.layout.static_shape)

    def read(
        self, rows: Rows, frames: FrameIndices = slice(None), stride: int = 1, first: int = 0
    ) -> NDArray[np.float32]:
        """As every source; touches no bytes but those of these points."""
        chosen = np.arange(len(self.times))[frames]
        index: tuple[Any, ...] = (chosen, *self._space(stride, first))
        out = np.empty((len(rows), len(chosen), *self._points(stride, first), len(self.fields)), dtype=np.float32)
        for target, row in zip(out, rows, strict=True):
            target[...] = self.view(int(row))[index]
        return out

    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        if not self.static_fields:
            return None
        space = self._space(stride, first)
        views = [view[space] for row in rows if (view := self.static_view(int(row))) is not None]
        return np.array(views, np.float32).reshape(len(rows), *self._points(stride, first), len(self.static_fields))

    def close(self) -> None:
        """Release the open descriptors; a later read opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()

    def _locate(self, row: int) -> tuple[Shard, int]:
        if not 0 <= row < len(self):
            raise UserError("row_out_of_range", f"{self.path.name} has no row {row}", expected=f"0 to {len(self) - 1}")
        which = bisect_right(self._first_row, row) - 1
        return self.manifest.shards[which], row - self._first_row[which]

    def _map(self, name: str, index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        size = int(np.prod(shape)) * VALUE.itemsize
        start = index * size
        aligned = start - start % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._descriptor(name), start - aligned + size, prot=mmap.PROT_READ, offset=aligned)
        return np.frombuffer(mapped, VALUE, offset=start - aligned).reshape(shape)

    def _descriptor(self, name: str) -> int:
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        if len(self._open) >= MAX_OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1])
        self._open[name] = os.open(self.path / name, os.O_RDONLY)
        return self._open[name]

    def _check_sizes(self) -> None:
        layout = self.manifest.layout
        for shard in self.manifest.shards:
            sizes = {
                shard.values: int(np.prod(layout.row_shape)) * VALUE.itemsize,
                shard.coefficients: len(layout.coefficients) * COEFFICIENT.itemsize,
            }
            if shard.static is not None:
                sizes[shard.static] = int(np.prod(layout.static_shape)) * VALUE.itemsize
            for name, row_bytes in sizes.items():
                file = self.path / name
                found = file.stat().st_size if file.is_file() else None
                if found != row_bytes * shard.count:
                    raise UserError(
                        "store_corrupt", f"{file} is missing or cut", got=found, expected=row_bytes * shard.count
                    )


def _load_manifest(file: Path) -> StoreManifest:
    try:
        manifest = StoreManifest.model_validate(json.loads(file.read_text()))
    except (ValueError, ValidationError) as error:
        raise UserError("store_corrupt", f"{file} is not a store manifest") from error
    if manifest.format_version != FORMAT_VERSION:
        raise UserError(
            "store_version", f"{file} has another format version", got=manifest.format_version, expected=FORMAT_VERSION
        )
    return manifest
