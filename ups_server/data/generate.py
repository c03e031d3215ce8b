"""Generating files in PDEBench's layout from a family's reference solver."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ups_server.data.build import Progress, solved_in_order
from ups_server.data.draw import CoefficientDraw
from ups_server.data.pdebench.card import card_of
from ups_server.data.pdebench.writing import write_pdebench
from ups_server.data.simulate import complete_draws, draw_table, frame_times, solve_rows
from ups_server.errors import UserError
from ups_server.pde.family import Family

BATCH = 32


def generate(
    family: Family,
    coefficients: Mapping[str, float | CoefficientDraw],
    count: int,
    resolution: int,
    out: str | os.PathLike[str],
    seed: int,
    progress: Progress | None = None,
    frame_dt: float | None = None,
    t_final: float | None = None,
    workers: int = 1,
) -> Path:
    """Solve `count` trajectories and write them in PDEBench's layout; returns the path.

    Initial states depend on seed and row alone: files of several coefficients, and of families that share their
    initial states, share them row by row. Coefficients may also be drawn per trajectory, which the file then lists.

    Raises:
        UserError: those of `build_store`, and ``no_layout`` for a family PDEBench does not publish.
    """
    path = Path(out)
    if count < 1 or workers < 1:
        raise UserError("invalid_count", "count and workers must be positive", got=(count, workers))
    if not path.parent.is_dir():
        raise UserError("not_found", f"there is no folder {path.parent}")
    if card_of(family.id) is None:
        raise UserError("no_layout", f"PDEBench has no layout for {family.id}", hint="build a store instead")
    draws = complete_draws(family, coefficients)
    grid, times = family.default_grid(resolution), frame_times(family, frame_dt, t_final)
    solve = partial(solve_rows, family, draws, seed=seed, grid=grid, times=times)
    rows = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]

    def batches() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
        done = 0
        for batch in solved_in_order(solve, rows, workers):
            yield batch.values, batch.static
            done += len(batch.values)
            if progress is not None:
                progress(done, count)

    columns = draw_table(draws, seed, range(count))
    table = {name: columns[:, index] for index, name in enumerate(draws)}
    write_pdebench(path, family, table, batches(), times, grid, count)
    return path
