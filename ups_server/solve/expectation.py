"""The expected error of a rollout, from the envelope that was measured with its model, where one fits the request."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ups_server.model.envelope import FamilyEnvelope, ModelEnvelopes
from ups_server.solve.rollout import Plan
from ups_server.specs import ExpectedError


def expected_error(plan: Plan, frames: int) -> ExpectedError:
    """Bounds for the first so many frames, or why there are none."""
    if plan.card.kind != "learned":
        return ExpectedError(available=False, reason=f"{plan.card.id} has no trained model's error to expect")
    envelopes = ModelEnvelopes.load(Path(plan.card.source))
    envelope = None if envelopes is None else envelopes.families.get(plan.family.id)
    if envelope is None:
        return ExpectedError(
            available=False,
            reason=f"{plan.card.id} has no calibration for {plan.family.id}: its error is not known in advance",
        )
    if envelope.bounds.keys() != {field.name for field in plan.family.fields}:
        return ExpectedError(available=False, reason=f"the calibration of {plan.card.id} is of other fields")
    valid_for = _validity(envelope)
    misfits = list(_misfits(plan, envelope))
    if misfits:
        return ExpectedError(
            available=False, reason="the calibration does not cover this: " + "; ".join(misfits), valid_for=valid_for
        )
    return ExpectedError(
        available=True,
        reason=None if _sampled(plan) else "valid as far as the given state is like the family's own initial states",
        level=envelope.level,
        bounds=_bounds(plan, envelope, frames),
        coverage={name: coverage.model_dump() for name, coverage in envelope.coverage.items()},
        valid_for=valid_for,
    )


def _validity(envelope: FamilyEnvelope) -> dict[str, Any]:
    return {
        "coefficients": {name: list(ends) for name, ends in envelope.coefficients.items()},
        "n": envelope.n,
        "dt": envelope.dt,
        "steps": envelope.steps,
        "initial_states": "the family's own distribution",
        "calibration": envelope.calibration,
        "test": envelope.test,
    }


def _misfits(plan: Plan, envelope: FamilyEnvelope) -> Iterator[str]:
    """What of the request was not calibrated; coefficients are those on the family's own box."""
    problem = plan.spec.problem
    if any(points != envelope.n for points in problem.grid.n):
        yield f"{' x '.join(map(str, problem.grid.n))} points instead of {envelope.n}"
    if plan.finer is not None:
        yield "an answer on a finer grid"
    for name, (low, high) in envelope.coefficients.items():
        value = float(np.asarray(problem.coefficients.get(name, math.nan)).max())
        if not (low <= value <= high or math.isclose(value, low) or math.isclose(value, high)):
            yield f"{name} = {value:g} instead of {low:g} to {high:g}"
    if not math.isclose(problem.dt, envelope.dt, rel_tol=1e-6):
        yield f"dt = {problem.dt:g} instead of {envelope.dt:g}"


def _sampled(plan: Plan) -> bool:
    initial = plan.request.initial_condition
    return initial is not None and initial.sample is not None


def _bounds(plan: Plan, envelope: FamilyEnvelope, frames: int) -> dict[str, list[Any]]:
    """Per frame in the units of the request's box; the initial state is exact."""
    initial = plan.own_states(plan.initial)
    means = initial.mean(tuple(range(1, initial.ndim - 1)), dtype=np.float64)
    names = [field.name for field in plan.family.fields]
    per_state = [envelope.physical(dict(zip(names, row, strict=True))) for row in means.tolist()]
    steps = [frame * plan.stride for frame in range(frames)]

    def series(bounds: tuple[float, ...], scale: float) -> list[float | None]:
        reached = [0.0 if step == 0 else bounds[step - 1] if step <= len(bounds) else None for step in steps]
        return [None if bound is None or not math.isfinite(bound) else bound * scale for bound in reached]

    found: dict[str, list[Any]] = {}
    for name, scale in zip(names, plan.scale.tolist(), strict=True):
        all_states = [series(bounds[name], scale) for bounds in per_state]
        found[name] = list(all_states) if plan.many else all_states[0]
    return found
