"""How the clients talk to the service: an operation is a generator that yields what is to happen and gets its outcome.

A client, blocking or not, has it happen. Whatever is decided between two requests, repeating one included, is written
in operations alone, and so is where a stream of events goes on after its connection broke.
"""

import inspect
import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import wraps
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, get_args, get_origin, get_type_hints
from urllib.parse import quote

import httpx
from httpx_sse import ServerSentEvent

from ups_server.client.messages import Document, ServerEvent
from ups_server.errors import UserError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
ItemT = TypeVar("ItemT")

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 600.0

RETRIES = 3
"""Repetitions of a request whose connection fails, or that the service asks to send again."""
LONGEST_PAUSE_S = 5.0
"""Longer waits are the caller's affair: the service's problem document is raised instead."""
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout)
BROKEN = (*UNSENT, httpx.NetworkError, httpx.RemoteProtocolError)


@dataclass(frozen=True)
class Ask:
    """A request; its outcome is the response, whatever its status, or the httpx.TransportError of the connection.

    Attributes:
        repeatable: sending it twice does what sending it once does.
        into: a file for the body of a successful answer.
        streamed: the answer's body is left for the client to read line by line.
    """

    method: str
    path: str
    content: bytes | Iterable[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str | int] = field(default_factory=dict)
    repeatable: bool = False
    into: Path | None = None
    streamed: bool = False


@dataclass(frozen=True)
class Pause:
    """Nothing for some seconds."""

    seconds: float


@dataclass(frozen=True)
class InThread:
    """A function that keeps its thread busy; it may ask through a blocking connection. The outcome is its value."""

    function: Callable[[httpx.Client], Any]


Effect = Ask | Pause | InThread
Operation = Generator[Effect, Any, T]


def advance(operation: Operation[T], outcome: Any) -> Effect:
    """The next effect of an operation. Raises StopIteration with its value, and whatever the operation raises."""
    return operation.throw(outcome) if isinstance(outcome, httpx.TransportError) else operation.send(outcome)


class Unreachable(UserError, httpx.TransportError):
    """Nobody answers at the service's address: nothing was sent."""

    def __init__(self, error: httpx.TransportError) -> None:
        url = error.request.url
        place = f"{url.scheme}://{url.netloc.decode()}"
        super().__init__(
            "unreachable",
            f"no service answers at {place}",
            got=str(error),
            hint="`ups serve` starts one; `Client(base_url)` says where it is",
        )
        self.request = error.request


def asked(ask: Ask) -> Operation[httpx.Response]:
    """The successful answer to a request, which is sent again where that can help and does no harm; the log says so.

    Raises:
        UserError: what the service objects to.
        Unreachable: nobody answers there.
        httpx.TransportError: the connection broke.
    """
    failures = 0
    while True:
        try:
            response: httpx.Response = yield ask
        except BROKEN as error:
            failures += 1
            unsent = isinstance(error, UNSENT)
            if failures > RETRIES and unsent:
                raise Unreachable(error) from error
            if failures > RETRIES or not (ask.repeatable or unsent):
                raise
            logger.warning("%s %s: %s; sent again (%d of %d)", ask.method, ask.path, error, failures, RETRIES)
            yield Pause(pause_s(failures))
            continue
        wait = wait_s(response, ask.repeatable, failures)
        if wait is None or failures >= RETRIES:
            check(response)
            return response
        failures += 1
        again = f"sent again in {wait:.1f} s ({failures} of {RETRIES})"
        logger.warning("%s %s: %d; %s", ask.method, ask.path, response.status_code, again)
        yield Pause(wait)


def got(path: str, **params: str | int) -> Operation[dict[str, Any]]:
    """The JSON document at a path."""
    response = yield from asked(Ask("GET", path, params=params, repeatable=True))
    return dict(response.json())


def given(**parameters: str | int | None) -> dict[str, str | int]:
    """Parameters of a query without those that are None."""
    return {name: value for name, value in parameters.items() if value is not None}


def sent(method: str, path: str, document: object = None, key: str | None = None) -> Operation[dict[str, Any]]:
    """The JSON answer to a JSON document; with an Idempotency-Key the request may be repeated."""
    headers = {} if key is None else {"Idempotency-Key": key}
    content = None
    if document is not None:
        content, headers = json.dumps(document).encode(), {**headers, "Content-Type": "application/json"}
    response = yield from asked(Ask(method, path, content, headers, repeatable=key is not None))
    return dict(response.json())


def deleted(path: str) -> Operation[None]:
    """Removes what is at a path."""
    yield from asked(Ask("DELETE", path))


def worked(function: Callable[[httpx.Client], T]) -> Operation[T]:
    """What a function returns that is computed where it holds up nobody."""
    value: T = yield InThread(function)
    return value


def pause_s(failures: int) -> float:
    """Seconds to wait after so many failures one after another."""
    return float(min(0.1 * 2**failures, LONGEST_PAUSE_S))


class Stream(ABC, Generic[ItemT]):
    """Server-sent events as items of type T, over one connection after another, until `ended`."""

    def __init__(self) -> None:
        self.ended = False

    @abstractmethod
    def connect(self) -> Operation[httpx.Response]:
        """Opens a connection; the body of the response is still to be read."""

    @abstractmethod
    def items(self, event: ServerEvent) -> Iterator[ItemT]:
        """What an event is to the caller. Sets `ended` with the last one."""

    @abstractmethod
    def disconnected(self, error: httpx.TransportError | None) -> Operation[None]:
        """A connection is over, by an error or without. Sets `ended`, raises, or does nothing: then connect again."""

    def read(self, event: ServerSentEvent) -> Iterator[ItemT]:
        """The items of an event as it came."""
        if event.data:  # none: a comment that keeps the connection open
            yield from self.items(ServerEvent(event.event, Document(json.loads(event.data))))


def segment(identifier: str) -> str:
    """An id as one part of a path."""
    return quote(identifier, safe="")


def check(response: httpx.Response) -> None:
    """Raises the UserError of a problem document, or httpx.HTTPStatusError for anything else that failed."""
    if not response.is_error:
        return
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        raise user_error(response.json())
    response.raise_for_status()


def user_error(problem: dict[str, Any]) -> UserError:
    return UserError(
        problem["code"],
        problem["detail"],
        got=problem.get("got"),
        expected=problem.get("expected"),
        hint=problem.get("hint"),
    )


def connection(base_url: str, timeout: float, key: str | None) -> dict[str, Any]:
    """Arguments of httpx's clients; without a key, that of the environment variable UPS_KEY."""
    key = key or os.environ.get("UPS_KEY")
    headers = {} if not key else {"Authorization": f"Bearer {key}"}
    return {"base_url": base_url, "timeout": timeout, "headers": headers}


def described(method: Callable[..., Any], source: Callable[..., Any]) -> None:
    """Gives a client's method the name, the documentation and the arguments of what it does, one by one."""
    signature = inspect.signature(source)
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    value = get_args(signature.return_annotation)[-1]
    wraps(source)(method)
    method.__dict__["__signature__"] = signature.replace(
        parameters=[first, *(named for given in signature.parameters.values() for named in _spelled_out(given))],
        return_annotation=getattr(value, "__forward_arg__", value),
    )


def _spelled_out(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """The parameters that a typed dictionary of options stands for; any other parameter as it is."""
    if get_origin(parameter.annotation) is not Unpack:
        yield parameter
        return
    for name, kind in get_type_hints(get_args(parameter.annotation)[0]).items():
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def wait_s(response: httpx.Response, repeatable: bool, failures: int) -> float | None:
    """Seconds after which a request is worth sending again, where that is soon; None: not at all.

    The service itself did nothing where it answers 429 or 503 and names a time. A proxy's 502, or its 503 without one,
    may have come after the service was asked.
    """
    named = response.headers.get("Retry-After")
    status = response.status_code
    if status not in (429, 502, 503) or (not repeatable and (status == 502 or named is None)):
        return None
    if named is None:
        return pause_s(failures + 1) if status != 429 else None
    wait = retry_after_s(named, time.time())
    return wait if wait is not None and wait <= LONGEST_PAUSE_S else None


def retry_after_s(text: str, now: float) -> float | None:
    """Seconds of a `Retry-After`, which are a number or a date; None where it is neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except ValueError:
        return None
