"""An engine process seen from the API process: one life of it, and what starts it again after its death.

`EngineConnection` is the process and the messages to and from it; `SupervisedProcess` starts one when it is first
needed, watches it, starts another when it dies, and admits rollouts to it.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ups_server.engine import protocol
from ups_server.engine.admission import Admission
from ups_server.engine.engine import (
    EngineFailure,
    Event,
    Finished,
    Frame,
    LateStep,
    RolloutSpec,
    Standing,
    Started,
    engine_unavailable,
    shutting_down,
)
from ups_server.engine.process import ProcessOptions
from ups_server.errors import UserError
from ups_server.processes import keep_alive
from ups_server.settings import EngineDevice, Settings
from ups_server.solvers.limits import Ended
from ups_server.solvers.solver import Frames
from ups_server.tracing import carrier

logger = logging.getLogger(__name__)

NO_WORK = {"steps": 0, "rows": 0, "seconds": 0.0}
"""What a process has computed at its start: steps of batches, states they advanced, seconds they took."""

PACKAGE_PARENT = Path(__file__).resolve().parent.parent.parent
LEARNED = "learned"
STATE_COPIES = 4
"""Of the states of a rollout: as given, on the device, in the batch, and on the way out."""


@dataclass
class OpenRollout:
    """Messages of one rollout that nobody has taken yet; None: the engine is gone. `owed` frames may still come."""

    owed: int = 0
    inbox: "asyncio.Queue[protocol.Message | None]" = field(default_factory=asyncio.Queue)


class EngineConnection:
    """The process and the messages to and from it. `listen` runs as long as it lives."""

    def __init__(
        self,
        settings: Settings,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self.device: str | None = None
        self.loaded: set[str] = set()
        self.failed: dict[str, str] = {}
        self.ready = asyncio.Event()
        self.work = dict(NO_WORK)
        self._settings = settings
        self._reader = reader
        self._writer = writer
        self._open: dict[int, OpenRollout] = {}
        self._ids = itertools.count(1)
        self._alive = True
        self._last_sign = time.monotonic()

    @classmethod
    async def launch(cls, settings: Settings, options: ProcessOptions) -> "EngineConnection":
        """Starts a process; `ready` is set once it answers and somebody listens."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ups_server.engine.process",
                str(theirs.fileno()),
                options.as_json(),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment(options.threads),
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(settings, process, reader, writer)

    async def listen(self) -> None:
        """Takes in messages until the process dies, stalls or is closed; then every open rollout fails."""
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                self._take(await protocol.read(self._reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            watching.cancel()
            self._alive = False
            for rollout in self._open.values():
                rollout.inbox.put_nowait(None)

    async def end(self) -> None:
        """Closes the connection, which ends the process, and makes sure of it."""
        self._writer.close()
        self._kill()
        await self.process.wait()

    def preload(self, model: str) -> None:
        self._send({"op": "load", "model": model})

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None, standing: Standing | None
    ) -> AsyncGenerator[Event]:
        """See `Engine.rollout`."""
        rollout_id, window = next(self._ids), self._settings.stream_window
        step, saved = (standing.step, standing.saved) if standing else (0, None)
        ended = [state for event in standing.ended for state in event.states] if standing else []
        arrays = [array for array in (initial, static, saved) if array is not None]
        rollout = self._open[rollout_id] = OpenRollout()
        self._owe(rollout, window)
        finished, taken = False, 0
        try:
            todo = {"op": "rollout", "id": rollout_id, "spec": spec.as_json(), "window": window}
            self._send({**todo, "step": step, "ended": ended, "trace": carrier()}, arrays)
            while not finished:
                header, values = await self._reply(rollout)
                match header["op"]:
                    case "started":
                        yield Started()
                    case "frame":
                        yield Frame(header["step"], *values)
                        taken += 1
                        if taken == max(1, window // 2):
                            self._send({"op": "more", "id": rollout_id, "frames": taken})
                            self._owe(rollout, taken)
                            taken = 0
                    case "problem":
                        finished = True
                        raise _error(header["problem"])
                    case "ended":
                        yield Ended.from_json(header["states_ended"])
                    case "end":
                        finished = True
                        yield Finished(header["seconds"])
        finally:
            del self._open[rollout_id]
            if not finished and self._alive:
                self._send({"op": "cancel", "id": rollout_id})

    async def _reply(self, rollout: OpenRollout) -> protocol.Message:
        message = await rollout.inbox.get()
        if message is None:
            raise engine_unavailable("the engine stopped in the middle of this rollout")
        return message

    def _send(self, header: dict[str, Any], arrays: list[Frames] | None = None) -> None:
        """Never waits: what is underway is bounded by the number of open rollouts."""
        if not self._alive:
            raise engine_unavailable("the engine has just stopped")
        self._writer.write(protocol.encode(header, arrays or []))

    def _owe(self, rollout: OpenRollout, frames: int) -> None:
        """From now on the engine may send so many more frames."""
        if not self._owes():
            self._last_sign = time.monotonic()
        rollout.owed += frames

    def _owes(self) -> bool:
        return any(rollout.owed > 0 for rollout in self._open.values())

    async def _watch(self) -> None:
        """Kills a process that owes something and shows no sign of life."""
        while True:
            stall = self._settings.engine_stall_timeout_s
            limit = stall if self.device else self._settings.engine_start_timeout_s
            since = time.monotonic() - self._last_sign
            if since < limit:
                await asyncio.sleep(min(limit - since, stall))
            elif self.device and not self._owes():
                self._last_sign = time.monotonic()
            else:
                logger.warning("the engine gave no sign of life for %.0f s and is killed", since)
                self._kill()
                return

    def _kill(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    def _take(self, message: protocol.Message) -> None:
        header = message[0]
        self._last_sign = time.monotonic()
        match header["op"]:
            case "ready":
                self.device = header["device"]
                self.ready.set()
            case "loaded":
                self.loaded.add(header["model"])
            case "unloaded":
                self.loaded.discard(header["model"])
            case "load_failed":
                self.failed[header["model"]] = header["reason"]
            case "alive":
                self.work = header["work"]
            case _ if rollout := self._open.get(header["id"]):
                rollout.owed -= header["op"] == "frame"
                rollout.inbox.put_nowait(message)


def environment(threads: int) -> dict[str, str]:
    """Of the engine process: explicit threads that do not spin, no network for the model hub, our own package."""
    path = os.pathsep.join(filter(None, [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "PYTHONPATH": path,
    }


def _error(problem: dict[str, Any]) -> UserError | EngineFailure | LateStep:
    if problem["code"] == protocol.LATE:
        return LateStep(problem["message"])
    if problem["code"] == "internal_error":
        return EngineFailure(problem["message"])
    return protocol.problem_from_json(problem)


class SupervisedProcess:
    """An engine process for trained models (`LEARNED`), or for the built-in solvers.

    Args:
        longest_step_s: a step of a built-in solver that takes longer ends with `LateStep`.
        device: of several engines, the one of this.

    Attributes:
        connection: to the process, while it runs.
        restarts: how often it was started again.
    """

    def __init__(
        self, settings: Settings, name: str, longest_step_s: float | None = None, device: EngineDevice | None = None
    ) -> None:
        self.name = name
        self._options = ProcessOptions.of(settings, name == LEARNED, longest_step_s, device)
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
            try:
                async with aclosing(connection.rollout(spec, initial, static, standing)) as events:
                    async for event in events:
                        yield event
            except UserError as error:
                if self._closed and error.code == "engine_unavailable":
                    raise shutting_down() from None
                raise

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
            raise shutting_down()
        return self.connection

    def _restarted(self) -> None:
        self.restarts += 1

    async def _live(self) -> None:
        """One process from start to end."""
        launching = asyncio.ensure_future(EngineConnection.launch(self._settings, self._options))
        try:
            self.connection = connection = await asyncio.shield(launching)
        except asyncio.CancelledError:
            await (await launching).end()  # a process that nobody knew would stay
            raise
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
