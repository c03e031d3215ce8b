"""Validation during training: one-step and rollout error per family, against persistence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ups_server.data.windows import Windows
from ups_server.model.ups import Operator
from ups_server.solve.neural import UPSSolver
from ups_server.solve.solver import Frames, Problem, rollout
from ups_server.train.dataset import FamilyWindows


@dataclass(frozen=True)
class Score:
    """Relative errors over the trajectory-wide norm, averaged over fields and trajectories; persistence beside them."""

    one_step: float
    rollout: float
    persistence: float


def validate(model: Operator, families: Sequence[FamilyWindows]) -> dict[str, Score]:
    """Scores of every family on its validation trajectories."""
    was_training = model.training
    model.eval()
    solver = UPSSolver(model)
    scores = {entry.id: score(solver, entry.id, entry.validation, entry.data.validation) for entry in families}
    model.train(was_training)
    return scores


def total(scores: dict[str, Score]) -> float:
    """One number to choose by: mean over families of log one-step plus log rollout error (inf if not finite)."""
    values = np.array([[score.one_step, score.rollout] for score in scores.values()])
    return float(np.log(values).mean()) if np.isfinite(values).all() else float("inf")


def score(solver: UPSSolver, family_id: str, windows: Windows, count: int) -> Score:
    """The scores of the first `count` trajectories of a split."""
    rows = windows.rows[:count]
    truth = windows.trajectories(rows)
    coefficients = dict(zip(windows.store.coefficient_names, windows.store.coefficients[rows].T.tolist(), strict=True))
    problem = Problem(family_id, coefficients, windows.grid, windows.store.boundary, windows.dt)
    static = windows.static(rows)
    predicted = solver.one_step(problem, truth, static)
    if predicted is None:
        raise TypeError("a trained model always predicts one step")
    session = solver.session(problem, truth[:, 0], static)
    rolled = np.stack(list(rollout(session, truth.shape[1] - 1)), axis=1)
    target = truth[:, 1:]
    return Score(_relative(predicted, target), _relative(rolled, target), _relative(truth[:, :-1], target))


def _relative(prediction: Frames, target: Frames) -> float:
    axes = tuple(range(1, target.ndim - 1))
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.square(prediction - target, dtype=np.float64).sum(axes)
        return float(np.sqrt(error / np.square(target, dtype=np.float64).sum(axes)).mean())
