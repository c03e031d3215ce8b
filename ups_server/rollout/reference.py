"""What a rollout is measured against, the numerical solution on finer and finer grids until two agree, and its errors.

A state that was drawn is drawn again at the points of each grid; one that was given is interpolated. Solutions are
looked at where the points of the answer are, which every grid has among its own. How far the last two are apart is an
estimate of the error of the last, from above where it converges.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from dataclasses import fields as entries
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.engine.engine import RolloutSpec
from ups_server.pde.metrics import (
    ErrorMoments,
    error_moments,
    nrmse,
    nrmse_per_field,
    nrmse_trajectory,
    nrmse_trajectory_per_field,
    rmse,
)
from ups_server.pde.resampling import refined
from ups_server.rollout.diagnostics import plain
from ups_server.rollout.flags import flag
from ups_server.rollout.initial import States, drawn_states
from ups_server.rollout.plan import Plan
from ups_server.solvers.solver import Frames
from ups_server.specs import Comparison, Flag

SOLVER = "numerical"
SETTLED = 0.01
"""Largest difference of two resolutions, as nRMSE over a trajectory, at which the finer one is a reference..."""
SHARE = 0.25
"""...and largest part of the error that is measured with it, of any field..."""
ALWAYS_SETTLED = 1e-4
"""...unless it is no larger than this."""
MAX_VALUES = 2**24
"""Of a state at one resolution."""


@dataclass
class ResolutionLevel:
    """One resolution: what the engine is asked for, and what of it has come.

    Attributes:
        factor: so many times the points of the answer.
        initial, static: at its points.
        places: where the points of the answer are among them.
        frames: of the answer's points, in the units of the request's box, the initial states first.
        began, ended: when it was asked for, and when it had come.
        seconds: of computing, where that was measured.
    """

    factor: int
    spec: RolloutSpec
    initial: Frames
    static: Frames | None
    places: tuple[slice, ...]
    frames: list[Frames]
    began: float
    ended: float | None = None
    seconds: float | None = None

    def close(self) -> None:
        """There is nothing more to come."""
        self.ended = time.monotonic()

    @property
    def taken(self) -> float:
        """Seconds that it was waited for."""
        return (time.monotonic() if self.ended is None else self.ended) - self.began

    @property
    def points(self) -> tuple[int, ...]:
        return self.spec.problem.grid.n


@dataclass(frozen=True)
class ReferenceQuality:
    """How good a reference is.

    Attributes:
        reason: why it reached no more frames; None where it reached all.
        seconds: for a solution that is no worse than the rollout, where known.
        points: it was solved at.
        error: difference of the last two resolutions, nRMSE over the trajectory: (B,); None where there is one only.
        error_per_field: the same by field, (B, C).
        settled: was that small enough? None where there is nothing to settle.
        accuracy: the same in a sentence.
        start: what it started from.
    """

    reason: str | None
    seconds: float | None
    points: tuple[int, ...]
    error: NDArray[np.float64] | None
    error_per_field: NDArray[np.float64] | None
    settled: bool | None
    accuracy: str
    start: str


@dataclass
class Reference:
    """The solutions beside the frames of a rollout, each of states (B, X..., C), the initial ones first.

    The first two may be solved while the rollout is under way (`undecided`): that they are needed is known before.

    Args:
        predictions: what is measured, as far as it has come, in the units of the request's box.
        budget: seconds for all of it.

    Attributes:
        reason: why not all frames were reached, after `conclude`.
    """

    plan: Plan
    predictions: Sequence[Frames]
    budget: float
    reason: str | None = None
    levels: list[ResolutionLevel] = field(default_factory=list)
    _rollout_ended: bool = False
    _gave_up: str | None = None
    _unaffordable: str | None = None

    @property
    def undecided(self) -> bool:
        """Does what comes next depend on the errors of the whole rollout?"""
        return len(self.levels) > 1 and self._gave_up is None

    def end(self) -> None:
        """There are no more predictions to come."""
        self._rollout_ended = True

    @property
    def _wanted(self) -> int:
        """Frames."""
        return len(self.predictions) if self._rollout_ended else self.plan.n_frames

    def next_level(self) -> ResolutionLevel | None:
        """What to solve next; None at the end.

        Raises:
            UserError: what drawing the states raises.
        """
        if self._wanted < 2 or self._gave_up is not None:
            return None
        if self.levels and (self.plan.family.grid_bound or self._settled() or not self._affordable()):
            return None
        self.levels.append(self._level())
        return self.levels[-1]

    @property
    def remaining(self) -> float:
        """Seconds."""
        return self.budget - sum(level.taken for level in self.levels)

    def add(self, values: Frames) -> bool:
        """Takes the next frame of the last level. False where there is no more to come."""
        level = self.levels[-1]
        if not np.isfinite(values).all():
            self.give_up(f"the solver stopped being finite at frame {len(level.frames)}")
            return False
        level.frames.append(self._seen(values, level.places))
        return len(level.frames) < self._wanted

    def give_up(self, reason: str) -> None:
        """The last level does not get any further."""
        self._gave_up = self._gave_up or reason

    def conclude(self) -> None:
        """Once both have ended: keeps what is complete, and no frames that the rollout did not reach."""
        self.end()
        for level in self.levels:
            if len(level.frames) > self._wanted:
                del level.frames[self._wanted :]
                level.seconds = None
        if self._wanted < 2:
            self.levels = []
        elif self._gave_up is not None:
            complete = [level for level in self.levels if len(level.frames) == self._wanted]
            self.levels = complete or self.levels
            self._unaffordable, self.reason = (self._gave_up, None) if complete else (None, self._gave_up)

    @property
    def frames(self) -> list[Frames]:
        """What the rollout is measured against."""
        if not self.levels:
            return [states_at(self.plan, 1)[0] * self.plan.scale]
        return self.levels[-1].frames

    def solved(self) -> ReferenceQuality:
        """After `conclude`."""
        points = self.levels[-1].points if self.levels else self.plan.answer_grid.n
        gap = self._gap()
        error = None if gap is None else nrmse_trajectory(gap)
        settled = None if gap is None and self.plan.family.grid_bound else self._settled()
        if not self.levels or self.reason is not None:
            settled = None
        return ReferenceQuality(
            reason=self.reason,
            seconds=self._matched_seconds(),
            points=points,
            error=error,
            error_per_field=None if gap is None else nrmse_trajectory_per_field(gap),
            settled=settled,
            accuracy=self._words(points, error, settled),
            start=start_in_words(self.plan, self.levels[-1].factor if self.levels else 1),
        )

    def _level(self) -> ResolutionLevel:
        plan = self.plan
        base = plan.answer_grid
        if plan.family.grid_bound:
            factor = 1
        elif self.levels:
            factor = 2 * self.levels[-1].factor
        else:
            factor = max(1, math.ceil(plan.family.reference_points / min(base.n)))
        initial, static = states_at(plan, factor)
        places = base.refined(factor)[1]
        seen = initial if factor == 1 else initial[(slice(None), *places)]
        # Beside a model on the same points, to the last bit what that starts from.
        first = plan.control(plan.initial) if plan.refined is None else seen
        return ResolutionLevel(
            factor,
            reference_spec(plan, factor),
            initial,
            static,
            places,
            [first * plan.scale],
            time.monotonic(),
        )

    def _seen(self, values: Frames, places: tuple[slice, ...]) -> Frames:
        seen: Frames = values[(slice(None), *places)] * self.plan.scale
        return seen

    def _gap(self) -> ErrorMoments | None:
        """Of the last two levels."""
        if len(self.levels) < 2:
            return None
        coarse, fine = (_over_time(level.frames) for level in self.levels[-2:])
        steps = min(coarse.shape[1], fine.shape[1])
        return error_moments(coarse[:, :steps], fine[:, :steps]) if steps else None

    def _settled(self) -> bool:
        gap = self._gap()
        if gap is None:
            return False
        found = _over_time(self.predictions)
        measured = error_moments(found, _over_time(self.levels[-1].frames)[:, : found.shape[1]])
        apart, allowed = nrmse_trajectory_per_field(gap), SHARE * nrmse_trajectory_per_field(measured)
        small = apart <= np.maximum(ALWAYS_SETTLED, np.nan_to_num(allowed, nan=np.inf))
        return bool((nrmse_trajectory(gap) <= SETTLED).all() and (small | ~np.isfinite(apart)).all())

    def _affordable(self) -> bool:
        last = self.levels[-1]
        if 2**last.spec.problem.grid.ndim * last.initial.size > MAX_VALUES:
            self._unaffordable = "a finer grid has more points than the solver is asked for"
            return False
        needed = last.taken * 2 ** (last.spec.problem.grid.ndim + 1)
        if needed > self.remaining:
            self._unaffordable = f"a finer grid would have taken about {needed:.0f} s more than it had"
            return False
        return True

    def _matched_seconds(self) -> float | None:
        """Of the coarsest solution that is no further from the finest than the rollout is."""
        if self.reason is not None or not self.levels:
            return None
        truth, found = _over_time(self.levels[-1].frames), _over_time(self.predictions)
        error = nrmse_trajectory(error_moments(found, truth[:, : found.shape[1]])).mean()
        for level in self.levels:
            if nrmse_trajectory(error_moments(_over_time(level.frames), truth)).mean() <= error:
                return level.seconds
        return self.levels[-1].seconds

    def _words(self, points: tuple[int, ...], error: NDArray[np.float64] | None, settled: bool | None) -> str:
        size = " x ".join(map(str, points))
        if self.plan.family.grid_bound:
            return f"solved at the {size} points of the request: {self.plan.family.grid_bound}"
        if error is None:
            lone = f"solved at {size} points only, so that its own error is not known"
            return lone if self._unaffordable is None else f"{lone}: {self._unaffordable}"
        apart = f"solved at {size} points, and {float(error.max()):.2g} away from half as many"
        if settled:
            return apart
        return f"{apart}, too far to tell the true error: {self._unaffordable or 'the solver went no further'}"


def reference_spec(plan: Plan, factor: int = 1) -> RolloutSpec:
    """The rollout for the numerical solver at so many times the points: where it can be, a step from frame to frame."""
    grid, _ = plan.answer_grid.refined(factor)
    spec = plan.spec
    if spec.kept:
        return RolloutSpec(SOLVER, replace(spec.problem, grid=grid), spec.n_steps, kept=spec.kept)
    problem = replace(spec.problem, grid=grid, dt=spec.problem.dt * spec.save_every)
    return RolloutSpec(SOLVER, problem, plan.n_frames - 1)


def states_at(plan: Plan, factor: int) -> States:
    """What the solver starts from, at so many times the points of the answer, on the family's own box.

    A sample is drawn at these points, unless the model's own states are just that.
    """
    states, static = _states_at(plan, factor)
    if plan.written is not None and static is not None:
        static = plan.written.forcing(plan.grid.refined(factor)[0], len(states))
    return states, static


def _states_at(plan: Plan, factor: int) -> States:
    base, sample = plan.answer_grid, plan.request.sample
    if sample is not None and (factor > 1 or plan.refined is not None):
        own = plan.spec.problem.coefficients
        states, static = drawn_states(sample, plan.family, base.refined(factor)[0], own)
        return plan.control(states), None if static is None else plan.control(static)
    start = plan if plan.refined is None else plan.refined
    given, fixed = plan.control(start.initial), None if start.static is None else plan.control(start.static)
    if factor == 1:
        return given, fixed
    finer = plan.family.refine(given.astype(np.float64), base, factor).astype(np.float32)
    if fixed is None:
        return finer, None
    first = [place.start for place in base.refined(factor)[1]]
    still = refined(
        fixed.astype(np.float64), (factor,) * base.ndim, first, plan.family.boundary, [False] * fixed.shape[-1]
    )
    return finer, still.astype(np.float32)


def start_in_words(plan: Plan, factor: int) -> str:
    """The same in words."""
    if factor == 1 and plan.refined is None:
        return "the initial state of the model"
    if plan.request.sample is None:
        return "the given state, interpolated"
    if factor == 1:
        return "the same sample on the fine grid, with the detail that was not observed"
    return "the same sample at the solver's own points, with the detail that was not observed"


def _over_time(frames: Sequence[Frames]) -> Frames:
    """(B, T, X..., C), without the initial states."""
    if len(frames) < 2:
        return np.empty((len(frames[0]), 0, *frames[0].shape[1:]), dtype=np.float32)
    return np.stack(frames[1:], axis=1)


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

    def summary(self, solved: ReferenceQuality, model: float | None) -> Comparison:
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
    reference.conclude()
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
