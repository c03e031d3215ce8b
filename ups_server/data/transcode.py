"""Copying a file of trajectories into our own layout: trainers never open a user's HDF5."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.build import Progress
from ups_server.data.manifest import GridRecord, Layout
from ups_server.data.rows import grouped
from ups_server.data.selection import SelectedRows
from ups_server.data.source import TrajectorySource, block_rows, frame_slices
from ups_server.data.store import Store
from ups_server.data.writer import StoreWriter
from ups_server.errors import UserError


def transcode(
    source: TrajectorySource,
    path: str | os.PathLike[str],
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
    left_out: Mapping[int, str] | None = None,
) -> Store:
    """Copy the trajectories of `source` into a store at `path`, in constant memory; the store knows their numbers.

    Args:
        left_out: rows of `source` that are not copied -> why; see `ups_server.data.usable`.

    Raises:
        UserError: ``non_finite`` where a value is not finite, and those of `StoreWriter`.
    """
    layout = Layout(
        family=source.family,
        fields=source.fields,
        grid=GridRecord.of(source.grid),
        times=tuple(source.times.tolist()),
        boundary=tuple((low, high) for low, high in source.boundary.as_names()),
        coefficients=source.coefficient_names,
        static_fields=source.static_fields,
    )
    if left_out:
        kept = [row for row in range(source.n_trajectories) if row not in left_out]
        source = SelectedRows(source, kept, left_out)
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
