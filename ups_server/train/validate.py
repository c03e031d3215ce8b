"""Validation during training: one-step and rollout error per family, against persistence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ups_server.data.windows import Windows
from ups_server.model.ups import Operator
from ups_server.solvers.neural import UPSSolver
from ups_server.solvers.solver import Frames, Problem, rollout
from ups_server.train.dataset import FamilyWindows


@dataclass(frozen=True)
class Score:
    """Relative errors, averaged over fields and trajectories; persistence beside them.

    Over the norm of the whole trajectory, its first frame included: one that decays within its first step would
    otherwise outweigh all others.
    """

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
    return Score(_relative(predicted, truth), _relative(rolled, truth), _relative(truth[:, :-1], truth))


def _relative(following: Frames, truth: Frames) -> float:
    """Error of what is said to follow each frame but the last."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = following - truth[:, 1:]
        return float(np.sqrt(_mean_square(error) / _mean_square(truth)).mean())


def _mean_square(frames: Frames) -> NDArray[np.float64]:
    """Of each field of each trajectory: (B, T, X..., C) -> (B, C)."""
    square: NDArray[np.float64] = np.square(frames, dtype=np.float64).mean(tuple(range(1, frames.ndim - 1)))
    return square
