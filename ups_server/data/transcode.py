"""Copying a file of trajectories into our own layout: trainers never open a user's HDF5."""

import os
from typing import Any

import numpy as np

from ups_server.data.build import Progress
from ups_server.data.manifest import GridRecord, Layout
from ups_server.data.source import TrajectorySource, blocks
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
    )
    with StoreWriter(path, layout, provenance) as writer:
        done = writer.written
        for rows, values in blocks(source):
            fresh = slice(max(0, done - rows.start), None)
            if rows.stop <= done:
                continue
            finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
            if not finite.all():
                bad = rows[int(np.flatnonzero(~finite)[0])]
                raise UserError("non_finite", f"trajectory {bad} holds values that are not finite")
            writer.append(values[fresh], source.coefficients[rows.start : rows.stop][fresh])
            if progress is not None:
                progress(rows.stop, source.n_trajectories)
        return writer.close()
