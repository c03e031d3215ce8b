"""Writing a store, row by row or as the copy of a source; resumable at whole shards.

A shard is written beside its final name, flushed to disk and renamed, values last: a shard whose values have their
final name is complete. The manifest is written after all of them, so a store with a manifest is whole.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from ups_server.data.atomic import replacing, sync_folder
from ups_server.data.composed import Subset
from ups_server.data.source import LeftOut, RowProgress, TrajectorySource, block_rows, frame_slices, grouped
from ups_server.data.store import (
    COEFFICIENT,
    MANIFEST,
    PLAN,
    VALUE,
    Shard,
    Store,
    StoreLayout,
    StoreManifest,
    fingerprint,
)
from ups_server.errors import UserError

SHARD_BYTES = 64 * 2**20
"""Size a shard aims at: what an interrupted build loses at most."""
PARTIAL = ".part"


class StoreWriter:
    """Appends rows to a new store, or to one whose writer was interrupted.

    Args:
        path: folder of the store; made if absent.
        layout: what every row has in common.
        provenance: where the rows come from; a resumed store must have been begun with the same.
        left_out: rows of the file that is copied which are not to be in the store.
        rows_per_shard: default: as many as fit `SHARD_BYTES`. Callers that resume make it a multiple of their batch.

    Raises:
        UserError: ``store_exists`` where `path` holds a finished store, or one begun with another layout.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layout: StoreLayout,
        provenance: dict[str, Any] | None = None,
        rows_per_shard: int | None = None,
        left_out: Sequence[LeftOut] | None = None,
    ) -> None:
        self.path = Path(path)
        self.layout = layout
        self.provenance = self.plain(provenance or {})
        self.left_out = None if left_out is None else tuple(left_out)
        row_bytes = int(np.prod(layout.row_shape)) * VALUE.itemsize
        self.rows_per_shard = rows_per_shard or max(1, SHARD_BYTES // row_bytes)
        self._begin()
        self._shards = list(self._finished_shards())
        self._current: _ShardFiles | None = None
        self.store: Store | None = None

    @staticmethod
    def plain(provenance: Mapping[str, Any]) -> dict[str, Any]:
        """The provenance as JSON gives it back (tuples become lists), for comparison."""
        plain: dict[str, Any] = json.loads(json.dumps(provenance))
        return plain

    @property
    def written(self) -> int:
        """Rows that survive an interruption now."""
        return sum(shard.count for shard in self._shards)

    def append(
        self,
        values: NDArray[np.floating],
        coefficients: NDArray[np.floating],
        static: NDArray[np.floating] | None = None,
    ) -> None:
        """Add rows: values (n, T, X..., C), coefficients (n, K), static (n, X..., S) for families that have them.

        Raises:
            UserError: ``wrong_shape``.
        """
        count = len(values)
        _check_shape("values", values, (count, *self.layout.row_shape))
        _check_shape("coefficients", coefficients, (count, len(self.layout.coefficients)))
        if self.layout.static_fields:
            _check_shape("static", static, (count, *self.layout.static_shape))
        done = 0
        while done < count:
            if self._current is None:
                self._current = _ShardFiles(self.path, len(self._shards), bool(self.layout.static_fields))
            part = slice(done, done + min(count - done, self.rows_per_shard - self._current.count))
            self._current.write(values[part], coefficients[part], None if static is None else static[part])
            done = part.stop
            if self._current.count == self.rows_per_shard:
                self._finish_shard()

    def append_pieces(
        self,
        pieces: Iterable[NDArray[np.floating]],
        coefficients: NDArray[np.floating],
        static: NDArray[np.floating] | None = None,
    ) -> None:
        """Add one row whose frames come in consecutive pieces (F, X..., C), so that it never lies in memory whole.

        Args:
            coefficients: (K,)
            static: (X..., S) for families that have it.

        Raises:
            UserError: ``wrong_shape``; whatever it was, the shard being written is lost.
        """
        _check_shape("coefficients", coefficients, (len(self.layout.coefficients),))
        if self.layout.static_fields:
            _check_shape("static", static, self.layout.static_shape)
        if self._current is None:
            self._current = _ShardFiles(self.path, len(self._shards), bool(self.layout.static_fields))
        frames, *state = self.layout.row_shape
        done = 0
        for piece in pieces:
            _check_shape("values", piece, (min(len(piece), frames - done), *state))
            self._current.write_part(piece)
            done += len(piece)
        if done != frames:
            raise UserError("wrong_shape", "values do not fit the store", got=done, expected=frames)
        self._current.finish_row(coefficients, static)
        if self._current.count == self.rows_per_shard:
            self._finish_shard()

    def close(self) -> Store:
        """Finish the last shard and write the manifest."""
        self._finish_shard()
        shards = tuple(self._shards)
        manifest = StoreManifest(
            layout=self.layout,
            count=self.written,
            shards=shards,
            left_out=self.left_out,
            provenance=self.provenance,
            fingerprint=fingerprint(self.layout, shards),
        )
        _write_atomically(self.path / MANIFEST, manifest.model_dump_json(indent=1))
        (self.path / PLAN).unlink()
        self.store = Store.open(self.path)
        return self.store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None and self.store is None:
            self.close()
        elif self._current is not None:
            self._current.abandon()

    def _begin(self) -> None:
        settings: dict[str, Any] = {
            "layout": self.layout.model_dump(mode="json"),
            "provenance": self.provenance,
            "rows_per_shard": self.rows_per_shard,
        }
        if self.left_out:
            settings["left_out"] = [group.model_dump(mode="json") for group in self.left_out]
        plan = json.dumps(settings, indent=1)
        file = self.path / PLAN
        if (self.path / MANIFEST).exists():
            raise UserError(
                "store_exists", f"{self.path} is a finished store", hint="delete it, or choose another path"
            )
        if file.exists() and file.read_text() != plan:
            raise UserError(
                "store_exists",
                f"{self.path} was begun with other settings",
                hint="delete it, or repeat the command that began it",
            )
        self.path.mkdir(parents=True, exist_ok=True)
        _write_atomically(file, plan)

    def _finished_shards(self) -> Iterator[Shard]:
        has_static = bool(self.layout.static_fields)
        row_bytes = int(np.prod(self.layout.row_shape)) * VALUE.itemsize
        index = 0
        while (values := self.path / _names(index, has_static)[0]).exists():
            count = values.stat().st_size // row_bytes
            # A short shard can only be the last of a store whose manifest was about to be written: write it again.
            if count < self.rows_per_shard:
                values.unlink()
                return
            names = _names(index, has_static)
            yield _shard(names, count, {name: sha256_of(self.path / name) for name in names})
            index += 1

    def _finish_shard(self) -> None:
        if self._current is not None:
            self._shards.append(self._current.finish())
            self._current = None


class _ShardFiles:
    """The files of the shard being written, under temporary names."""

    def __init__(self, folder: Path, index: int, has_static: bool) -> None:
        self.folder = folder
        self.names = _names(index, has_static)
        self.count = 0
        self._files: list[BinaryIO] = [(folder / (name + PARTIAL)).open("wb") for name in self.names]
        self._hashes = [hashlib.sha256() for _ in self.names]

    def write(
        self,
        values: NDArray[np.floating],
        coefficients: NDArray[np.floating],
        static: NDArray[np.floating] | None,
    ) -> None:
        self._write(0, values, VALUE)
        self._write(1, coefficients, COEFFICIENT)
        if static is not None and len(self.names) > 2:
            self._write(2, static, VALUE)
        self.count += len(values)

    def write_part(self, values: NDArray[np.floating]) -> None:
        """Some frames (F, X..., C) of a row."""
        self._write(0, values, VALUE)

    def finish_row(self, coefficients: NDArray[np.floating], static: NDArray[np.floating] | None) -> None:
        """The rest of a row whose frames are all written."""
        self._write(1, coefficients, COEFFICIENT)
        if static is not None and len(self.names) > 2:
            self._write(2, static, VALUE)
        self.count += 1

    def _write(self, which: int, array: NDArray[np.floating], dtype: np.dtype[Any]) -> None:
        content = np.ascontiguousarray(array, dtype).data
        self._files[which].write(content)
        self._hashes[which].update(content)

    def finish(self) -> Shard:
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for name in reversed(self.names):
            os.replace(self.folder / (name + PARTIAL), self.folder / name)
        sync_folder(self.folder)
        checksums = {name: digest.hexdigest() for name, digest in zip(self.names, self._hashes, strict=True)}
        return _shard(self.names, self.count, checksums)

    def abandon(self) -> None:
        for file in self._files:
            file.close()


def _names(index: int, has_static: bool) -> list[str]:
    names = [f"values-{index:05d}.f32", f"coefficients-{index:05d}.f64"]
    return [*names, f"static-{index:05d}.f32"] if has_static else names


def _shard(names: list[str], count: int, checksums: dict[str, str]) -> Shard:
    static = names[2] if len(names) > 2 else None
    return Shard(values=names[0], coefficients=names[1], static=static, count=count, sha256=checksums)


def _check_shape(what: str, array: NDArray[np.floating] | None, expected: tuple[int, ...]) -> None:
    got = None if array is None else array.shape
    if got != expected:
        raise UserError("wrong_shape", f"{what} do not fit the store", got=got, expected=expected)


def sha256_of(file: Path) -> str:
    """The checksum of a file as manifests list it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_atomically(file: Path, text: str) -> None:
    with replacing(file) as partial:
        partial.write_text(text)


def transcode(
    source: TrajectorySource,
    path: str | os.PathLike[str],
    provenance: dict[str, Any] | None = None,
    progress: RowProgress | None = None,
    left_out: Mapping[int, str] | None = None,
) -> Store:
    """Copy the trajectories of `source` into a store at `path`, in constant memory; the store knows their numbers.

    Trainers read such a copy and never open a user's own file.

    Args:
        left_out: rows of `source` that are not copied -> why; see `ups_server.data.scan`.

    Raises:
        UserError: ``non_finite`` where a value is not finite, and those of `StoreWriter`.
    """
    layout = StoreLayout.of(source)
    if left_out:
        kept = [row for row in range(source.n_trajectories) if row not in left_out]
        source = Subset(source, kept, left_out)
    with StoreWriter(path, layout, provenance, left_out=grouped(source.row_numbers.left_out)) as writer:
        done = writer.written
        for block in block_rows(source):
            rows = range(max(done, block.start), block.stop)
            if not rows:
                continue
            static = source.read_static(rows)
            if static is not None:
                _refuse_unless_finite(static, rows)
            coefficients = source.coefficients[rows.start : rows.stop]
            if len(rows) > 1:
                values = source.read(rows)
                _refuse_unless_finite(values, rows)
                writer.append(values, coefficients, static)
            else:
                frames = _frames(source, rows)
                writer.append_pieces(frames, coefficients[0], None if static is None else static[0])
            if progress is not None:
                progress(rows.stop, source.n_trajectories)
        return writer.close()


def _frames(source: TrajectorySource, rows: range) -> Iterator[NDArray[np.float32]]:
    """The frames of one row in pieces of bounded size."""
    for frames in frame_slices(source):
        values = source.read(rows, frames)
        _refuse_unless_finite(values, rows)
        yield values[0]


def _refuse_unless_finite(values: NDArray[np.float32], rows: range) -> None:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        bad = rows[int(np.flatnonzero(~finite)[0])]
        raise UserError("non_finite", f"trajectory {bad} holds values that are not finite")
