"""Diagnostics of a rollout, state by state: what the equation conserves, energy and spectrum, distance from training.

Of a field u on a box: the conserved means (`Family.conserved_means`) and how far they have moved since the start; the
energy, mean(u²); the power spectrum (`pde.metrics`), whose powers add up to the energy. Nothing larger than one
spectrum a state is kept. The expected error is that of the envelope that was measured with the model, where one fits.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ups_server.catalog import SeenStates
from ups_server.evaluation.envelope import FamilyEnvelope, ModelEnvelopes
from ups_server.pde.family import RAND
from ups_server.pde.grid import Array
from ups_server.pde.metrics import power_spectrum
from ups_server.rollout.flags import OUTSIDE, beyond, departures, left_training, outside_values, relative_fields
from ups_server.rollout.plan import Plan
from ups_server.solvers.limits import Ended
from ups_server.solvers.solver import Frames
from ups_server.specs import Diagnostics, Drift, ExpectedError, Flag, OutOfDistribution, Spectra, Stopped

FrameReport = dict[str, Any]
"""Of one frame, by name: `conserved` (mean and drift), `energy`, `power`, `departure`."""

OVERSHOOT = 0.02
"""Beyond the values of the training, in units of their range, where a state on the way is still like them."""


class Diagnosis:
    """Takes the frames of a rollout one after another, the initial state first.

    Attributes:
        flags: what was noticed on the way.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._family = plan.family
        self._names = [field.name for field in plan.family.fields]
        self._seen: SeenStates | None = plan.card.support(plan.family.id).statistics
        self._relative = relative_fields(plan.family, self._seen)
        self._means: dict[str, list[Array]] = {}
        self._energy: list[Array] = []
        self._power: list[Array] = []
        self._departure: list[Array] = []
        self._left: set[int] = set()
        self._endings: list[Stopped] = []
        self.flags: list[Flag] = []

    def add(self, values: Frames) -> FrameReport:
        """What is to be said of the next frame, the engine's states (B, X..., C)."""
        plan, frame = self._plan, len(self._energy)
        with np.errstate(all="ignore"):
            states = plan.states(values)
            means = self._family.conserved_means(states)
            power = power_spectrum(states[:, None], plan.spec.problem.boundary)[:, 0]
            energy = np.square(states, dtype=np.float64).mean(tuple(range(1, states.ndim - 1)))
        own = plan.control(values)
        self._notice(own, frame)
        away = departures(self._seen, self._relative, plan.control(plan.initial), own)
        for name, mean in means.items():
            self._means.setdefault(name, []).append(mean)
        self._energy.append(energy)
        self._power.append(power)
        if away is not None:
            self._departure.append(away)
        drifts = {name: mean - self._means[name][0] for name, mean in means.items()}
        return {
            "conserved": {
                name: {"mean": self._plain(mean), "drift": self._plain(drifts[name])} for name, mean in means.items()
            },
            "energy": self._by_field(energy),
            "power": self._by_field(power),
            "departure": {} if away is None else self._by_field(away),
        }

    def stop(self, event: Ended) -> None:
        """States ended early."""
        self._endings.append(
            Stopped(
                step=event.step,
                time=event.step * self._plan.spec.problem.dt,
                fields=[self._names[index] for index in event.fields],
                states=list(event.states),
                reason=event.reason,
            )
        )

    @property
    def _stopped(self) -> Stopped | None:
        return min(self._endings, key=lambda ending: ending.step, default=None)

    def summary(self) -> Diagnostics:
        """All frames so far."""
        means = {name: np.stack(values, axis=-1) for name, values in self._means.items()}
        energy, power = np.stack(self._energy, axis=1), np.stack(self._power, axis=1)
        departure = np.stack(self._departure, axis=1) if self._departure else None
        return Diagnostics(
            stopped=self._stopped,
            endings=self._endings,
            conserved={
                name: Drift(initial=self._plain(mean[:, 0]), drift=self._plain(mean - mean[:, :1]))
                for name, mean in means.items()
            },
            energy=self._by_field(energy),
            spectrum=Spectra(wave_numbers=list(range(power.shape[2])), power=self._by_field(power)),
            expected_error=expected_error(self._plan, len(self._energy)),
            out_of_distribution=self._training({} if departure is None else self._by_field(departure)),
        )

    def outline(self) -> dict[str, Any]:
        """What is known before the first step, for the beginning of a stream."""
        return {
            "wave_numbers": list(range(self._power[0].shape[1])),
            "expected_error": expected_error(self._plan, self._plan.n_frames).model_dump(mode="json"),
            "out_of_distribution": self._training({}).model_dump(mode="json"),
        }

    def ending(self) -> dict[str, Any]:
        """What a stream has not said by its end."""
        return {
            "stopped": None if self._stopped is None else self._stopped.model_dump(mode="json"),
            "endings": [ending.model_dump(mode="json") for ending in self._endings],
            "out_of_distribution": self._training({}).model_dump(mode="json"),
        }

    def _training(self, departure: dict[str, Any]) -> OutOfDistribution:
        plan = self._plan
        support = plan.card.support(plan.family.id)
        learned = plan.card.kind == "learned"
        known = {
            "coefficients": bool(support.coefficients),
            "resolution": (support.points or plan.card.resolution) is not None,
            "states": self._seen is not None and len(self._seen.min) == len(self._names),
        }
        checked = [name for name, there in known.items() if there and learned]
        reasons = [flag for flag in (*plan.flags, *self.flags) if flag.code in OUTSIDE]
        return OutOfDistribution(
            flagged=bool(reasons) if checked else None, checked=checked, reasons=reasons, departure=departure
        )

    def _notice(self, own: Frames, frame: int) -> None:
        """A flag for each field whose values leave those of the training for the first time; the start has its own."""
        own = own[np.isfinite(own).all(axis=tuple(range(1, own.ndim)))]
        if self._seen is None or not len(own):
            return
        for found in outside_values(self._seen, own):
            index, low, high = found
            distance = beyond(low, high, self._seen.min[index], self._seen.max[index])
            if frame and distance is not None and distance <= OVERSHOOT:
                continue
            if frame and found[0] not in self._left:
                step = self._plan.spec.step_of(frame)
                time = step * self._plan.spec.problem.dt
                self.flags.append(left_training(self._family, self._plan.card, self._seen, found, step, time))
            self._left.add(found[0])

    def _by_field(self, values: Array) -> dict[str, Any]:
        """(B, ..., C) by the name of the field."""
        return {name: self._plain(values[..., index]) for index, name in enumerate(self._names)}

    def _plain(self, values: Array) -> Any:
        """(B, ...) as numbers and nulls, without the leading axis where the request had none."""
        return plain(values if self._plan.many else values[0])


def plain(values: Any) -> Any:
    """Nested lists of numbers, null for what is not finite."""
    array = np.asarray(values, dtype=np.float64)
    if np.isfinite(array).all():
        return array.tolist()
    boxed = array.astype(object)
    boxed[~np.isfinite(array)] = None
    return boxed.tolist() if array.ndim else None


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
    given = "valid as far as the given state is like the family's own initial states"
    return ExpectedError(
        available=True,
        reason=given if plan.request.sample is None else None,
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
    sample = plan.request.sample
    if sample is not None and sample.kind != RAND:
        yield f"initial states of the kind {sample.kind} instead of {RAND}"
    for name, (low, high) in envelope.coefficients.items():
        values = np.ravel(np.asarray(problem.coefficients.get(name, math.nan), np.float64))
        outside = values[~((low <= values) & (values <= high) | np.isclose(values, low) | np.isclose(values, high))]
        if len(outside):
            yield f"{name} = {outside[0]:g} instead of {low:g} to {high:g}"
    if not math.isclose(problem.dt, envelope.dt, rel_tol=1e-6):
        yield f"dt = {problem.dt:g} instead of {envelope.dt:g}"
    elif plan.spec.n_steps > envelope.steps:
        yield f"{plan.spec.n_steps} steps of dt = {envelope.dt:g} instead of at most {envelope.steps}"


def _shown(offset: Sequence[float | None]) -> str:
    return " x ".join("any" if place is None else f"{place:g}" for place in offset)


def _bounds(plan: Plan, envelope: FamilyEnvelope, frames: int) -> dict[str, list[Any]]:
    """Per frame in the units of the request's box; the initial state is exact."""
    initial = plan.control(plan.initial)
    means = initial.mean(tuple(range(1, initial.ndim - 1)), dtype=np.float64)
    names = [field.name for field in plan.family.fields]
    per_state = [envelope.physical(dict(zip(names, row, strict=True))) for row in means.tolist()]
    steps = [plan.spec.step_of(frame) for frame in range(frames)]

    def series(bounds: tuple[float, ...], scale: float) -> list[float]:
        return [bounds[step - 1] * scale if step else 0.0 for step in steps]

    found: dict[str, list[Any]] = {}
    for name, scale in zip(names, plan.scale.tolist(), strict=True):
        all_states = [series(bounds[name], scale) for bounds in per_state]
        found[name] = list(all_states) if plan.many else all_states[0]
    return found
