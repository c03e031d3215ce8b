"""The true error of a rollout against the family's numerical solver, frame by frame, and which of the two is faster."""

from collections.abc import Sequence
from dataclasses import fields as entries
from typing import Any

import numpy as np

from ups_server.pde.metrics import (
    ErrorMoments,
    error_moments,
    nrmse,
    nrmse_per_field,
    nrmse_trajectory,
    nrmse_trajectory_per_field,
    rmse,
)
from ups_server.rollout.diagnostics import plain
from ups_server.rollout.flags import flag
from ups_server.rollout.plan import Plan
from ups_server.rollout.reference import SOLVER, Reference, Solved
from ups_server.solvers.solver import Frames
from ups_server.specs import Comparison, Flag


class TrueError:
    """Takes pairs of frames, the model's and the solver's, in order, the initial states first."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._names = [field.name for field in plan.family.fields]
        self._moments: list[ErrorMoments] = []

    @property
    def frames(self) -> int:
        """Pairs so far."""
        return len(self._moments)

    def add(self, prediction: Frames, truth: Frames) -> dict[str, Any]:
        """Errors of the next frame, of states (B, X..., C) in the units of the request's box."""
        moments = error_moments(prediction[:, None], truth[:, None])
        self._moments.append(moments)
        return {
            "nrmse": self._plain(nrmse(moments)[:, 0]),
            "nrmse_per_field": self._by_field(nrmse_per_field(moments)[:, 0]),
            "rmse_per_field": self._by_field(rmse(moments)[:, 0]),
        }

    def summary(self, solved: Solved, model: float | None) -> Comparison:
        """All pairs so far.

        Args:
            solved: how good the solver's frames are.
            model: seconds of computing, where known.
        """
        moments = _joined(self._moments)
        later = _joined(self._moments[1:]) if self.frames > 1 else None
        seconds = {"model": model, "solver": solved.seconds}
        faster = None
        if solved.reason is None and model is not None and solved.seconds is not None:
            faster = "solver" if solved.seconds <= model else "model"
        return Comparison(
            solver=SOLVER,
            complete=solved.reason is None,
            reason=solved.reason,
            start=solved.start,
            points=list(solved.points),
            error=None if solved.error is None else self._plain(solved.error),
            error_per_field={} if solved.error_per_field is None else self._by_field(solved.error_per_field),
            settled=solved.settled,
            accuracy=solved.accuracy,
            nrmse=self._plain(nrmse(moments)),
            nrmse_per_field=self._by_field(nrmse_per_field(moments)),
            rmse_per_field=self._by_field(rmse(moments)),
            nrmse_trajectory=None if later is None else self._plain(nrmse_trajectory(later)),
            nrmse_trajectory_per_field={} if later is None else self._by_field(nrmse_trajectory_per_field(later)),
            seconds=seconds,
            faster=faster,
            remark=_remark(self._plan.card.id, seconds, faster),
        )

    def _by_field(self, values: Any) -> dict[str, Any]:
        return {name: self._plain(values[..., index]) for index, name in enumerate(self._names)}

    def _plain(self, values: Any) -> Any:
        return plain(values if self._plan.many else values[0])


def compared(
    plan: Plan, predictions: Sequence[Frames], reference: Reference, model: float | None
) -> tuple[Comparison, list[dict[str, Any]]]:
    """All frames that both reached, and the errors of each.

    Args:
        predictions: states of the rollout, in the units of the request's box.
        model: seconds of computing, where known.
    """
    errors = TrueError(plan)
    by_frame = [errors.add(*pair) for pair in zip(predictions, reference.frames, strict=False)]
    return errors.summary(reference.solved(), model), by_frame


def comparison_flags(found: Comparison) -> list[Flag]:
    """Flags where the reference is none, and where the numerical solver is the better choice for such a request."""
    flags = []
    if found.settled is False:
        flags.append(flag("reference_not_settled", f"the reference was {found.accuracy}", error=found.error))
    if found.faster == "solver" and found.remark is not None:
        flags.append(flag("numerical_solver_is_faster", found.remark, seconds=found.seconds))
    return flags


def _joined(moments: list[ErrorMoments]) -> ErrorMoments:
    """Along time."""
    return ErrorMoments(
        **{
            entry.name: np.concatenate([getattr(m, entry.name) for m in moments], axis=1)
            for entry in entries(ErrorMoments)
        }
    )


def _remark(model: str, seconds: dict[str, float | None], faster: str | None) -> str | None:
    own, others = seconds["model"], seconds["solver"]
    if faster is None or own is None or others is None:
        return None
    if faster == "solver":
        return (
            f"the numerical solver computed this no worse in {others:.3g} s, {model} in {own:.3g} s: for a request "
            "like this the solver is faster"
        )
    return f"{model} computed this in {own:.3g} s, the numerical solver, no worse, in {others:.3g} s"
