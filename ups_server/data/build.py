"""Building a training store from a family's reference solver."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ups_server import __version__
from ups_server.data.export import write_file
from ups_server.data.formats.base import Header
from ups_server.data.formats.pdebench.card import card_of
from ups_server.data.formats.pdebench.writing import PdebenchExporter, boundary_word
from ups_server.data.simulate import (
    Draw,
    Solved,
    complete_draws,
    complete_kinds,
    draws_together,
    frame_times,
    solve_rows,
    solve_together,
)
from ups_server.data.source import Progress
from ups_server.data.store import MANIFEST, VALUE, GridRecord, Layout, Store
from ups_server.data.writer import SHARD_BYTES, StoreWriter
from ups_server.errors import UserError
from ups_server.pde.family import RAND, Family
from ups_server.pde.grid import BoundaryCondition, Grid


def build_store(
    family: Family,
    draw: Mapping[str, Draw | float],
    count: int,
    resolution: int,
    seed: int,
    path: str | os.PathLike[str],
    batch: int = 64,
    progress: Progress | None = None,
    frame_dt: float | None = None,
    t_final: float | None = None,
    workers: int = 1,
    offset: float = Grid.CENTRE,
    kinds: Mapping[str, float] = MappingProxyType({}),
) -> Store:
    """Solve `count` trajectories with coefficients drawn per trajectory and keep them as a store.

    The same settings always give the same bytes: a build that was interrupted resumes at its last whole shard, one
    that was finished is opened. Initial states depend on seed and row alone, so stores of families that share their
    initial states share them row by row.

    Args:
        family: `Family.under` a boundary condition where that is not the usual one, or `Family.in_single` precision.
        draw: how each coefficient is drawn; a number fixes it; those not given stay at their default. Where none is
            given, a family may draw them together (`Family.sample_coefficients`).
        resolution: points per axis.
        batch: trajectories solved together.
        frame_dt, t_final: default to the family's.
        workers: processes that solve; 1 solves in this one.
        offset: place of the first point along every axis, in spacings.
        kinds: shares of the kinds of initial states; default the usual one alone.

    Raises:
        UserError: ``dt_mismatch``, ``store_exists`` (the folder holds a store of other settings), ``solver_diverged``,
            and those of `complete_draws` and `complete_kinds`.
    """
    if count < 1 or batch < 1 or workers < 1:
        raise UserError("invalid_count", "count, batch and workers must be positive", got=(count, batch, workers))
    draws, shares = complete_draws(family, draw), complete_kinds(family, kinds)
    grid = Grid((resolution,) * family.ndim, family.extent, (offset,) * family.ndim)
    times = frame_times(family, frame_dt, t_final)
    layout = family_layout(family, grid, times)
    together = draws_together(family, draw)
    provenance: dict[str, object] = {
        "generator": f"ups_server {__version__}",
        "count": count,
        "seed": seed,
        "batch": batch,
        "draw": "together" if together else {name: entry.model_dump(mode="json") for name, entry in draws.items()},
    }
    if list(shares) != [RAND]:
        provenance["kinds"] = shares
    if family.single:
        provenance["single"] = True
    if (Path(path) / MANIFEST).exists():
        return _finished(path, layout, provenance)
    row_bytes = int(np.prod(layout.row_shape)) * VALUE.itemsize
    per_shard = batch * max(1, SHARD_BYTES // (batch * row_bytes))
    solve = partial(solve_rows, family, draws, seed=seed, grid=grid, times=times, kinds=shares)
    if together:
        solve = partial(solve_together, family, seed=seed, grid=grid, times=times)
    with StoreWriter(path, layout, provenance, per_shard) as writer:
        done = writer.written
        batches = [range(start, min(start + batch, count)) for start in range(done, count, batch)]
        for solved in solved_in_order(solve, batches, workers):
            writer.append(solved.values, solved.coefficients, solved.static)
            done += len(solved.values)
            if progress is not None:
                progress(done, count)
        return writer.close()


def family_layout(family: Family, grid: Grid, times: NDArray[np.float64]) -> Layout:
    """The store layout of a family's trajectories."""
    return Layout(
        family=family.id,
        fields=tuple(field.name for field in family.fields),
        grid=GridRecord.of(grid),
        times=tuple(times.tolist()),
        boundary=tuple((low, high) for low, high in family.boundary.as_names()),
        coefficients=tuple(coefficient.name for coefficient in family.coefficients),
        static_fields=tuple(field.name for field in family.static_fields),
    )


def _finished(path: str | os.PathLike[str], layout: Layout, provenance: dict[str, object]) -> Store:
    store = Store.open(path)
    if store.manifest.layout != layout or store.manifest.provenance != StoreWriter.plain(provenance):
        raise UserError("store_exists", f"{path} holds a store of other settings", hint="choose another path")
    return store


def solved_in_order(solve: Callable[[range], Solved], batches: list[range], workers: int) -> Iterator[Solved]:
    """Solve the batches of rows and yield them in their order; at most one more in flight than there are workers."""
    if workers == 1:
        yield from map(solve, batches)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        flight: deque[Future[Solved]] = deque()
        for rows in batches:
            flight.append(pool.submit(solve, rows))
            if len(flight) > workers:
                yield flight.popleft().result()
        while flight:
            yield flight.popleft().result()


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
        header = Header(family, grid, times, table, count, boundary=boundary)
        write_file(path, header, store, PdebenchExporter.format)
    shutil.rmtree(rows)
    return path
