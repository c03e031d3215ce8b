"""No more connections than there are descriptors for: the others are told to come again, in one line of HTTP."""

import asyncio
import errno
import logging
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

OWN_DESCRIPTORS = 96
"""For the database, files, the engine and the other processes."""
MOST_BACKLOG = 512
MOST_DESCRIPTORS = 2**16
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


class BoundedProtocol(H11Protocol):
    """Refuses connections beyond `most`."""

    most: int

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) < self.most:
            super().connection_made(transport)
            return
        transport.set_protocol(asyncio.Protocol())
        transport.write(REFUSAL)
        transport.close()


def protocol_of(most: int) -> type[BoundedProtocol]:
    return type("ServiceProtocol", (BoundedProtocol,), {"most": most})


def without_tracebacks(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What the loop cannot do for want of descriptors is a line in the log, everything else as usual."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        logger.warning("%s: %s", context["message"], error.strerror)
    else:
        loop.default_exception_handler(context)
