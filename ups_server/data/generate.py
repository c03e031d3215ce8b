"""Generating files in PDEBench's layout from a family's reference solver.

Rows are gathered in a store beside the file, which an interrupted run leaves behind and the same command continues.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ups_server.data.build import Progress, build_store
from ups_server.data.draw import Draw
from ups_server.data.pdebench.card import card_of
from ups_server.data.pdebench.writing import boundary_word, write_pdebench
from ups_server.data.simulate import frame_times
from ups_server.data.source import block_rows
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition

BATCH = 32
BATCH_BYTES = 64 * 2**20
"""Rows solved together: `BATCH`, or as many as fill this; an interruption loses little more."""


def generate(
    family: Family,
    coefficients: Mapping[str, float | Draw],
    count: int,
    resolution: int,
    out: str | os.PathLike[str],
    seed: int,
    progress: Progress | None = None,
    frame_dt: float | None = None,
    t_final: float | None = None,
    workers: int = 1,
    kinds: Mapping[str, float] = MappingProxyType({}),
    boundary: BoundaryCondition | None = None,
) -> Path:
    """Solve `count` trajectories and write them in PDEBench's layout; returns the path.

    Initial states are of the usual kind, or of `kinds` by their shares; the boundary condition is the family's, or
    another that its solver and its files know.

    Initial states depend on seed and row alone: files of several coefficients, and of families that share their
    initial states, share them row by row. Coefficients may also be drawn per trajectory, which the file then lists.

    A run that was interrupted, killed even, goes on after the last rows it had gathered in the folder `OUT.rows`; the
    file is the same as without the interruption.

    Raises:
        UserError: those of `build_store`, and ``no_layout`` for what PDEBench does not publish.
    """
    path = Path(out)
    if not path.parent.is_dir():
        raise UserError("not_found", f"there is no folder {path.parent}")
    card = card_of(family.id)
    if card is None:
        raise UserError("no_layout", f"PDEBench has no layout for {family.id}", hint="build a store instead")
    boundary_word(card, family, boundary)
    equation = family if boundary is None else family.under(boundary)
    grid, times = family.default_grid(resolution), frame_times(family, frame_dt, t_final)
    row_bytes = 4 * len(times) * int(np.prod(grid.n)) * len(family.fields)
    batch = max(1, min(BATCH, BATCH_BYTES // row_bytes))
    rows = path.with_name(f"{path.name}.rows")
    with build_store(
        equation, coefficients, count, resolution, seed, rows, batch, progress, frame_dt, t_final, workers, kinds=kinds
    ) as store:
        table = {name: store.coefficients[:, index] for index, name in enumerate(store.coefficient_names)}
        write_pdebench(path, family, table, _batches(store), times, grid, count, boundary)
    shutil.rmtree(rows)
    return path


def _batches(store: Store) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
    for rows in block_rows(store):
        yield store.read(rows), store.read_static(rows)
