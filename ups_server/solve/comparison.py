"""The true error of a rollout against the family's numerical solver, frame by frame, and which of the two is faster."""

from dataclasses import fields as entries
from dataclasses import replace
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
from ups_server.solve.diagnosis import plain
from ups_server.solve.engine import RolloutSpec
from ups_server.solve.flags import flag
from ups_server.solve.rollout import Plan
from ups_server.solve.solver import Frames
from ups_server.specs import Comparison, Flag

SOLVER = "numerical"


def reference_spec(plan: Plan) -> RolloutSpec:
    """The same rollout for the numerical solver: one step of its own from frame to frame."""
    problem = replace(plan.spec.problem, grid=plan.answer_grid, dt=plan.spec.problem.dt * plan.stride)
    return RolloutSpec(SOLVER, problem, plan.n_frames - 1)


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

    def summary(self, reason: str | None, model: float | None, solver: float | None) -> Comparison:
        """All pairs so far.

        Args:
            reason: why the solver reached no more; None where it reached all.
            model, solver: seconds of computing, where they are known.
        """
        moments = _joined(self._moments)
        later = _joined(self._moments[1:]) if self.frames > 1 else None
        seconds = {"model": model, "solver": solver}
        faster = None
        if reason is None and model is not None and solver is not None:
            faster = "solver" if solver <= model else "model"
        return Comparison(
            solver=SOLVER,
            complete=reason is None,
            reason=reason,
            start=self._plan.reference_start,
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


def speed_flags(found: Comparison) -> list[Flag]:
    """A flag where the numerical solver is the better choice for such a request."""
    if found.faster != "solver" or found.remark is None:
        return []
    return [flag("numerical_solver_is_faster", found.remark, seconds=found.seconds)]


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
            f"the numerical solver computed this in {others:.3g} s, {model} in {own:.3g} s: for a request like this "
            "the solver is faster, and it is what the error is measured against"
        )
    return f"{model} computed this in {own:.3g} s, the numerical solver in {others:.3g} s"
