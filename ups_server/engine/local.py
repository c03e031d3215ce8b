"""Engines on this machine.

`LocalEngine` has a process for trained models, and two beside it for the built-in solvers. One of the two makes short
steps only: a solver whose step lasts longer is ended there and goes on in the other, so that a solution of milliseconds
never waits for one of minutes. `InProcess` computes without any, for a command.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import numpy as np

from ups_server.catalog import Catalog, builtin_solvers
from ups_server.engine.admission import SOLVER, step_seconds
from ups_server.engine.connection import LEARNED, SupervisedProcess
from ups_server.engine.engine import Engine, Event, Finished, Frame, Health, LateStep, RolloutSpec, Standing, Started
from ups_server.errors import UserError
from ups_server.settings import EngineDevice, Settings, available_cores
from ups_server.solvers.limits import Survivors
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Frames, why_ended

logger = logging.getLogger(__name__)

SHORT_STEP_S = 2.0
"""Longest step of a built-in solver in the process that all of them share."""


class LocalEngine(Engine):
    """Supervises the engine processes: a numerical method that computes for seconds holds up no trained model.

    The process of the default model is started at once, the others when they are first needed.

    Args:
        device: of several engines, the one of this; by default the settings' only one.
    """

    def __init__(self, settings: Settings, catalog: Catalog, device: EngineDevice | None = None) -> None:
        self._settings = settings
        self._catalog = catalog
        self._learned = SupervisedProcess(settings, LEARNED, device=device)
        self._short = SupervisedProcess(settings, "builtin", SHORT_STEP_S, device)
        self._long = SupervisedProcess(settings, "builtin-long", device=device)
        self._used: Counter[str] = Counter()

    @property
    def _processes(self) -> tuple[SupervisedProcess, ...]:
        return self._learned, self._short, self._long

    @property
    def _default(self) -> SupervisedProcess:
        return self._process(self._settings.default_model)

    def _process(self, model: str) -> SupervisedProcess:
        return self._short if model in builtin_solvers() else self._learned

    async def start(self) -> None:
        self._default.start(self._default_source()[0])

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
    ) -> AsyncGenerator[Event]:
        self._used[spec.model] += 1
        try:
            running = self._solved if spec.model in builtin_solvers() else self._learned.rollout
            async with aclosing(running(spec, initial, static, standing)) as events:
                async for event in events:
                    yield event
        finally:
            self._used[spec.model] -= 1

    async def _solved(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None, standing: Standing | None
    ) -> AsyncGenerator[Event]:
        """A rollout of a built-in solver. Where its steps turn out to be long, the long process goes on."""
        started, reached = False, 0
        short = spec.model != SOLVER or step_seconds(spec, len(initial)) <= SHORT_STEP_S
        for process in (self._short, self._long) if short else (self._long,):
            try:
                async with aclosing(process.rollout(spec, initial, static, standing)) as events:
                    async for event in events:
                        if isinstance(event, Frame):
                            if event.step <= reached:
                                continue
                            reached = event.step
                            standing = standing if event.saved is None else Standing(event.step, event.saved)
                        if not (started and isinstance(event, Started)):
                            yield event
                        started = True
                return
            except LateStep:
                logger.info("a step of %s took more than %g s; it goes on apart", spec.problem.family, SHORT_STEP_S)

    def beside(self, model: str) -> bool:
        """Trained models have a process of their own; on a single core it would still wait for the solver's."""
        return model not in builtin_solvers() and available_cores() > 1

    def uses(self, model: str) -> bool:
        return self._used[model] > 0

    def health(self) -> Health:
        processes = self._processes
        connection = self._default.connection
        state, reason = self._state()
        return Health(
            state=state,
            reason=reason,
            device=connection.device if connection else None,
            models=tuple(sorted(name for p in processes if p.connection for name in p.connection.loaded)),
            process_id=connection.process.pid if connection else None,
            restarts=sum(process.restarts for process in processes),
            active=sum(process.admission.active for process in processes),
            queued=sum(process.admission.waiting for process in processes),
            detail={
                p.name: {**p.connection.work, "process_id": p.connection.process.pid}
                for p in processes
                if p.connection is not None
            },
        )

    async def close(self) -> None:
        for process in self._processes:
            await process.close()

    def _default_source(self) -> tuple[str | None, str | None]:
        """What the default model is loaded from, or why there is none."""
        try:
            return self._catalog.model(self._settings.default_model).source, None
        except UserError as error:
            return None, str(error)

    def _state(self) -> tuple[str, str | None]:
        connection = self._default.connection
        if connection is None:
            return "down", "the engine process is not running"
        if not connection.ready.is_set():
            return "starting", "the engine process is starting"
        source, problem = self._default_source()
        if source is None:
            return "loading", problem
        if source in connection.failed:
            return "loading", f"{self._settings.default_model} cannot be loaded: {connection.failed[source]}"
        if source not in connection.loaded:
            return "loading", f"{self._settings.default_model} is being loaded"
        return "ready", None


class InProcess:
    """Computes one rollout at a time, on a device of this process."""

    def __init__(self, device: str) -> None:
        self._device = device

    async def rollout(self, spec: RolloutSpec, initial: Frames, static: Frames | None = None) -> AsyncGenerator[Event]:
        """See `Engine.rollout`; a step is made between two awaits.

        Raises:
            UserError: what the solver objects to.
        """
        source = spec.model if spec.model in builtin_solvers() else Path(spec.model)
        session = load(source, device=self._device).session(spec.problem, initial, static)
        survivors, seconds = Survivors(spec.limits, len(initial)), 0.0
        yield Started()
        for step in range(1, spec.n_steps + 1):
            await asyncio.sleep(0)  # an interrupt is noticed here
            began = time.perf_counter()
            with np.errstate(all="ignore"):
                values = session.step()
            seconds += time.perf_counter() - began
            for ended in survivors.check(step, values, why=why_ended(session)):
                yield ended
            if not survivors.alive.any():
                break
            if spec.keeps(step):
                yield Frame(step, survivors.masked(values))
        yield Finished(seconds)

    def beside(self, model: str) -> bool:
        """See `Engine.beside`."""
        return False
