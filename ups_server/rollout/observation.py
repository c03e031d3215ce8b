"""A rollout under observation: its frames as they come, with diagnostics, and the reference they are measured against.

The frames come from an engine, or from a process of one's own; all else is the same. The reference is solved beside the
model where that has another worker than the solver's (`FrameSource.beside`), and after it elsewhere, in at most
`reference_timeout_s` seconds of its own.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from ups_server.engine.engine import EngineFailure, Event, Finished, Frame, RolloutSpec
from ups_server.errors import UserError
from ups_server.rollout.diagnostics import Diagnosis, FrameReport
from ups_server.rollout.plan import Plan
from ups_server.rollout.reference import Reference, ResolutionLevel, compared, comparison_flags
from ups_server.solvers.limits import Ended
from ups_server.solvers.solver import Frames
from ups_server.specs import Comparison, Flag


class FrameSource(Protocol):
    """Where frames come from: an `Engine`, or `InProcess`."""

    def rollout(self, spec: RolloutSpec, initial: Frames, static: Frames | None = None) -> AsyncGenerator[Event]:
        """See `Engine.rollout`."""
        ...

    def beside(self, model: str) -> bool:
        """See `Engine.beside`."""
        ...


@dataclass(frozen=True)
class Computed:
    """The model's states (B, X..., C) of frame `index`, as the engine has them."""

    index: int
    values: Frames
    diagnostics: FrameReport | None


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
        reference: the numerical solutions, where they were asked for; `comparison` with them, at the end.
        diagnosis: of the frames so far, where it was asked for.
        seconds: of computing, once it has ended and where the source says so.
    """

    def __init__(self, plan: Plan, source: FrameSource, reference_timeout_s: float) -> None:
        self.plan = plan
        self.flags: list[Flag] = list(plan.flags)
        self.comparison: Comparison | None = None
        self.diagnosis = Diagnosis(plan) if plan.request.diagnostics else None
        self.seconds: float | None = None
        self._source = source
        self._running = source.rollout(plan.spec, plan.initial, plan.static)
        self._frames = 0
        self._predictions: list[Frames] = []
        self.reference = Reference(plan, self._predictions, reference_timeout_s) if plan.request.reference else None
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Waits until the source has accepted it. Raises what it refuses it with."""
        await anext(self._running)

    async def events(self) -> AsyncGenerator[Computed | Compared]:
        """The initial state and every frame; to be called after `start`, and closed.

        Raises:
            UserError, EngineFailure: the model failed. Where the solver does, the comparison says so.
        """
        solving = None
        if self.reference is not None and self._source.beside(self.plan.spec.model):
            solving = asyncio.create_task(self._solve(self.reference))
        try:
            async with aclosing(self._running):
                yield await self._computed(self.plan.initial)
                async for event in self._running:
                    computed = await self._take(event)
                    if computed is not None:
                        yield computed
            if self.reference is not None:
                self.reference.end()
                self._ended.set()
                await (self._solve(self.reference) if solving is None else solving)
                for pair in await asyncio.to_thread(self._compare, self.reference):
                    yield pair
        finally:
            await _cancelled(solving)
        if self.diagnosis is not None:
            self.flags += self.diagnosis.flags
        if self.comparison is not None:
            self.flags += comparison_flags(self.comparison)

    def run(self) -> Iterator[Computed | Compared]:
        """`start` and `events` without an event loop around, for a source in this process."""
        with asyncio.Runner() as runner:
            runner.run(self.start())
            events = self.events()

            async def following() -> Computed | Compared | None:
                return await anext(events, None)

            try:
                while (event := runner.run(following())) is not None:
                    yield event
            finally:
                runner.run(events.aclose())

    def attributes(self) -> dict[str, Any]:
        """What the answer says beside its arrays, at the end."""
        found = self.plan.attributes(self.flags)
        if self.diagnosis is not None:
            found["diagnostics"] = self.diagnosis.summary().model_dump(mode="json")
        if self.comparison is not None:
            found["reference"] = self.comparison.model_dump(mode="json")
        return found

    async def _take(self, event: Event) -> Computed | None:
        """An event of the model's."""
        match event:
            case Frame():
                return await self._computed(event.values)
            case Ended():
                self.flags.append(self.plan.ended_flag(event))
                if self.diagnosis is not None:
                    self.diagnosis.stop(event)
            case Finished():
                self.seconds = event.seconds
        return None

    async def _computed(self, values: Frames) -> Computed:
        """The next frame, diagnosed and kept as far as that was asked for."""
        diagnostics = None
        if self.reference is not None:
            self._predictions.append(await asyncio.to_thread(self.plan.states, values))
        if self.diagnosis is not None:
            diagnostics = await asyncio.to_thread(self.diagnosis.add, values)
        self._frames += 1
        return Computed(self._frames - 1, values, diagnostics)

    async def _solve(self, reference: Reference) -> None:
        """The reference, as far as it gets in its time; what depends on the model's errors, once those are known."""
        try:
            while True:
                if reference.undecided:
                    await self._ended.wait()
                level = await asyncio.to_thread(reference.next_level)
                if level is None:
                    return
                async with asyncio.timeout(reference.remaining):
                    await self._solve_level(reference, level)
        except (UserError, EngineFailure, TimeoutError) as error:
            reference.give_up(_words(error))

    async def _solve_level(self, reference: Reference, level: ResolutionLevel) -> None:
        """One resolution, as far as the model gets."""
        async with aclosing(self._source.rollout(level.spec, level.initial, level.static)) as events:
            async for event in events:
                match event:
                    case Frame():
                        if not reference.add(event.values) and event.step < level.spec.n_steps:
                            break
                    case Ended():
                        reference.give_up(f"the solver stopped being finite at frame {len(level.frames)}")
                        break
                    case Finished():
                        level.seconds = event.seconds
        level.close()

    def _compare(self, reference: Reference) -> list[Compared]:
        """The reference beside the frames there are."""
        self.comparison, errors = compared(self.plan, self._predictions, reference, self.seconds)
        pairs = zip(reference.frames, errors, strict=False)
        return [Compared(index, *pair) for index, pair in enumerate(pairs)]


async def _cancelled(task: "asyncio.Task[None] | None") -> None:
    """Ends a task, if it has not ended."""
    if task is not None and not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _words(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return "the solver took too long" if isinstance(error, TimeoutError) else "the solver failed"
