"""Measuring the error envelopes of a trained model, at the points that it can be asked for.

The truth is a store of the family's own initial states, each solved in one go on a fine grid; the model is given some
of its points, as a request would, and rolled out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ups_server.data.atomic import replacing
from ups_server.data.source import Rows
from ups_server.data.store import Store
from ups_server.data.windows import frame_stride
from ups_server.errors import UserError
from ups_server.evaluation.envelope import FamilyEnvelope, conformal_bounds, measured_coverage, spread_of
from ups_server.model.config import KnownFamily
from ups_server.model.lead_config import LeadCard
from ups_server.pde import Grid
from ups_server.pde.grid import Array
from ups_server.solvers.solver import Frames, Problem, Solver, rollout

BATCH_POINTS = 2**16
"""Grid points of the states that are stepped at once: beyond it, steps cost more than in smaller batches."""
MAX_BATCH = 16


@dataclass(frozen=True)
class Observed:
    """Trajectories of a store, at every `stride`-th point from point `first` on."""

    store: Store
    stride: int = 1
    first: int = 0

    @classmethod
    def at(cls, store: Store, grid: Grid) -> "Observed":
        """At the points of `grid`.

        Raises:
            UserError: ``resolution_mismatch`` where they are not among those of the store.
        """
        stride = store.grid.stride_to(grid.n[0])
        first = round(grid.offset[0] * stride - store.grid.offset[0])
        found = store.grid.subsample(stride, first)
        if found.n != grid.n or not np.allclose(found.offset, grid.offset):
            raise UserError("resolution_mismatch", "the store has no such points", got=grid.offset)
        return cls(store, stride, first)

    @property
    def grid(self) -> Grid:
        return self.store.grid.subsample(self.stride, self.first)

    def frames(self, rows: Rows, dt: float) -> Frames:
        """(N, T, X..., C) at multiples of dt."""
        return self.store.read(rows, slice(0, None, frame_stride(self.store.times, dt)), self.stride, self.first)

    def static(self, rows: Rows) -> Frames | None:
        """(N, X..., S), None for families without."""
        return self.store.read_static(rows, self.stride, self.first)


def rollout_errors(
    solver: Solver,
    card: KnownFamily | LeadCard,
    observed: Observed,
    rows: NDArray[np.int64],
    progress: Callable[[int], None] = lambda done: None,
    kept: Path | None = None,
) -> Array:
    """Errors (N, T, C) of rollouts from the first frames, in units of the family's spread (see `model.envelope`).

    Where a rollout is not finite its error is infinite.

    Args:
        progress: called with the number of rollouts that are done.
        kept: folder where the errors of every batch are kept, and from which a measurement that was interrupted goes
            on; of one solver, one grid and one way of drawing trajectories.
    """
    errors = []
    batch = min(max(BATCH_POINTS // math.prod(observed.grid.n), 1), MAX_BATCH)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        file = None if kept is None else kept / f"{part[0]:06d}-{part[-1]:06d}.npy"
        if file is not None and file.exists():
            errors.append(np.load(file))
        else:
            errors.append(_errors(solver, card, observed, part))
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(file) as partial, partial.open("wb") as stream:
                    np.save(stream, errors[-1])
        progress(min(start + batch, len(rows)))
    return np.concatenate(errors)


def _errors(solver: Solver, card: KnownFamily | LeadCard, observed: Observed, rows: NDArray[np.int64]) -> Array:
    truth, static = observed.frames(rows, card.dt), observed.static(rows)
    store = observed.store
    coefficients = dict(zip(store.coefficient_names, store.coefficients[rows].T.tolist(), strict=True))
    problem = Problem(store.family, coefficients, observed.grid, store.boundary, card.dt)
    session = solver.session(problem, truth[:, 0], static)
    space = tuple(range(1, truth.ndim - 2))
    with np.errstate(all="ignore"):
        errors = [
            np.sqrt(np.square(frame - truth[:, step + 1], dtype=np.float64).mean(axis=space))
            for step, frame in enumerate(rollout(session, truth.shape[1] - 1))
        ]
    means = truth[:, 0].astype(np.float64).mean(axis=space)
    relative = np.isin(card.fields, card.statistics.relative)
    unit = np.asarray(card.statistics.std) * np.where(relative, means, 1.0)
    found = np.stack(errors, axis=1) / unit[:, None]
    return np.where(np.isfinite(found), found, np.inf)


def calibrate(
    solver: Solver,
    card: KnownFamily | LeadCard,
    observed: Sequence[Observed],
    test: int,
    level: float = 0.9,
    progress: Callable[[int], None] = lambda done: None,
    kept: Path | None = None,
) -> FamilyEnvelope:
    """The envelope from trajectories that chose nothing, seen at grids that differ along periodic axes only.

    Of each store the last `test` measure the coverage, of the others a quarter gives the shape and the rest the size.
    `progress` is called with the number of rollouts done; `kept` is the folder of those that need not be done again
    (`rollout_errors`).

    Raises:
        UserError: ``too_few_trajectories``, ``no_bounds`` where too many rollouts stop being finite, ``invalid_grid``
            where the grids differ along another axis.
    """
    store, places = observed[0].store, {_place(part) for part in observed}
    if len(places) != 1:
        raise UserError("invalid_grid", "one envelope is for one kind of grid", got=sorted(map(str, places)))
    parts: dict[str, list[Array]] = {"shape": [], "size": [], "test": []}
    done = 0
    for part in observed:
        others = len(part.store) - test
        shape = max(1, others // 4)
        folder = None if kept is None else kept / "-".join(f"{place:g}" for place in part.grid.offset)
        rows = np.arange(len(part.store))
        errors = rollout_errors(solver, card, part, rows, partial(_add, progress, done), folder)
        for name, chosen in zip(parts, np.split(errors, [shape, others]), strict=True):
            parts[name].append(chosen)
        done += len(rows)
    shapes, sizes, tests = (np.concatenate(found) for found in parts.values())
    if len(sizes) < 1 / (1 - level) or not len(tests):
        raise UserError("too_few_trajectories", "an envelope needs more trajectories", got=len(sizes))
    typical = np.median(shapes, axis=0)
    bounds = conformal_bounds(shapes, sizes, level) if np.isfinite(typical).all() else np.full_like(typical, np.inf)
    if not np.isfinite(bounds).all():
        raise UserError("no_bounds", "too many of these rollouts stop being finite for any bound", got=store.family)
    ((n, offset),) = places
    if len(set(n)) != 1:
        raise UserError("invalid_grid", "an envelope is for as many points along every axis", got=n)
    ranges = {
        name: (float(column.min()), float(column.max()))
        for name, column in zip(store.coefficient_names, store.coefficients.T, strict=True)
    }
    coverage = measured_coverage(bounds, tests)
    return FamilyEnvelope(
        family=store.family,
        coefficients=ranges,
        boundary=tuple((low, high) for low, high in store.boundary.as_names()),
        dt=card.dt,
        n=n[0],
        offset=offset,
        level=level,
        bounds={name: tuple(bounds[:, index].tolist()) for index, name in enumerate(card.fields)},
        spread=spread_of(card.statistics),
        relative=card.statistics.relative,
        calibration=len(shapes) + len(sizes),
        test=len(tests),
        coverage=dict(zip(card.fields, coverage, strict=True)),
    )


def _add(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def _place(observed: Observed) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """Points per axis, and their offset along the bounded ones: along a periodic axis no place is special."""
    grid, periodic = observed.grid, observed.store.boundary.periodic
    return grid.n, tuple(None if wraps else place for wraps, place in zip(periodic, grid.offset, strict=True))
