"""One kind of engine process: started when it is first needed, watched, restarted, with an admission before it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ups_server.engine.admission import Admission
from ups_server.engine.connection import EngineConnection
from ups_server.engine.engine import Event, RolloutSpec, Standing, engine_unavailable
from ups_server.errors import UserError
from ups_server.settings import Settings
from ups_server.solvers.solver import Frames
from ups_server.supervision import keep_alive

logger = logging.getLogger(__name__)

LEARNED = "learned"
STATE_COPIES = 4
"""Of the states of a rollout: as given, on the device, in the batch, and on the way out."""


class SupervisedProcess:
    """An engine process for trained models (`LEARNED`), or for the built-in solvers.

    Args:
        longest_step_s: a step of a built-in solver that takes longer ends with `LateStep`.

    Attributes:
        connection: to the process, while it runs.
        restarts: how often it was started again.
    """

    def __init__(self, settings: Settings, name: str, longest_step_s: float | None = None) -> None:
        self.name, self._longest_step_s = name, longest_step_s
        self.connection: EngineConnection | None = None
        self.restarts = 0
        self.admission = Admission(
            settings.max_active, settings.max_queued, settings.queue_timeout_s, settings.states_memory_bytes
        )
        self._settings = settings
        self._preload: str | None = None
        self._running = asyncio.Event()
        self._supervision: asyncio.Task[None] | None = None
        self._closed = False

    def start(self, preload: str | None = None) -> None:
        """Begins to start it, if that has not been done; each life loads the model `preload` first."""
        self._preload = preload or self._preload
        if self._supervision is None and not self._closed:
            self._supervision = asyncio.create_task(keep_alive(self._live, self._restarted, self._settings, "engine"))

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None, standing: Standing | None
    ) -> AsyncGenerator[Event]:
        """See `Engine.rollout`."""
        self.start()
        size = STATE_COPIES * (initial.nbytes + (0 if static is None else static.nbytes))
        async with self.admission.place(spec.n_steps, size):
            connection = await self._connected()
            async with aclosing(connection.rollout(spec, initial, static, standing)) as events:
                async for event in events:
                    yield event

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
        if self._closed or self.connection is None:
            raise engine_unavailable("the service is shutting down")
        return self.connection

    def _restarted(self) -> None:
        self.restarts += 1

    async def _live(self) -> None:
        """One process from start to end."""
        self.connection = connection = await EngineConnection.launch(
            self._settings, self.name == LEARNED, self._longest_step_s
        )
        greeting = asyncio.create_task(self._greet(connection))
        try:
            await connection.listen()
        finally:
            greeting.cancel()
            self._running.clear()
            self.connection = None
            await connection.end()

    async def _greet(self, connection: EngineConnection) -> None:
        """Once the process answers: loads the model it is to have, lets requests in."""
        await connection.ready.wait()
        logger.info("engine process %d on %s", connection.process.pid, connection.device)
        if self._preload is not None:
            with contextlib.suppress(UserError):
                connection.preload(self._preload)
        self._running.set()
