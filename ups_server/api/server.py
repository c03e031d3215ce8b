"""Runs the service."""

import logging
import socket
from collections.abc import Callable

import uvicorn

from ups_server.api.app import create_app
from ups_server.errors import UserError
from ups_server.settings import Settings

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def serve(settings: Settings, announce: Callable[[str], None] | None = None) -> None:
    """Serves until interrupted.

    Args:
        announce: called with the base URL once the port is bound.

    Raises:
        UserError: ``remote_not_allowed``, ``address_in_use``.
    """
    settings.check_host()
    logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        log_level=settings.log_level,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )
    with _bound(settings) as listening:
        if announce is not None:
            announce(base_url(listening))
        uvicorn.Server(config).run(sockets=[listening])


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
