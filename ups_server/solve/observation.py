"""A rollout under observation: its frames as they come, with diagnostics, and the numerical solver beside it.

The solver runs in the engine's own process for built-in methods, so that it holds up no batch of a model, at most
`reference_timeout_s` seconds. Frames wait in memory until the slower of the two has computed them.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ups_server.errors import UserError
from ups_server.solve.comparison import TrueError, reference_spec, speed_flags
from ups_server.solve.diagnosis import Diagnosis, Step
from ups_server.solve.engine import BlowUp, Engine, EngineFailure, Event, Finished, Frame
from ups_server.solve.rollout import Plan
from ups_server.solve.solver import Frames
from ups_server.specs import Comparison, Flag


@dataclass(frozen=True)
class Computed:
    """The model's states (B, X..., C) of frame `index`, as the engine has them."""

    index: int
    values: Frames
    diagnostics: Step | None


@dataclass(frozen=True)
class Compared:
    """The solver reached frame `index` too: its states in the units of the request's box, and the model's errors."""

    index: int
    truth: Frames
    errors: dict[str, Any]


_Coming = tuple[bool, Event | Exception | None]
"""From the solver (True) or the model (False): an event, what went wrong, or the end."""


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
            following = self._compared() if self.plan.request.reference else self._alone()
            async with aclosing(following):
                async for event in following:
                    yield event
        if self.diagnosis is not None:
            self.flags += self.diagnosis.flags
        if self.comparison is not None:
            self.flags += speed_flags(self.comparison)

    def attributes(self) -> dict[str, Any]:
        """What the answer says beside its arrays."""
        return told(self.plan, self.flags, self.diagnosis, self.comparison)

    async def _alone(self) -> AsyncGenerator[Computed | Compared]:
        async for event in self._running:
            computed = await self._take(event)
            if computed is not None:
                yield computed

    async def _take(self, event: Event) -> Computed | None:
        """An event of the model's."""
        match event:
            case Frame():
                self._frames += 1
                return await self._computed(self._frames - 1, event.values)
            case BlowUp():
                self.flags.append(self.plan.blow_up_flag(event))
                if self.diagnosis is not None:
                    self.diagnosis.stop(event)
            case Finished():
                self.seconds = event.seconds
        return None

    async def _computed(self, index: int, values: Frames) -> Computed:
        if self.diagnosis is None:
            return Computed(index, values, None)
        return Computed(index, values, await asyncio.to_thread(self.diagnosis.add, values))

    async def _compared(self) -> AsyncGenerator[Computed | Compared]:
        """Both at once: frames as the model computes them, errors as soon as the solver has the same frame."""
        plan, found = self.plan, TrueError(self.plan)
        start = plan.reference_initial
        waiting: dict[bool, dict[int, Frames]] = {False: {0: plan.states(plan.initial)}, True: {0: start * plan.scale}}
        reason, solver_seconds, solver_frames = None, None, 1
        reference = self._engine.rollout(reference_spec(plan), start, plan.reference_static)
        running = {True, False}
        coming: asyncio.Queue[_Coming] = asyncio.Queue(maxsize=1)
        tasks = [
            asyncio.create_task(_pump(False, self._running, coming, None)),
            asyncio.create_task(_pump(True, reference, coming, self._timeout)),
        ]
        try:
            while running:
                from_solver, event = await coming.get()
                if not from_solver:
                    if isinstance(event, Exception):
                        raise event
                    if event is None:
                        running.discard(False)
                    elif (computed := await self._take(event)) is not None:
                        waiting[False][computed.index] = await asyncio.to_thread(plan.states, computed.values)
                        yield computed
                else:
                    match event:
                        case Frame():
                            waiting[True][solver_frames] = event.values * plan.scale
                            solver_frames += 1
                        case BlowUp():
                            reason = f"the solver stopped being finite at frame {solver_frames}"
                        case Finished():
                            solver_seconds = event.seconds
                        case Exception():
                            reason = _words(event)
                    if event is None or isinstance(event, Exception):
                        running.discard(True)
                while found.frames in waiting[False] and found.frames in waiting[True]:
                    index = found.frames
                    prediction, truth = waiting[False].pop(index), waiting[True].pop(index)
                    yield Compared(index, truth, await asyncio.to_thread(found.add, prediction, truth))
                if True not in running:
                    waiting[False].clear()
                if running == {True} and found.frames == self._frames < plan.n_frames:
                    break  # The model blew up: there is nothing more to compare.
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.comparison = found.summary(reason, self.seconds, solver_seconds)


def told(plan: Plan, flags: list[Flag], diagnosis: Diagnosis | None, comparison: Comparison | None) -> dict[str, Any]:
    """What an answer says beside its arrays."""
    found = plan.attributes(flags)
    if diagnosis is not None:
        found["diagnostics"] = diagnosis.summary().model_dump(mode="json")
    if comparison is not None:
        found["reference"] = comparison.model_dump(mode="json")
    return found


async def _pump(
    of_solver: bool, events: AsyncGenerator[Event], coming: "asyncio.Queue[_Coming]", timeout: float | None
) -> None:
    """Hands events on, at most one ahead of whoever takes them."""
    try:
        async with asyncio.timeout(timeout), aclosing(events):
            async for event in events:
                await coming.put((of_solver, event))
    except (UserError, EngineFailure, TimeoutError) as error:
        await coming.put((of_solver, error))
    else:
        await coming.put((of_solver, None))


def _words(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return "the solver took too long" if isinstance(error, TimeoutError) else "the solver failed"
