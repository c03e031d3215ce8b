"""The description of a transcoded store. `data/README.md` is its written specification."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from ups_server.data.rows import LeftOut
from ups_server.pde.grid import BoundaryCondition, Grid

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


class GridRecord(BaseModel):
    """A `Grid` on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: tuple[int, ...]
    extent: tuple[tuple[float, float], ...]
    offset: tuple[float, ...]

    @classmethod
    def of(cls, grid: Grid) -> "GridRecord":
        return cls(n=grid.n, extent=grid.extent, offset=grid.offset)

    def grid(self) -> Grid:
        return Grid(self.n, self.extent, self.offset)


class Layout(BaseModel):
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
    layout: Layout
    count: int
    shards: tuple[Shard, ...]
    left_out: tuple[LeftOut, ...] | None = None
    provenance: dict[str, Any] = {}
    fingerprint: str

    @property
    def family(self) -> str:
        return self.layout.family


def fingerprint(layout: Layout, shards: tuple[Shard, ...]) -> str:
    """sha256 of the canonical JSON of layout and shards."""
    content = {"layout": layout.model_dump(mode="json"), "shards": [shard.model_dump(mode="json") for shard in shards]}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
