"""A generation in parts, each by a process or machine of its own, and what one process would have made of them all.

A part is a store whose provenance says which rows of the whole it has. Rows are solved in the same batches as without
parts, so that what is merged has the same bits.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ups_server.data.composed import Concat
from ups_server.data.export import write_file
from ups_server.data.formats.base import Header
from ups_server.data.formats.pdebench.writing import PdebenchExporter
from ups_server.data.source import RowProgress, TrajectorySource
from ups_server.data.store import MANIFEST, Store
from ups_server.data.writer import StoreWriter, sha256_of
from ups_server.errors import UserError
from ups_server.pde.registry import known_family

PART = "part"
"""What a part's provenance has more than the whole's."""


@dataclass(frozen=True)
class DataPart:
    """Part `number` (from 1) `of` so many."""

    number: int
    of: int

    @classmethod
    def from_text(cls, text: str) -> "DataPart":
        """`2/4`, the second of four.

        Raises:
            UserError: ``invalid_part``.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UserError("invalid_part", "a part is given as NUMBER/OF, from 1", got=text, expected="2/4")
        return cls(int(number), int(of))

    def rows(self, count: int, batch: int) -> range:
        """The rows of this part of `count`, in whole batches.

        Raises:
            UserError: ``invalid_part`` where there are fewer batches than parts.
        """
        batches = -(-count // batch)
        if self.of > batches:
            raise UserError(
                "invalid_part",
                f"{count} trajectories are solved in batches of {batch}: too few for so many parts",
                got=self.of,
                expected=f"at most {batches}",
            )
        start, stop = ((batches * number // self.of) * batch for number in (self.number - 1, self.number))
        return range(start, min(stop, count))

    def folder(self, whole: Path) -> Path:
        """Where this part of the file or store `whole` is kept."""
        return parts_folder(whole) / f"{self.number}-of-{self.of}"


def parts_folder(whole: Path) -> Path:
    """Where the parts of the file or store `whole` are kept."""
    return whole.with_name(f"{whole.name}.parts")


def provenance_of_part(provenance: dict[str, object], rows: range, rows_per_shard: int) -> dict[str, object]:
    """The provenance of a part with those rows; `rows_per_shard` is the whole's."""
    return {**provenance, PART: {"rows": [rows.start, rows.stop], "rows_per_shard": rows_per_shard}}


def merge_file(whole: str | os.PathLike[str], progress: RowProgress | None = None) -> Path:
    """Write the PDEBench file `whole` from its parts, which are then deleted.

    Raises:
        UserError: those of `open_parts`, and ``no_layout`` for what PDEBench does not publish.
    """
    path = Path(whole)
    with closing(_joined(open_parts(path))) as source:
        write_pdebench(path, source, progress)
    shutil.rmtree(parts_folder(path))
    return path


def merge_store(whole: str | os.PathLike[str], progress: RowProgress | None = None) -> Store:
    """Write the store `whole` from its parts, which are then deleted; resumable as any store.

    Raises:
        UserError: those of `open_parts` and `StoreWriter`.
    """
    path = Path(whole)
    parts = open_parts(path)
    first, provenance = parts[0].manifest, dict(parts[0].manifest.provenance)
    rows_per_shard, batch = provenance.pop(PART)["rows_per_shard"], provenance["batch"]
    with closing(_joined(parts)) as source, StoreWriter(path, first.layout, provenance, rows_per_shard) as writer:
        count = source.n_trajectories
        for start in range(writer.written, count, batch):
            rows = range(start, min(start + batch, count))
            writer.append(source.read(rows), source.coefficients[start : rows.stop], source.read_static(rows))
            if progress is not None:
                progress(rows.stop, count)
        store = writer.close()
    shutil.rmtree(parts_folder(path))
    return store


def open_parts(whole: Path) -> list[Store]:
    """The parts of `whole` in the order of their rows, all there, of one generation, and with their checksums.

    Raises:
        UserError: ``parts_missing``, ``parts_differ``, ``store_corrupt``, and those of `Store.open`.
    """
    folder = parts_folder(whole)
    parts = [Store.open(found.parent) for found in folder.glob(f"*/{MANIFEST}")]
    if not parts:
        raise UserError(
            "parts_missing", f"{folder} holds no part", hint="make the parts with `ups data generate --shard`"
        )
    parts.sort(key=lambda part: (_rows(part).start, _rows(part).stop))
    _check_complete(folder, parts)
    for part in parts:
        for shard in part.manifest.shards:
            for name, expected in shard.sha256.items():
                if sha256_of(part.path / name) != expected:
                    raise UserError("store_corrupt", f"{part.path / name} is not what its manifest says")
    return parts


def write_pdebench(path: Path, source: TrajectorySource, progress: RowProgress | None = None) -> None:
    """Write generated trajectories as a file in PDEBench's layout."""
    table = {name: source.coefficients[:, index] for index, name in enumerate(source.coefficient_names)}
    family = known_family(source.family)
    header = Header(family, source.grid, source.times, table, source.n_trajectories, boundary=source.boundary)
    write_file(path, header, source, PdebenchExporter.format, progress)


def _joined(parts: Sequence[Store]) -> Concat:
    return Concat([partial(Store.open, part.path) for part in parts])


def _rows(part: Store) -> range:
    """The rows of the whole that a part has."""
    recorded: dict[str, Any] = part.manifest.provenance.get(PART) or {}
    if "rows" not in recorded:
        raise UserError("parts_differ", f"{part.path} is no part of a generation")
    return range(*recorded["rows"])


def _check_complete(folder: Path, parts: Sequence[Store]) -> None:
    described = [
        (part.manifest.layout, {**part.manifest.provenance, PART: part.manifest.provenance[PART]["rows_per_shard"]})
        for part in parts
    ]
    for part, description in zip(parts, described, strict=True):
        if description != described[0]:
            raise UserError(
                "parts_differ",
                f"{part.path.name} and {parts[0].path.name} of {folder} are parts of different generations",
                hint="make all parts with the same command, but for --shard, and delete the others",
            )
    count, done = int(parts[0].manifest.provenance["count"]), 0
    for rows in [*map(_rows, parts), range(count, count)]:
        if rows.start != done:
            found = "are missing" if rows.start > done else "are there twice"
            low, high = sorted((done, rows.start))
            raise UserError("parts_missing", f"trajectories {low} to {high - 1} of {folder} {found}", got=len(parts))
        done = rows.stop
