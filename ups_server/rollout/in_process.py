"""A rollout under observation in this process, without an engine: what `observation` is to the service."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ups_server.errors import UserError
from ups_server.rollout.diagnostics import Diagnosis
from ups_server.rollout.observation import told
from ups_server.rollout.plan import Plan
from ups_server.rollout.reference import SOLVER, Level, Reference, compared, comparison_flags
from ups_server.solvers.limits import Ended, Survivors
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Frames, Session
from ups_server.specs import Comparison, Flag


class ObservedHere:
    """One rollout: `frames` is to be exhausted before `attributes` is asked for."""

    def __init__(self, plan: Plan, device: str, reference_timeout_s: float = math.inf) -> None:
        self._plan = plan
        self._device = device
        self._reference_timeout = reference_timeout_s
        self._flags: list[Flag] = list(plan.flags)
        self._diagnosis = Diagnosis(plan) if plan.request.diagnostics else None
        self._kept: list[Frames] = []
        self._seconds = 0.0

    def frames(self) -> Iterator[Frames]:
        """The solver's states (B, X..., C) of every frame, the initial one first; ends where all states have.

        States that have ended are NaN.
        """
        plan, spec = self._plan, self._plan.spec
        source = spec.model if plan.card.kind == "builtin" else Path(spec.model)
        session = load(source, self._device).session(spec.problem, plan.initial, plan.static)
        survivors = Survivors(spec.limits, len(plan.initial))
        yield self._kept_frame(plan.initial)
        for step in range(1, spec.n_steps + 1):
            values = self._step(session)
            for ended in survivors.check(step, values):
                self._stop(ended)
            if not survivors.alive.any():
                break
            if step % spec.save_every == 0:
                yield self._kept_frame(survivors.shown(values))
        if self._diagnosis is not None:
            self._flags += self._diagnosis.flags

    def attributes(self) -> dict[str, Any]:
        """What the answer says beside its arrays; runs the numerical solver where that was asked for."""
        comparison = self._comparison() if self._plan.request.reference else None
        flags = self._flags + (comparison_flags(comparison) if comparison else [])
        return told(self._plan, flags, self._diagnosis, comparison)

    def _kept_frame(self, values: Frames) -> Frames:
        if self._diagnosis is not None:
            self._diagnosis.add(values)
        if self._plan.request.reference:
            self._kept.append(self._plan.states(values))
        return values

    def _step(self, session: Session) -> Frames:
        began = time.perf_counter()
        values = session.step()
        self._seconds += time.perf_counter() - began
        return values

    def _stop(self, event: Ended) -> None:
        self._flags.append(self._plan.ended_flag(event))
        if self._diagnosis is not None:
            self._diagnosis.stop(event)

    def _comparison(self) -> Comparison:
        """With the reference, over the frames there are."""
        reference = Reference(self._plan, self._kept, self._reference_timeout)
        try:
            while (level := reference.next_level()) is not None:
                self._solve(reference, level)
        except UserError as error:
            reference.give_up(str(error))
        whole = len(self._kept) == self._plan.n_frames
        return compared(self._plan, self._kept, reference, self._seconds if whole else None)[0]

    def _solve(self, reference: Reference, level: Level) -> None:
        """One resolution, as far as the model got."""
        began = time.perf_counter()
        session = load(SOLVER).session(level.spec.problem, level.initial, level.static)
        while reference.add(session.step()):
            if reference.remaining < 0.0:
                reference.give_up("the solver took too long")
                return
        level.seconds = time.perf_counter() - began
