"""The outcome of an adaptation, said plainly: three sets of scores on held-out trajectories, and what they mean."""

import math
from typing import Any

from ups_server.errors import UserError
from ups_server.solve.scores import FileScores

OVERFITTED = 1.2
"""Last validation over best one from which training is said to have overfitted."""


def outcome(zero_shot: dict[str, Any], tuned: FileScores, curve: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores before and after, persistence, and the verdict.

    Args:
        zero_shot: `FileScores` of the model before, as JSON values.
        curve: one-step and rollout errors on validation trajectories by step.

    Raises:
        UserError: ``not_finite`` where a tuned score is not.
    """
    after = tuned.as_dict()
    if not after["one_step"]["finite"] or not after["rollout"]["finite"]:
        raise UserError(
            "not_finite",
            "the tuned model's predictions on held-out trajectories are not finite",
            got={part: after[part]["finite"] for part in ("one_step", "rollout")},
            hint="more trajectories, more steps or a smaller learning rate may help",
        )
    parts = {"zero_shot": zero_shot, "tuned": after, "persistence": after["persistence"]}
    scores = {name: {part: scored[part] for part in ("one_step", "rollout")} for name, scored in parts.items()}
    figures = {
        name: (_figure(s["one_step"]["nrmse"]), _figure(s["rollout"]["nrmse_trajectory"])) for name, s in scores.items()
    }
    helped = all(new < old for new, old in zip(figures["tuned"], figures["zero_shot"], strict=True))
    return {
        **scores,
        "helped": helped,
        "overfitted": overfitted(curve),
        "verdict": verdict(figures, helped, overfitted(curve)),
    }


def overfitted(curve: list[dict[str, Any]]) -> bool:
    """Did the error on validation trajectories grow again after its best?"""
    errors = [_figure(point["one_step"]) for point in curve]
    return bool(errors) and errors[-1] > OVERFITTED * min(errors)


def verdict(figures: dict[str, tuple[float, float]], helped: bool, overfit: bool) -> str:
    """One or more sentences about (one-step, rollout) errors."""
    names = ("one-step", "rollout")
    changes = ", ".join(
        f"{name} {old:.4g} to {new:.4g}"
        for name, old, new in zip(names, figures["zero_shot"], figures["tuned"], strict=True)
    )
    sentences = [f"Tuning {'helped' if helped else 'did not help'}: {changes}."]
    behind = [
        name for name, new, still in zip(names, figures["tuned"], figures["persistence"], strict=True) if new >= still
    ]
    if behind:
        sentences.append(f"The tuned model is no better than persistence in {' and '.join(behind)}.")
    if overfit:
        sentences.append("Training overfitted; the model is the best one by validation, from before that.")
    return " ".join(sentences)


def _figure(value: float | None) -> float:
    """Null stands for a value that is not finite."""
    return math.inf if value is None else value
