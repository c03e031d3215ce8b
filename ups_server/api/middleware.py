"""Around every request: an id, a line in the log and a count, and the security headers of its answer.

The log never has a header, a query or a body. The headers let the page load and run what this service sends, and
nothing else.
"""

import asyncio
import logging
import re
import secrets
import time
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ups_server.api.metrics import RequestMetrics
from ups_server.processes import REQUEST_ID
from ups_server.settings import Settings

logger = logging.getLogger("ups_server.requests")

HEADER = "X-Request-ID"
ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Ids that are taken over from whoever asks, such as a proxy; others are replaced."""
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds: logged only where debugging."""
BROKEN = 499
"""The client left before there was an answer."""
CUT_OFF = 503
"""The service ended before there was one."""


class RequestLog:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), BROKEN
        request_id = request_id_of(scope)
        REQUEST_ID.set(request_id)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            status = 500 if status == BROKEN else status
            raise
        except asyncio.CancelledError:  # nothing but the end of the service cancels a request
            logger.warning("%s %s was cut off by the end of the service", scope["method"], quote(scope["path"][:256]))
            if status == BROKEN:
                headers = [(b"connection", b"close"), (b"retry-after", b"5"), (b"content-length", b"0")]
                await watched({"type": "http.response.start", "status": CUT_OFF, "headers": headers})
                await watched({"type": "http.response.body", "body": b""})
        finally:
            self._write(scope, status, time.monotonic() - began)

    def _write(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.count(scope["method"], route, status, seconds)
        path = quote(scope["path"][:256])
        facts = {
            "method": scope["method"],
            "path": path,
            "status": status,
            "seconds": round(seconds, 4),
            "key": scope.get("state", {}).get("key"),
            "client": scope["client"][0] if scope.get("client") else None,
        }
        level = logging.DEBUG if route_path(scope) in QUIET else logging.INFO
        logger.log(level, "%s %s %d in %.3f s", scope["method"], path, status, seconds, extra=facts)


def route_path(scope: Scope) -> str:
    """The path as routes know it, without the prefix under which a proxy shows the service."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def request_id_of(scope: Scope) -> str:
    """The id that came with the request where it is one, else a new one."""
    given = Headers(scope=scope).get(HEADER, "")
    return given if ID.fullmatch(given) else secrets.token_hex(8)


CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",  # pictures that the page fetched with its key
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
}


class SecurityHeaders:
    """ASGI middleware that adds `HEADERS` to the start of every HTTP answer, streams and problems included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)


def cors_options(settings: Settings) -> dict[str, Any]:
    """What pages of the allowed origins may do: everything with a key, nothing with cookies."""
    return {
        "allow_origins": list(settings.cors_origins),
        "allow_methods": ["GET", "HEAD", "POST", "PUT", "DELETE"],
        "allow_headers": [
            "Authorization",
            "Content-Encoding",
            "Content-Range",
            "Content-Type",
            "Idempotency-Key",
            "If-None-Match",
            "Last-Event-ID",
            "Prefer",
        ],
        "expose_headers": ["ETag", "Location", "Retry-After", "Upload-Length", "Upload-Offset", "X-Request-ID"],
        "max_age": 600,
    }
