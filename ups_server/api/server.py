"""Runs the service: checks its folder and address, listens, and ends in order.

It takes no more connections than there are descriptors for: the others are answered 503, in one line of HTTP.
"""

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ups_server.access.keys import KeyStore
from ups_server.api.app import create_app
from ups_server.api.service import Service
from ups_server.errors import UserError
from ups_server.jobs.database import data_folder_unusable, make_private, open_database
from ups_server.processes import configure_logs, give_back_freed_memory
from ups_server.settings import Settings, is_loopback
from ups_server.tracing import configure_traces

logger = logging.getLogger(__name__)

FAREWELL_S = 5
"""Seconds that the last words to open requests may take after their grace."""
PARTS = ("files", "jobs", "models", "rollouts")
"""Folders that the service makes in its data folder when it needs them."""


def serve(settings: Settings, announce: Callable[[str], None] | None = None) -> None:
    """Serves until interrupted.

    Args:
        announce: called with the base URL once the port is bound.

    Raises:
        UserError: ``remote_not_allowed``, ``address_in_use``, and those of `check_storage`.
    """
    check_storage(settings)
    check_host(settings)
    configure_logs(settings.log_level, settings.log_format, "api")
    give_back_freed_memory()
    configure_traces("api")
    app = create_app(settings)
    most, backlog = shares(raise_descriptors())
    config = configuration(app, settings, most, backlog, settings.shutdown_grace_s + FAREWELL_S)
    with _bound(settings) as listening:
        if announce is not None:
            announce(base_url(listening))
        DrainingServer(config, app.state.service, settings.shutdown_grace_s).run(sockets=[listening])


def configuration(app: FastAPI, settings: Settings, most: int, backlog: int, grace_s: int) -> uvicorn.Config:
    """How the application is served, with at most so many connections; open ones are cut off after `grace_s`."""
    return uvicorn.Config(
        app,
        http=protocol_of(most),
        backlog=backlog,
        host=settings.host,
        port=settings.port,
        root_path=settings.root_path,
        log_config=None,
        log_level=settings.log_level,
        access_log=False,  # ours has an id for each request, and no query
        timeout_graceful_shutdown=grace_s,
    )


class DrainingServer(uvicorn.Server):
    """Takes no new connection from the first signal on and lets open requests finish; streams of jobs end at once.

    What still computes after `grace_s` is ended by ending the engine: a stream with a `problem` event, a request that
    waits with 503, a rollout that is kept by going back into the queue. Each then gets `FAREWELL_S` to be sent.
    """

    def __init__(self, config: uvicorn.Config, service: Service, grace_s: float) -> None:
        super().__init__(config)
        self._service = service
        self._grace_s = grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(without_tracebacks)
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.draining.set()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_rollouts())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_rollouts(self) -> None:
        await asyncio.sleep(self._grace_s)
        await self._service.rollouts.close()  # first: what is kept fails where its engine is away for good
        await self._service.engine.close()


def check_storage(settings: Settings) -> None:
    """The data folder can be written and the database read: said in a sentence before anything is started.

    Raises:
        UserError: ``data_folder_unusable``, ``database_damaged``, and those of `open_database`.
    """
    make_private(settings.data_dir)
    for part in PARTS:
        folder = settings.data_dir / part
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise data_folder_unusable(folder, "it is no folder" if not folder.is_dir() else "it cannot be written")
    database = open_database(settings.data_dir, settings.database)
    try:
        database.check()
    finally:
        database.close()


def check_host(settings: Settings) -> None:
    """Raises UserError ``remote_not_allowed`` for an address others can reach, where no key is active."""
    if is_loopback(settings.host):
        return
    database = open_database(settings.data_dir, settings.database)
    try:
        guarded = KeyStore(database).any_active()
    finally:
        database.close()
    if not guarded:
        raise UserError(
            "remote_not_allowed",
            "without an API key the service listens on loopback addresses only",
            got=settings.host,
            expected="127.0.0.1, ::1 or localhost",
            hint="`ups keys create NAME --scope admin` makes a key",
        )


def base_url(listening: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bound(settings: Settings) -> socket.socket:
    """A socket bound to the address of the settings."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise UserError(
            "address_in_use",
            "the address cannot be listened on",
            got=f"{settings.host}:{settings.port}",
            expected="a free port; 0 takes any",
            hint=str(error),
        ) from error
    return listening


OWN_DESCRIPTORS = 96
"""For the database, files, the engine and the other processes."""
MOST_BACKLOG = 512
MOST_DESCRIPTORS = 2**16
HEAD_S = 30.0
"""Longest time from a connection, or the first byte of a later request, to the end of a request's head."""
LOOKS_S = (0.1, 0.4, 1.0)
"""Pauses between looks whether a client that sends no more still listens; then the last one."""
MOST_LOOKS = 12
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def raise_descriptors() -> int:
    """Takes as many descriptors as the process may have; how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


def shares(descriptors: int) -> tuple[int, int]:
    """(connections, backlog): the loop accepts a whole backlog before it looks at the first of them."""
    backlog = max(8, min(MOST_BACKLOG, descriptors // 8))
    return max(8, descriptors - OWN_DESCRIPTORS - backlog), backlog


class ServiceProtocol(H11Protocol):
    """Refuses connections beyond `most`, and those whose request does not come.

    A client that closes its sending side only is answered. One that is gone altogether looks the same until something
    is sent to it: it is told that its request is in hand, and where its system refuses that, the request is over.

    A connection may send nothing, or the head of a request bit by bit, for at most `HEAD_S` seconds; between two
    requests uvicorn's keep-alive is shorter.
    """

    most: int
    _deadline: asyncio.TimerHandle | None = None
    _look: asyncio.TimerHandle | None = None
    _half_closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) < self.most:
            super().connection_made(transport)
            self._await_head()
            return
        transport.set_protocol(asyncio.Protocol())
        transport.write(REFUSAL)
        transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def eof_received(self) -> bool:  # type: ignore[override]
        self._half_closed = self.cycle is not None and not self.cycle.more_body and self._in_hand()
        if self._half_closed:
            self._look_after(0)
        return self._half_closed

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._half_closed and not self._in_hand():
            self.transport.close()

    def _in_hand(self) -> bool:
        return not self.cycle.response_complete

    def _unanswered(self) -> bool:
        return not self.cycle.response_started

    def _look_after(self, looks: int) -> None:
        """Says that the request is in hand, and looks a little later whether that arrived."""
        if self._unanswered() and self.scope["http_version"] == "1.1":
            self.transport.write(PROCESSING)
        pause = LOOKS_S[min(looks, len(LOOKS_S) - 1)]
        self._look = self.loop.call_later(pause, self._still_there, looks + 1)

    def _still_there(self, looks: int) -> None:
        if self.transport.is_closing() or not self._in_hand():
            return
        # Before 1.1 nothing can be said ahead of an answer: who asks so has to be served soon.
        late = looks > MOST_LOOKS and self._unanswered() and self.scope["http_version"] != "1.1"
        if late or self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self._look_after(looks)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        """Sets the deadline where the head of a request is missing or not whole, and forgets it where it came."""
        if self.conn.their_state is not h11.IDLE:
            self._forget_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_S, self._too_late)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(TOO_LATE)
            self.transport.close()


def protocol_of(most: int) -> type[ServiceProtocol]:
    return type("BoundedProtocol", (ServiceProtocol,), {"most": most})


def without_tracebacks(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What the loop cannot do for want of descriptors is a line in the log, everything else as usual."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        logger.warning("%s: %s", context["message"], error.strerror)
    else:
        loop.default_exception_handler(context)
