"""How training is judged: errors on held-out trajectories, what to choose weights by, an adaptation's verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.windows import Windows
from ups_server.errors import UserError
from ups_server.model.operator import Operator
from ups_server.solvers.neural import UPSSolver
from ups_server.solvers.solver import Frames, Problem, Solver, rollout
from ups_server.train.dataset import FamilyWindows

OVERFITTED = 1.2
"""Last validation over best one from which training is said to have overfitted."""
WORST = 10.0
"""Relative rollout error beyond which one is as bad as another when weights are compared."""
Scores = Mapping[str, Any]
"""`FileScores` as JSON values."""
Figures = tuple[float, float]
"""One-step and rollout errors."""
NAMES = ("one-step", "rollout")
OVERFIT = "Training overfitted; the model is the best one by validation, from before that."


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


def score(solver: UPSSolver, family_id: str, windows: Windows, count: int) -> Score:
    """The scores of the first `count` trajectories of a split."""
    rows = windows.rows[:count]
    truth = windows.trajectories(rows)
    coefficients = dict(zip(windows.store.coefficient_names, windows.store.coefficients[rows].T.tolist(), strict=True))
    problem = Problem(family_id, coefficients, windows.grid, windows.store.boundary, windows.dt)
    return scored(solver, problem, truth, windows.static(rows))


def scored(solver: Solver, problem: Problem, truth: Frames, static: Frames | None) -> Score:
    """The scores of a trained model on trajectories (B, T, X..., C)."""
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


def total(scores: dict[str, Score]) -> float:
    """One number to choose by: mean over families of log one-step plus log rollout error (inf if not finite)."""
    values = np.array([[score.one_step, score.rollout] for score in scores.values()])
    return float(np.log(values).mean()) if np.isfinite(values).all() else float("inf")


def criterion(one_step: float, rollout: float) -> float:
    """One number to choose weights by: log of the one-step error plus log of the rollout error, bounded."""
    if not math.isfinite(one_step):
        return math.inf
    bounded = min(rollout, WORST) if math.isfinite(rollout) else WORST
    return math.log(max(one_step, 1e-12)) + math.log(max(bounded, 1e-12))


def outcome(
    zero_shot: Scores, before: Scores, tuned: Scores, curve: Sequence[Mapping[str, Any]], moved: bool
) -> dict[str, Any]:
    """The scores before and after, persistence, and the verdict.

    ``tuned`` in the report is of the weights that are kept: those before tuning where the tuned ones are worse, whose
    scores are then ``rejected``.

    Args:
        zero_shot: of the model as it was.
        before: of the same weights with the statistics that the tuned model has, to compare like with like.
        tuned: of the best weights by validation.
        curve: one-step and rollout errors on validation trajectories by step.
        moved: are these other weights than those before?

    Raises:
        UserError: ``not_finite`` where a score of the weights that are kept is not.
    """
    rejected = moved and criterion(*_figures(tuned)) > criterion(*_figures(before))
    kept = before if rejected else tuned
    _check_scores(kept)
    parts = {"zero_shot": zero_shot, "base": before, "tuned": kept, "persistence": kept["persistence"]}
    if rejected:
        parts["rejected"] = tuned
    figures = {name: _figures(scored) for name, scored in parts.items()}
    return {
        **{name: {part: scored[part] for part in ("one_step", "rollout")} for name, scored in parts.items()},
        "compared_with": "base",
        "helped": helped(figures, moved and not rejected),
        "kept": "tuned" if moved and not rejected else "base",
        "overfitted": overfitted(curve),
        "verdict": verdict(figures, moved, overfitted(curve)),
    }


def fresh_outcome(tuned: Scores, curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same of a fresh start. Before it there was no model, and what it is compared with is persistence.

    Raises:
        UserError: ``not_finite`` where a score is not.
    """
    _check_scores(tuned)
    parts = {"tuned": tuned, "persistence": tuned["persistence"]}
    figures = {name: _figures(scored) for name, scored in parts.items()}
    better = [new < still for new, still in zip(figures["tuned"], figures["persistence"], strict=True)]
    found = f"The new model {'is' if all(better) else 'is not'} better than persistence: "
    found += _changes(figures["persistence"], figures["tuned"]) + "."
    overfit = overfitted(curve)
    return {
        "zero_shot": None,
        "base": None,
        **{name: {part: scored[part] for part in ("one_step", "rollout")} for name, scored in parts.items()},
        "compared_with": "persistence",
        "helped": all(better),
        "kept": "tuned",
        "overfitted": overfit,
        "verdict": f"{found} {OVERFIT}" if overfit else found,
    }


def _check_scores(kept: Scores) -> None:
    """Raises UserError ``not_finite`` where a score of the weights that are kept is not."""
    if not kept["one_step"]["finite"] or not kept["rollout"]["finite"]:
        raise UserError(
            "not_finite",
            "the tuned model's predictions on held-out trajectories are not finite",
            got={part: kept[part]["finite"] for part in ("one_step", "rollout")},
            hint="more trajectories, more steps or a smaller learning rate may help",
        )


def helped(figures: Mapping[str, Figures], moved: bool) -> bool:
    """Are other weights kept than before, and better than those in both errors, whatever statistics those have?"""
    earlier = zip(figures["zero_shot"], figures["base"], strict=True)
    return moved and all(new < min(old) for new, old in zip(figures["tuned"], earlier, strict=True))


def overfitted(curve: Sequence[Mapping[str, Any]]) -> bool:
    """Did the error on validation trajectories grow again after its best?"""
    errors = [_figure(point["one_step"]) for point in curve]
    return bool(errors) and errors[-1] > OVERFITTED * min(errors)


def verdict(figures: Mapping[str, Figures], moved: bool, overfit: bool) -> str:
    """One or more sentences about the errors of each set of scores."""
    before, kept, rejected = figures["base"], figures["tuned"], figures.get("rejected")
    if not moved:
        same = ", ".join(f"{name} {value:.4g}" for name, value in zip(NAMES, before, strict=True))
        sentences = [
            f"Tuning did not help: no step made the model better on the validation trajectories, and its weights are "
            f"kept as they were: {same}."
        ]
    elif rejected is not None:
        sentences = [f"Tuning did not help: {_changes(before, rejected)}; the weights are kept as they were."]
    else:
        word = "helped" if helped(figures, moved) else "did not help"
        sentences = [f"Tuning {word}: {_changes(before, kept)}."]
    unlike = [name for name, a, b in zip(NAMES, figures["zero_shot"], kept, strict=True) if a < b]
    if unlike and before != figures["zero_shot"]:
        sentences.append(
            f"With statistics of each initial state alone, the model as it was is better in {' and '.join(unlike)}."
        )
    behind = [name for name, new, still in zip(NAMES, kept, figures["persistence"], strict=True) if new >= still]
    if behind:
        sentences.append(f"The model is no better than persistence in {' and '.join(behind)}.")
    if overfit and rejected is None:
        sentences.append(OVERFIT)
    return " ".join(sentences)


def _changes(before: Figures, after: Figures) -> str:
    return ", ".join(f"{name} {old:.4g} to {new:.4g}" for name, old, new in zip(NAMES, before, after, strict=True))


def _figures(scored: Scores) -> Figures:
    return _figure(scored["one_step"]["nrmse"]), _figure(scored["rollout"]["nrmse_trajectory"])


def _figure(value: float | None) -> float:
    """Null stands for a value that is not finite."""
    return math.inf if value is None else value
