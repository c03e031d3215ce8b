"""Copying a file of trajectories into our own layout: trainers never open a user's HDF5."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.build import Progress
from ups_server.data.manifest import GridRecord, Layout
from ups_server.data.source import TrajectorySource, frame_slices
from ups_server.data.store import Store
from ups_server.data.writer import StoreWriter
from ups_server.errors import UserError


def transcode(
    source: TrajectorySource,
    path: str | os.PathLike[str],
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Store:
    """Copy all trajectories of `source` into a store at `path`, in constant memory; rows keep their numbers.

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
    with StoreWriter(path, layout, provenance) as writer:
        for row in range(writer.written, source.n_trajectories):
            static = source.read_static([row])
            if static is not None:
                _refuse_unless_finite(static, row)
            writer.append_pieces(_frames(source, row), source.coefficients[row], None if static is None else static[0])
            if progress is not None:
                progress(row + 1, source.n_trajectories)
        return writer.close()


def _frames(source: TrajectorySource, row: int) -> Iterator[NDArray[np.float32]]:
    for frames in frame_slices(source):
        values = source.read([row], frames)
        _refuse_unless_finite(values, row)
        yield values[0]


def _refuse_unless_finite(values: NDArray[np.float32], row: int) -> None:
    if not np.isfinite(values).all():
        raise UserError("non_finite", f"trajectory {row} holds values that are not finite")
