"""Measuring the error envelope of a trained model on trajectories of a store."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ups_server.data.atomic import replacing
from ups_server.data.store import Store
from ups_server.data.windows import Windows
from ups_server.errors import UserError
from ups_server.model.config import FamilyCard
from ups_server.model.envelope import FamilyEnvelope, conformal_bounds, measured_coverage, spread_of
from ups_server.solve.solver import Problem, Solver, rollout

Array = NDArray[np.float64]

BATCH_POINTS = 2**16
"""Grid points of the states that are stepped at once: beyond it, steps cost more than in smaller batches."""
MAX_BATCH = 16


def rollout_errors(
    solver: Solver,
    card: FamilyCard,
    windows: Windows,
    rows: NDArray[np.int64],
    progress: Callable[[int], None] = lambda done: None,
    kept: Path | None = None,
) -> Array:
    """Errors (N, T, C) of rollouts from the first frames, in units of the family's spread (see `model.envelope`).

    Args:
        progress: told how many rollouts are done.
        kept: folder where the errors of every batch are kept, and from which a measurement that was interrupted goes
            on; of one solver, one grid and one way of drawing trajectories.
    """
    errors = []
    batch = min(max(BATCH_POINTS // math.prod(windows.grid.n), 1), MAX_BATCH)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        file = None if kept is None else kept / f"{part[0]:06d}-{part[-1]:06d}.npy"
        if file is not None and file.exists():
            errors.append(np.load(file))
        else:
            errors.append(_errors(solver, card, windows, part))
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(file) as partial, partial.open("wb") as stream:
                    np.save(stream, errors[-1])
        progress(min(start + batch, len(rows)))
    return np.concatenate(errors)


def _errors(solver: Solver, card: FamilyCard, windows: Windows, rows: NDArray[np.int64]) -> Array:
    truth, static = windows.trajectories(rows), windows.static(rows)
    store = windows.store
    coefficients = dict(zip(store.coefficient_names, store.coefficients[rows].T.tolist(), strict=True))
    problem = Problem(store.family, coefficients, windows.grid, store.boundary, windows.dt)
    session = solver.session(problem, truth[:, 0], static)
    space = tuple(range(1, truth.ndim - 2))
    errors = [
        np.sqrt(np.square(frame - truth[:, step + 1], dtype=np.float64).mean(axis=space))
        for step, frame in enumerate(rollout(session, truth.shape[1] - 1))
    ]
    means = truth[:, 0].astype(np.float64).mean(axis=space)
    relative = np.isin(card.fields, card.statistics.relative)
    unit = np.asarray(card.statistics.std) * np.where(relative, means, 1.0)
    relative_errors: Array = np.stack(errors, axis=1) / unit[:, None]
    return relative_errors


def calibrate(
    solver: Solver,
    card: FamilyCard,
    store: Store,
    n: int,
    test: int,
    level: float = 0.9,
    progress: Callable[[int], None] = lambda done: None,
    kept: Path | None = None,
) -> FamilyEnvelope:
    """The envelope from the trajectories of a store that chose nothing: the last `test` measure its coverage, of the
    others a quarter gives its shape and the rest its size. `progress` is told how many rollouts are done; `kept` is the
    folder of those that need not be done again (`rollout_errors`).

    Raises:
        UserError: ``too_few_trajectories``.
    """
    windows = Windows(store, card.dt, n, split=None, augment=False)
    others = len(store) - test
    shape = max(1, others // 4)
    if others - shape < 1 / (1 - level) or test < 1:
        raise UserError("too_few_trajectories", "an envelope needs more trajectories", got=len(store))
    errors = rollout_errors(solver, card, windows, windows.rows, progress, kept)
    bounds = conformal_bounds(errors[:shape], errors[shape:others], level)
    coverage = measured_coverage(bounds, errors[others:])
    names = store.coefficient_names
    ranges = {
        name: (float(column.min()), float(column.max()))
        for name, column in zip(names, store.coefficients.T, strict=True)
    }
    return FamilyEnvelope(
        family=store.family,
        coefficients=ranges,
        dt=card.dt,
        n=n,
        level=level,
        bounds={name: tuple(bounds[:, index].tolist()) for index, name in enumerate(card.fields)},
        spread=spread_of(card.statistics),
        relative=card.statistics.relative,
        calibration=others,
        test=test,
        coverage=dict(zip(card.fields, coverage, strict=True)),
    )
