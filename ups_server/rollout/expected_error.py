"""The expected error of a rollout, from the envelope that was measured with its model, where one fits the request."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ups_server.model.envelope import FamilyEnvelope, ModelEnvelopes
from ups_server.pde.family import RAND
from ups_server.rollout.plan import Plan
from ups_server.specs import ExpectedError


def expected_error(plan: Plan, frames: int) -> ExpectedError:
    """Bounds for the first so many frames, or why there are none."""
    if plan.card.kind != "learned":
        return ExpectedError(available=False, reason=f"{plan.card.id} has no trained model's error to expect")
    envelopes = ModelEnvelopes.load(Path(plan.card.source))
    known = () if envelopes is None else envelopes.families.get(plan.family.id, ())
    if not known:
        withheld = {} if envelopes is None else envelopes.withheld
        why = withheld.get(plan.family.id, "its error is not known in advance")
        return ExpectedError(available=False, reason=f"{plan.card.id} has no calibration for {plan.family.id}: {why}")
    if not all(_same_quantities(plan, envelope) for envelope in known):
        return ExpectedError(available=False, reason=f"the calibration of {plan.card.id} is of other fields")
    misfits, envelope = min(((list(_misfits(plan, each)), each) for each in known), key=lambda pair: len(pair[0]))
    valid_for = _validity(envelope)
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
        "boundary": [list(sides) for sides in envelope.boundary],
        "n": envelope.n,
        "offset": list(envelope.offset),
        "dt": envelope.dt,
        "steps": envelope.steps,
        "initial_states": "the family's own distribution",
        "calibration": envelope.calibration,
        "test": envelope.test,
    }


def _same_quantities(plan: Plan, envelope: FamilyEnvelope) -> bool:
    names = {field.name for field in plan.family.fields}
    return envelope.bounds.keys() == names and len(envelope.offset) == plan.family.ndim


def _misfits(plan: Plan, envelope: FamilyEnvelope) -> Iterator[str]:
    """What of the request was not calibrated; coefficients are those on the family's own box."""
    problem = plan.spec.problem
    if any(points != envelope.n for points in problem.grid.n):
        yield f"{' x '.join(map(str, problem.grid.n))} points instead of {envelope.n}"
    places = zip(problem.grid.offset, problem.grid.closed, envelope.offset, strict=True)
    if any(known is not None and (both or not math.isclose(place, known)) for place, both, known in places):
        yield f"points at {_shown(problem.grid.offset)} of their cells instead of {_shown(envelope.offset)}"
    if plan.finer is not None:
        yield "an answer on a finer grid"
    if [list(sides) for sides in envelope.boundary] != problem.boundary.as_names():
        yield "another boundary condition"
    initial = plan.request.initial_condition
    if initial is not None and initial.sample is not None and initial.sample.kind != RAND:
        yield f"initial states of the kind {initial.sample.kind} instead of {RAND}"
    for name, (low, high) in envelope.coefficients.items():
        value = float(np.asarray(problem.coefficients.get(name, math.nan)).max())
        if not (low <= value <= high or math.isclose(value, low) or math.isclose(value, high)):
            yield f"{name} = {value:g} instead of {low:g} to {high:g}"
    if not math.isclose(problem.dt, envelope.dt, rel_tol=1e-6):
        yield f"dt = {problem.dt:g} instead of {envelope.dt:g}"
    elif plan.spec.n_steps > envelope.steps:
        yield f"{plan.spec.n_steps} steps of dt = {envelope.dt:g} instead of at most {envelope.steps}"


def _shown(offset: Sequence[float | None]) -> str:
    return " x ".join("any" if place is None else f"{place:g}" for place in offset)


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

    def series(bounds: tuple[float, ...], scale: float) -> list[float]:
        return [bounds[step - 1] * scale if step else 0.0 for step in steps]

    found: dict[str, list[Any]] = {}
    for name, scale in zip(names, plan.scale.tolist(), strict=True):
        all_states = [series(bounds[name], scale) for bounds in per_state]
        found[name] = list(all_states) if plan.many else all_states[0]
    return found
