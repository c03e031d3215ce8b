"""Runs the service."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from ups_server import logs
from ups_server.access.keys import KeyStore
from ups_server.allocation import give_back_freed_memory
from ups_server.api.app import create_app
from ups_server.api.connections import protocol_of, raise_descriptors, shares, without_tracebacks
from ups_server.errors import UserError
from ups_server.jobs.database import data_folder_unusable, make_private, open_database
from ups_server.settings import Settings, is_loopback

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
    logs.configure(settings.log_level, settings.log_format, "api")
    give_back_freed_memory()
    app = create_app(settings)
    most, backlog = shares(raise_descriptors())
    config = uvicorn.Config(
        app,
        http=protocol_of(most),
        backlog=backlog,
        host=settings.host,
        port=settings.port,
        log_config=None,
        log_level=settings.log_level,
        access_log=False,  # ours has an id for each request, and no query
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )
    with _bound(settings) as listening:
        if announce is not None:
            announce(base_url(listening))
        DrainingServer(config, app.state.service.draining).run(sockets=[listening])


class DrainingServer(uvicorn.Server):
    """Takes no new connection from the first signal on and lets open requests finish; streams of jobs end at once."""

    def __init__(self, config: uvicorn.Config, draining: threading.Event) -> None:
        super().__init__(config)
        self._draining = draining

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(without_tracebacks)
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._draining.set()
        super().handle_exit(sig, frame)


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
