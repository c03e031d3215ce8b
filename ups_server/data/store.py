"""Reading a transcoded store: raw float32 shards, mapped one row at a time.

A row is mapped, copied from and unmapped, so that memory stays constant however large the store is; one descriptor a
shard stays open, so that no sample costs a file open.
"""

import json
import math
import mmap
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ups_server.data.manifest import FORMAT_VERSION, MANIFEST, Shard, StoreManifest
from ups_server.data.rows import RowNumbers, by_row, trajectory_of
from ups_server.errors import UserError
from ups_server.pde.grid import BoundaryCondition, Grid
from ups_server.pde.state import Trajectory

MAX_OPEN_SHARDS = 256
VALUE = np.dtype("<f4")
COEFFICIENT = np.dtype("<f8")

Rows = Sequence[int] | NDArray[np.integer[Any]]
Frames = slice | Sequence[int] | NDArray[np.integer[Any]]


class Store:
    """Trajectories of one family on one grid, in our own layout. A `TrajectorySource`."""

    layout: ClassVar[str] = "transcoded store"

    def __init__(self, path: Path, manifest: StoreManifest) -> None:
        self.path = path
        self.manifest = manifest
        self.grid: Grid = manifest.layout.grid.grid()
        self.times: NDArray[np.float64] = np.asarray(manifest.layout.times, dtype=np.float64)
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

    @property
    def family(self) -> str:
        return self.manifest.layout.family

    @property
    def fields(self) -> tuple[str, ...]:
        return self.manifest.layout.fields

    @property
    def static_fields(self) -> tuple[str, ...]:
        return self.manifest.layout.static_fields

    @property
    def coefficient_names(self) -> tuple[str, ...]:
        return self.manifest.layout.coefficients

    @property
    def boundary(self) -> BoundaryCondition:
        return self.manifest.layout.boundary_condition

    @property
    def n_trajectories(self) -> int:
        return self.manifest.count

    @property
    def chunk_rows(self) -> int:
        return 1

    @property
    def chunk_frames(self) -> int:
        return 1

    @cached_property
    def row_numbers(self) -> RowNumbers:
        """The numbers of the rows in the file that the store was made of."""
        left_out = by_row(self.manifest.left_out or ())
        refused = self.manifest.provenance.get("refused", 0)
        return RowNumbers.without(left_out, len(self), max(0, int(refused) - len(left_out)))

    @property
    def row_faults(self) -> dict[int, str]:
        """None: what a store holds was checked when it was made."""
        return {}

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

    def read(self, rows: Rows, frames: Frames = slice(None), stride: int = 1, first: int = 0) -> NDArray[np.float32]:
        """(len(rows), len(frames), X..., C), every `stride`-th point from point `first` on; touches no other bytes.

        Raises:
            UserError: ``row_out_of_range``.
        """
        chosen = np.arange(len(self.times))[frames]
        index: tuple[Any, ...] = (chosen, *(slice(first, None, stride),) * self.grid.ndim)
        points = tuple(len(range(first, n, stride)) for n in self.grid.n)
        out = np.empty((len(rows), len(chosen), *points, len(self.fields)), dtype=np.float32)
        for target, row in zip(out, rows, strict=True):
            target[...] = self.view(int(row))[index]
        return out

    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        """(len(rows), X..., S), None for families without static fields."""
        if not self.static_fields:
            return None
        space = (slice(first, None, stride),) * self.grid.ndim
        views = [view[space] for row in rows if (view := self.static_view(int(row))) is not None]
        points = tuple(len(range(first, n, stride)) for n in self.grid.n)
        return np.array(views, np.float32).reshape(len(rows), *points, len(self.static_fields))

    def trajectory(self, index: int) -> Trajectory:
        """Row `index` with all that is needed to read it."""
        return trajectory_of(self, index)

    def close(self) -> None:
        """Release the open descriptors; a later read opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

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
