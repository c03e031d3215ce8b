"""What HTTP clients expect of every address, whichever route answers: HEAD, compressed bodies both ways, entity tags.

A route knows GET, plain bytes and its own answer; what it says passes through here on its way.
"""

import asyncio
import hashlib
import re
import zlib
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ups_server.api.middleware import route_path
from ups_server.api.problems import MEDIA_TYPE as PROBLEM
from ups_server.api.problems import problem_document
from ups_server.errors import UserError

END: Message = {"type": "http.response.body", "body": b"", "more_body": False}


class HeadRequests:
    """ASGI middleware: HEAD wherever there is GET, answered with the same headers.

    Args:
        methods: all methods that a path answers.
    """

    def __init__(self, app: ASGIApp, methods: Callable[[str], Collection[str]]) -> None:
        self.app = app
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or "GET" not in self._methods(route_path(scope)):
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})
        asked = {**scope, "method": "GET"}
        try:
            await self.app(asked, receive, only_head(send))
        finally:
            if "route" in asked:  # the log outside wants to know
                scope["route"] = asked["route"]


def only_head(send: Send) -> Send:
    """Sends the head of an answer and its end; whatever writes the body learns that nobody listens."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send(dict(END))

    return sent


LEAST_COMPRESSED = 1024
"""Bytes of an answer from which compression is worth its time."""
LEVEL = 4


class Compression:
    """ASGI middleware: answers with gzip where the client takes it.

    Args:
        plain: media types that are sent as they are: streams, whose every event has to arrive at once, and arrays,
            which hardly get smaller.
    """

    def __init__(self, app: ASGIApp, plain: Collection[str]) -> None:
        self.app = app
        self._plain = frozenset({*DEFAULT_EXCLUDED_CONTENT_TYPES, *plain})
        self._gzip = GZipMiddleware(app, LEAST_COMPRESSED, LEVEL, exclude_content_types=tuple(sorted(self._plain)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._mark(MutableHeaders(scope=message))
            await send(message)

        taken = takes_gzip(Headers(scope=scope).getlist("accept-encoding"))
        await (self._gzip if taken else self.app)(scope, receive, marked)

    def _mark(self, headers: MutableHeaders) -> None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in self._plain and "accept-encoding" not in headers.get("vary", "").lower():
            headers.add_vary_header("Accept-Encoding")
        tag = headers.get("etag", "")
        if "content-encoding" in headers and tag.startswith('"'):
            headers["ETag"] = f"W/{tag}"  # other bytes than those that the route named so


def takes_gzip(headers: Collection[str]) -> bool:
    """Does the client accept gzip? Not where it gives it a weight of zero."""
    weights: dict[str, float] = {}
    for part in ",".join(headers).lower().split(","):
        name, _, parameter = part.partition(";")
        weight = parameter.replace(" ", "").removeprefix("q=")
        try:
            weights[name.strip()] = float(weight) if weight else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    return max(weights.get("gzip", 0.0), weights.get("x-gzip", 0.0)) > 0 or (
        "gzip" not in weights and weights.get("*", 0.0) > 0
    )


WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content coding of a request's body -> zlib's name of its format."""
PIECE = 2**18
"""Bytes that are decoded at a time."""


class Decoding:
    """ASGI middleware: bodies of requests that were compressed (`Content-Encoding`) reach the route as plain bytes.

    Piece by piece, so that the route's own limit holds for what a body unpacks to. Its announced length, which is
    that of other bytes, is taken away.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        coding = content_coding(Headers(scope=scope)) if scope["type"] == "http" else None
        if coding is None or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        scope["headers"] = [entry for entry in scope["headers"] if entry[0] != b"content-length"]
        await self.app(scope, Unpacked(receive, coding).receive, send)


def content_coding(headers: Headers) -> str | None:
    """How a body is compressed; None: not at all."""
    named = ",".join(headers.getlist("content-encoding")).strip().lower()
    return None if named in ("", "identity") else named


class Unpacked:
    """A body as it was before it was compressed. `receive` is that of an ASGI application."""

    def __init__(self, receive: Receive, coding: str) -> None:
        self._receive = receive
        self._coding = coding
        self._waiting, self._last, self._begun = b"", False, False
        self._unpacker = zlib.decompressobj(WINDOWS.get(coding, 15))

    async def receive(self) -> Message:
        """The next piece. What is wrong with the body is raised where the route reads it.

        Raises:
            UserError: ``unsupported_encoding``, ``invalid_body``.
        """
        if self._coding not in WINDOWS:
            raise UserError(
                "unsupported_encoding",
                "the body is compressed in a way that is not read",
                got=self._coding,
                expected=["gzip", "deflate", "identity"],
            )
        while True:
            if not self._waiting and not self._last:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._waiting, self._last = message.get("body", b""), not message.get("more_body", False)
            elif not self._waiting:
                return await self._receive()
            # A small body may unpack to a large one: others have their turn in between.
            await asyncio.sleep(0)
            piece = self._next()
            over = self._last and not self._waiting
            if over and self._begun and not self._unpacker.eof:
                raise broken_body("it ends in the middle")
            if piece or over:
                return {"type": "http.request", "body": piece, "more_body": not over}

    def _next(self) -> bytes:
        if not self._waiting:
            return b""
        if self._unpacker.eof:  # gzip may have members one after another
            self._unpacker = zlib.decompressobj(WINDOWS[self._coding])
        self._begun = True
        try:
            piece = self._unpacker.decompress(self._waiting, PIECE)
        except zlib.error as error:
            raise broken_body(str(error)) from None
        self._waiting = self._unpacker.unconsumed_tail or self._unpacker.unused_data
        return piece


def broken_body(reason: str) -> UserError:
    return UserError("invalid_body", "the compressed body cannot be unpacked", got=reason)


TAGGED = "application/json"
UNTAGGED = frozenset({"/healthz", "/readyz"})
"""Asked for what is true now."""


class EntityTags:
    """ASGI middleware: `ETag` on JSON that was asked for, and 304 where the client has what an answer would hold.

    Files bring tags of their own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or route_path(scope) in UNTAGGED:
            await self.app(scope, receive, send)
            return
        known = ",".join(Headers(scope=scope).getlist("if-none-match"))
        await self.app(scope, receive, TaggedAnswer(send, known).send)


class TaggedAnswer:
    """One answer on its way; `known`: tags of what the client has."""

    def __init__(self, send: Send, known: str) -> None:
        self._send = send
        self._known = known
        self._held: Message | None = None
        self._over = False

    async def send(self, message: Message) -> None:
        """Passes a message on, or what stands for it."""
        if self._over:
            return
        if message["type"] == "http.response.start":
            headers = Headers(scope=message)
            if message["status"] in (200, 206) and "etag" in headers:
                await self._begin(message)
            elif message["status"] == 200 and headers.get("content-type") == TAGGED:
                self._held = message
            else:
                await self._send(message)
            return
        held, self._held = self._held, None
        if held is not None:
            if not message.get("more_body", False):
                digest = hashlib.sha256(message.get("body", b"")).hexdigest()
                MutableHeaders(scope=held)["ETag"] = f'"{digest[:32]}"'
            await self._begin(held)
        if not self._over:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        if "etag" in headers:
            headers.setdefault("Cache-Control", "no-cache")
        if has_tag(self._known, headers.get("etag")):
            for name in ("content-length", "content-type", "content-range", "content-disposition"):
                del headers[name]
            self._over = True
            await self._send({**message, "status": 304})
            await self._send(dict(END))
        else:
            await self._send(message)


def has_tag(known: str, tag: str | None) -> bool:
    """Is the tag among those of an `If-None-Match`? Compared weakly, as RFC 9110 has it."""
    tags = [entry.strip().removeprefix("W/") for entry in known.split(",")]
    return tag is not None and ("*" in tags or tag.removeprefix("W/") in tags)


RANGES = re.compile(
    r"bytes *= *(?:\d{1,18}-\d{0,18}|-\d{1,18})(?: *, *(?:\d{1,18}-\d{0,18}|-\d{1,18}))*", re.IGNORECASE
)


class Ranges:
    """ASGI middleware: a `Range` in other units than bytes, or that is none, is ignored (RFC 9110); one beyond the end
    is a problem document."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = Headers(scope=scope).get("range") if scope["type"] == "http" else None
        if wanted is None:
            await self.app(scope, receive, send)
            return
        if not is_range(wanted):
            scope["headers"] = [entry for entry in scope["headers"] if entry[0] != b"range"]

        async def explained(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 416:
                size = Headers(scope=message).get("content-range", "").rpartition("/")[2]
                error = UserError(
                    "range_not_satisfiable", "the range lies beyond the end", got=wanted, expected=f"{size} bytes"
                )
                headers = {"Content-Range": f"bytes */{size}"}
                await JSONResponse(problem_document(error), 416, headers, PROBLEM)(scope, receive, send)
                self_answered.append(True)
            elif not self_answered:
                await send(message)

        self_answered: list[bool] = []
        await self.app(scope, receive, explained)


def is_range(text: str) -> bool:
    """Is it a range of bytes, no part of which ends before it begins?"""
    if not RANGES.fullmatch(text.strip()):
        return False
    parts = (part.strip().partition("-") for part in text.partition("=")[2].split(","))
    return all(not first or not last or int(first) <= int(last) for first, _, last in parts)


class RelativeRedirects:
    """ASGI middleware: redirects name a path, since only the client knows by which name and scheme it came."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def relative(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (307, 308):
                headers = MutableHeaders(scope=message)
                place = urlsplit(headers.get("location", ""))
                headers["Location"] = urlunsplit(("", "", place.path, place.query, ""))
            await send(message)

        await self.app(scope, receive, relative)


def middleware(plain: Collection[str], methods: Callable[[str], Collection[str]]) -> list[tuple[Any, dict[str, Any]]]:
    """The classes of this module with their arguments, from the innermost to the outermost."""
    return [
        (Ranges, {}),
        (EntityTags, {}),
        (Decoding, {}),
        (Compression, {"plain": plain}),
        (HeadRequests, {"methods": methods}),
        (RelativeRedirects, {}),
    ]
