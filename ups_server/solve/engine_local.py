"""The engine on this machine: a process that is started, watched and restarted, and a queue before it."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from ups_server.catalog import Catalog
from ups_server.errors import UserError
from ups_server.settings import Settings
from ups_server.solve.engine import Engine, Event, Health, RolloutSpec, engine_unavailable
from ups_server.solve.engine_connection import EngineConnection
from ups_server.solve.solver import Frames

logger = logging.getLogger(__name__)

STEADY_S = 60.0
"""A process that lived this long was healthy: the pause before the next restart is short again."""


class Admission:
    """So many rollouts at a time; a bounded number waits in order of arrival."""

    def __init__(self, places: int, queue: int, timeout: float) -> None:
        self._places = places
        self._free = asyncio.Semaphore(places)
        self._queue = queue
        self._timeout = timeout
        self.active = 0
        self.waiting = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Holds a place. Raises UserError ``queue_full``."""
        if self._free.locked() and self.waiting >= self._queue:
            raise self._full("every place is taken and the queue is full")
        self.waiting += 1
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except TimeoutError:
            raise self._full("no place became free in time") from None
        finally:
            self.waiting -= 1
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            self._free.release()

    def _full(self, message: str) -> UserError:
        return UserError(
            "queue_full",
            message,
            expected=f"at most {self._places} rollouts at a time and {self._queue} waiting",
            hint="ask again later",
        )


class LocalEngine(Engine):
    """Supervises one engine process."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._admission = Admission(settings.max_active, settings.max_queued, settings.queue_timeout_s)
        self._connection: EngineConnection | None = None
        self._running = asyncio.Event()
        self._supervision: asyncio.Task[None] | None = None
        self._used: Counter[str] = Counter()
        self._restarts = 0
        self._closed = False

    async def start(self) -> None:
        self._supervision = asyncio.create_task(self._supervise())

    async def rollout(self, spec: RolloutSpec, initial: Frames, static: Frames | None = None) -> AsyncGenerator[Event]:
        self._used[spec.model] += 1
        try:
            async with self._admission.place():
                connection = await self._connected()
                async with aclosing(connection.rollout(spec, initial, static)) as events:
                    async for event in events:
                        yield event
        finally:
            self._used[spec.model] -= 1

    def uses(self, model: str) -> bool:
        return self._used[model] > 0

    def health(self) -> Health:
        connection = self._connection
        state, reason = self._state()
        return Health(
            state=state,
            reason=reason,
            device=connection.device if connection else None,
            models=tuple(sorted(connection.loaded)) if connection else (),
            process_id=connection.process.pid if connection else None,
            restarts=self._restarts,
            active=self._admission.active,
            queued=self._admission.waiting,
        )

    async def close(self) -> None:
        self._closed = True
        if self._supervision is not None:
            self._supervision.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervision
        self._running.set()  # whoever waits for a restart learns that there will be none

    async def _connected(self) -> EngineConnection:
        """The live connection, waiting for a start or restart underway."""
        try:
            async with asyncio.timeout(self._settings.engine_start_timeout_s):
                await self._running.wait()
        except TimeoutError:
            raise engine_unavailable("the engine did not start in time") from None
        if self._closed or self._connection is None:
            raise engine_unavailable("the service is shutting down")
        return self._connection

    async def _supervise(self) -> None:
        """Starts the process again whenever it ends, after a pause that doubles while it keeps dying early."""
        pause = self._settings.engine_restart_s
        while True:
            began = time.monotonic()
            try:
                await self._live()
            except Exception:
                logger.exception("the engine process could not be run")
            if time.monotonic() - began > STEADY_S:
                pause = self._settings.engine_restart_s
            logger.warning("the engine ended; restart in %.1f s", pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._settings.engine_restart_max_s)
            self._restarts += 1

    async def _live(self) -> None:
        """One process from start to end."""
        self._connection = connection = await EngineConnection.launch(self._settings)
        greeting = asyncio.create_task(self._greet(connection))
        try:
            await connection.listen()
        finally:
            greeting.cancel()
            self._running.clear()
            self._connection = None
            await connection.end()

    async def _greet(self, connection: EngineConnection) -> None:
        """Once the process answers: loads the default model, lets requests in."""
        await connection.ready.wait()
        logger.info("engine process %d on %s", connection.process.pid, connection.device)
        with contextlib.suppress(UserError):
            connection.preload(self._catalog.model(self._settings.default_model).source)
        self._running.set()

    def _state(self) -> tuple[str, str | None]:
        connection = self._connection
        if connection is None:
            return "down", "the engine process is not running"
        if not connection.ready.is_set():
            return "starting", "the engine process is starting"
        try:
            source = self._catalog.model(self._settings.default_model).source
        except UserError as error:
            return "loading", str(error)
        if source in connection.failed:
            return "loading", f"{self._settings.default_model} cannot be loaded: {connection.failed[source]}"
        if source not in connection.loaded:
            return "loading", f"{self._settings.default_model} is being loaded"
        return "ready", None
