"""Engines on the nodes of a Ray cluster: each replica is an actor that supervises an engine of its node.

A rollout is pulled: who waits for it asks its replica for the next events, gets those there are, and asks again; so a
slow reader holds the replica up and nothing is lost when it leaves. Whether anybody waits is a flag of the replica's
own, looked at before every event, beside which the cancellation of tasks only hastens the end. A replica or node that
dies takes its own rollouts with it: they raise ``engine_unavailable``, and those that are kept go on at another one.
Ray starts it again, where there is room for it.

Models are found by their id in the catalogue of the node: in its installation, in a data folder that is shared, or from
an object store.
"""

import asyncio
import contextlib
import logging
import os
import threading
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, final

from ups_server.catalog import Catalog, builtin_solvers
from ups_server.engine import protocol
from ups_server.engine.engine import (
    Engine,
    EngineFailure,
    Event,
    Finished,
    Health,
    RolloutSpec,
    Standing,
    engine_unavailable,
    shutting_down,
)
from ups_server.engine.local import LocalEngine
from ups_server.errors import UserError
from ups_server.objects import shared_folders
from ups_server.processes import configure_logs
from ups_server.settings import Settings
from ups_server.solvers.solver import Frames
from ups_server.tracing import carrier, configure_traces, span

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ALIVE_S = 1.0
"""A replica that has no event yet answers after so long that it is there."""
LOST_S = 30.0
"""One that does not answer for so long is lost."""
LOOK_S = 1.0
"""Between two looks at a replica's health."""
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "RAY_USE_UVLOOP": "0",  # its loops start processes in the main thread only
}


@dataclass(frozen=True)
class RolloutProblem:
    """The last event of a rollout that failed. Exceptions lose their parts on the way; this does not."""

    document: dict[str, Any] | None
    failure: str = ""

    def error(self) -> UserError | EngineFailure:
        return EngineFailure(self.failure) if self.document is None else protocol.problem_from_json(self.document)


@dataclass
class PulledRollout:
    """One rollout at a replica.

    Attributes:
        wanted: does somebody still wait for it?
    """

    events: "asyncio.Queue[Event | RolloutProblem]"
    wanted: bool = True
    task: "asyncio.Task[None] | None" = None


class Replica:
    """The engine of one node, and its open rollouts. An actor: every method is asked for from elsewhere."""

    def __init__(self, settings: Settings) -> None:
        configure_logs(settings.log_level, settings.log_format, "replica")
        configure_traces("replica")
        self._settings = settings
        self._catalog = Catalog(settings.data_dir, shared=shared_folders(settings))
        self._engine = LocalEngine(settings, self._catalog)
        self._open: dict[str, PulledRollout] = {}
        self._starting: asyncio.Task[None] | None = None

    async def health(self) -> Health:
        """Of the engine; models by their ids. Starts it, if that has not been done."""
        await self._started()
        found = self._engine.health()
        models = tuple(Path(model).name for model in found.models)
        return replace(found, models=models, process_id=os.getpid())

    async def begin(
        self,
        identity: str,
        spec: RolloutSpec,
        initial: Frames,
        static: Frames | None,
        standing: Standing | None,
        trace: dict[str, str],
    ) -> None:
        """Begins a rollout, whose events `take` hands out; a model is named by its id."""
        await self._started()
        rollout = PulledRollout(asyncio.Queue(max(1, self._settings.stream_window)))
        self._open[identity] = rollout
        with span("replica", trace, {"ups.model": spec.model}):
            rollout.task = asyncio.create_task(self._run(rollout, spec, initial, static, standing))

    async def take(self, identity: str) -> list[Event | RolloutProblem]:
        """The events that are there, waiting a little for the first. Raises KeyError where the rollout is not here."""
        rollout = self._open[identity]
        try:
            async with asyncio.timeout(ALIVE_S):
                found = [await rollout.events.get()]
        except TimeoutError:
            return []
        while not rollout.events.empty():
            found.append(rollout.events.get_nowait())
        if isinstance(found[-1], Finished | RolloutProblem):
            del self._open[identity]
        return found

    async def end(self, identity: str) -> None:
        """Nobody waits for it any more."""
        rollout = self._open.pop(identity, None)
        if rollout is not None:
            rollout.wanted = False
            if rollout.task is not None:
                rollout.task.cancel()

    async def _started(self) -> None:
        if self._starting is None:
            self._starting = asyncio.create_task(self._engine.start())
        await self._starting

    async def _run(
        self,
        rollout: PulledRollout,
        spec: RolloutSpec,
        initial: Frames,
        static: Frames | None,
        standing: Standing | None,
    ) -> None:
        try:
            if spec.model not in builtin_solvers():
                spec = replace(spec, model=(await asyncio.to_thread(self._catalog.model, spec.model)).source)
            async with aclosing(self._engine.rollout(spec, initial, static, standing)) as events:
                async for event in events:
                    if not rollout.wanted:
                        return
                    await rollout.events.put(event)
        except UserError as error:
            await rollout.events.put(RolloutProblem(protocol.problem_as_json(error)))
        except Exception as error:
            logger.exception("a rollout failed")
            await rollout.events.put(RolloutProblem(None, f"{type(error).__name__}: {error}"))


_CONNECTING = threading.Lock()


def connect(settings: Settings) -> None:
    """Connects this process to the cluster, once. Not in the main thread: Ray would take over its signals there.

    Raises:
        UserError: ``executor_unavailable``.
    """
    import ray

    with _CONNECTING:
        if ray.is_initialized():
            return
        try:
            ray.init(settings.ray_address, namespace="ups", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                "executor_unavailable",
                "the Ray cluster does not answer",
                got=f"{settings.ray_address}: {error}"[:400],
                hint="start one with `ray start --head`, or set UPS_RAY_ADDRESS",
            ) from error


@final
class RayEngine(Engine):
    """One replica, seen from here. It belongs to this process: Ray ends it when that ends.

    Args:
        name: as logs and metrics have it.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        # Of the node there is one engine; where its data folder is relative, it is so to this one's working folder.
        self._settings = settings.model_copy(update={"devices": (), "data_dir": settings.data_dir.resolve()})
        self._name = name
        self._actor: Any = None
        self._there_is_one = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._seen = Health("starting", "the replica is starting")
        self._sources: dict[str, str] = {}
        """Models that were asked for, from their ids to what this process calls them."""
        self._used: Counter[str] = Counter()
        self._restarts = 0
        self._closed = False

    async def start(self) -> None:
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
    ) -> AsyncGenerator[Event]:
        actor, identity, finished = await self._reached(), uuid.uuid4().hex, False
        self._used[spec.model] += 1
        try:
            begun = actor.begin.remote(identity, self._there(spec), initial, static, standing, carrier())
            await self._asked(begun, self._settings.engine_start_timeout_s)
            while not finished:
                for event in await self._asked(actor.take.remote(identity)):
                    finished = isinstance(event, Finished | RolloutProblem)
                    if isinstance(event, RolloutProblem):
                        raise event.error()
                    yield event
        finally:
            self._used[spec.model] -= 1
            if not finished and not self._closed:
                with contextlib.suppress(Exception):  # it may be gone, and its rollouts with it
                    actor.end.remote(identity)

    def beside(self, model: str) -> bool:
        return model not in builtin_solvers() and self._settings.threads > 1

    def uses(self, model: str) -> bool:
        return self._used[model] > 0

    def health(self) -> Health:
        models = tuple(self._sources.get(model, model) for model in self._seen.models)
        return replace(self._seen, models=models, restarts=self._seen.restarts + self._restarts)

    async def close(self) -> None:
        self._closed = True
        self._there_is_one.set()
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._actor is not None:
            import ray

            with contextlib.suppress(Exception):  # the cluster may be gone before us
                await asyncio.to_thread(ray.kill, self._actor)
            self._actor = None

    def _there(self, spec: RolloutSpec) -> RolloutSpec:
        """With the model by its id, which is the name of its folder."""
        if spec.model in builtin_solvers():
            return spec
        name = Path(spec.model).name
        self._sources[name] = spec.model
        return replace(spec, model=name)

    async def _reached(self) -> Any:
        """The replica, waiting until it has been made."""
        try:
            async with asyncio.timeout(self._settings.engine_start_timeout_s):
                await self._there_is_one.wait()
        except TimeoutError:
            raise engine_unavailable("the replica did not start in time") from None
        if self._closed:
            raise shutting_down()
        return self._actor

    async def _asked(self, answer: Awaitable[Result], seconds: float = LOST_S) -> Result:
        """What the replica answers. Raises UserError ``engine_unavailable``."""
        from ray.exceptions import RayError

        try:
            async with asyncio.timeout(seconds):
                return await answer
        except (RayError, TimeoutError) as error:
            if self._closed:
                raise shutting_down() from None
            reason = (str(error).splitlines() or ["no answer"])[0]
            logger.warning("%s: %s", self._name, reason)
            if self._seen.state != "starting":
                self._seen = Health("down", reason)  # at once: the next rollout goes to another one
            raise engine_unavailable("the engine stopped in the middle of this rollout") from None

    async def _watch(self) -> None:
        """Makes the replica, and looks at it from then on."""
        while self._actor is None:
            try:
                await asyncio.to_thread(connect, self._settings)
                self._actor = await asyncio.to_thread(self._made)
                self._there_is_one.set()
            except Exception as error:
                logger.warning("%s cannot be made: %s", self._name, error)
                self._seen = Health("down", str(error)[:400])
                await asyncio.sleep(self._settings.engine_restart_max_s)
        known = None
        while True:
            with contextlib.suppress(UserError):
                found = await self._asked(self._actor.health.remote())
                self._restarts += known is not None and found.process_id != known
                known, self._seen = found.process_id, found
            await asyncio.sleep(LOOK_S)

    def _made(self) -> Any:
        import ray

        made: Any = ray.remote(Replica)
        return made.options(
            name=f"{self._name}-{uuid.uuid4().hex[:8]}",
            num_cpus=self._settings.threads,
            num_gpus=1 if self._settings.device == "cuda" else 0,
            max_restarts=-1,
            max_task_retries=0,  # what was under way goes on elsewhere, from where it had come to
            max_concurrency=1000,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {**ENVIRONMENT, "OMP_NUM_THREADS": str(self._settings.threads)}},
        ).remote(self._settings)
