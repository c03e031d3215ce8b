"""A rollout under observation: its frames as they come, with diagnostics, then the reference they are measured against.

The reference is solved in the engine's own process for built-in methods, so that it holds up no batch of a model, in at
most `reference_timeout_s` seconds.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ups_server.engine.engine import Engine, EngineFailure, Event, Finished, Frame
from ups_server.errors import UserError
from ups_server.rollout.diagnostics import Diagnosis, Step
from ups_server.rollout.plan import Plan
from ups_server.rollout.reference import Level, Reference, compared, comparison_flags
from ups_server.solvers.limits import Ended
from ups_server.solvers.solver import Frames
from ups_server.specs import Comparison, Flag


@dataclass(frozen=True)
class Computed:
    """The model's states (B, X..., C) of frame `index`, as the engine has them."""

    index: int
    values: Frames
    diagnostics: Step | None


@dataclass(frozen=True)
class Compared:
    """The reference's states of frame `index` in the units of the request's box, and the model's errors."""

    index: int
    truth: Frames
    errors: dict[str, Any]


class Observation:
    """One rollout from its start to its end.

    Attributes:
        flags: all that is known so far.
        comparison: with the numerical solver, at the end, where one was asked for.
        diagnosis: of the frames so far, where it was asked for.
        seconds: of computing, once it has ended and where the engine says so.
    """

    def __init__(self, plan: Plan, engine: Engine, reference_timeout_s: float) -> None:
        self.plan = plan
        self.flags: list[Flag] = list(plan.flags)
        self.comparison: Comparison | None = None
        self.diagnosis = Diagnosis(plan) if plan.request.diagnostics else None
        self._engine = engine
        self._timeout = reference_timeout_s
        self._running = engine.rollout(plan.spec, plan.initial, plan.static)
        self._frames = 1
        self.seconds: float | None = None

    async def start(self) -> None:
        """Waits until the engine has accepted it. Raises what the engine refuses it with."""
        await anext(self._running)

    async def events(self) -> AsyncGenerator[Computed | Compared]:
        """The initial state and every frame; to be called after `start`, and closed.

        Raises:
            UserError, EngineFailure: the model failed. Where the solver does, the comparison says so.
        """
        async with aclosing(self._running):
            first = await self._computed(0, self.plan.initial)
            yield first
            kept = [self.plan.states(self.plan.initial)] if self.plan.request.reference else []
            async for event in self._running:
                computed = await self._take(event)
                if computed is not None:
                    if kept:
                        kept.append(await asyncio.to_thread(self.plan.states, computed.values))
                    yield computed
        if kept:
            for pair in await self._compared(kept):
                yield pair
        if self.diagnosis is not None:
            self.flags += self.diagnosis.flags
        if self.comparison is not None:
            self.flags += comparison_flags(self.comparison)

    def attributes(self) -> dict[str, Any]:
        """What the answer says beside its arrays."""
        return told(self.plan, self.flags, self.diagnosis, self.comparison)

    async def _take(self, event: Event) -> Computed | None:
        """An event of the model's."""
        match event:
            case Frame():
                self._frames += 1
                return await self._computed(self._frames - 1, event.values)
            case Ended():
                self.flags.append(self.plan.ended_flag(event))
                if self.diagnosis is not None:
                    self.diagnosis.stop(event)
            case Finished():
                self.seconds = event.seconds
        return None

    async def _computed(self, index: int, values: Frames) -> Computed:
        if self.diagnosis is None:
            return Computed(index, values, None)
        return Computed(index, values, await asyncio.to_thread(self.diagnosis.add, values))

    async def _compared(self, kept: list[Frames]) -> list[Compared]:
        """The reference beside the frames there are."""
        reference = Reference(self.plan, kept, self._timeout)
        try:
            while (level := await asyncio.to_thread(reference.next_level)) is not None:
                async with asyncio.timeout(reference.remaining):
                    await self._solve(reference, level)
        except (UserError, EngineFailure, TimeoutError) as error:
            reference.give_up(_words(error))
        self.comparison, errors = await asyncio.to_thread(compared, self.plan, kept, reference, self.seconds)
        pairs = zip(reference.frames, errors, strict=False)
        return [Compared(index, *pair) for index, pair in enumerate(pairs)]

    async def _solve(self, reference: Reference, level: Level) -> None:
        """One resolution, as far as the model got."""
        async with aclosing(self._engine.rollout(level.spec, level.initial, level.static)) as events:
            async for event in events:
                match event:
                    case Frame():
                        if not reference.add(event.values) and event.step < level.spec.n_steps:
                            return
                    case Ended():
                        reference.give_up(f"the solver stopped being finite at frame {len(level.frames)}")
                        return
                    case Finished():
                        level.seconds = event.seconds


def told(plan: Plan, flags: list[Flag], diagnosis: Diagnosis | None, comparison: Comparison | None) -> dict[str, Any]:
    """What an answer says beside its arrays."""
    found = plan.attributes(flags)
    if diagnosis is not None:
        found["diagnostics"] = diagnosis.summary().model_dump(mode="json")
    if comparison is not None:
        found["reference"] = comparison.model_dump(mode="json")
    return found


def _words(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return "the solver took too long" if isinstance(error, TimeoutError) else "the solver failed"
