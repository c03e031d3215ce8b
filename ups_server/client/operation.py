"""What the clients do, apart from how: an operation is a generator that yields what is to happen and gets its outcome.

A client, blocking or not, has it happen. Whatever is decided between two requests, repeating one included, stands in
operations alone.
"""

import inspect
import json
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args

import httpx

from ups_server.client.problems import check

P = ParamSpec("P")
T = TypeVar("T")

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
class Work:
    """A function that keeps its thread busy; it may ask through a blocking connection. The outcome is its value."""

    function: Callable[[httpx.Client], Any]


Effect = Ask | Pause | Work
Operation = Generator[Effect, Any, T]


def advance(operation: Operation[T], outcome: Any) -> Effect:
    """The next effect of an operation. Raises StopIteration with its value, and whatever the operation raises."""
    return operation.throw(outcome) if isinstance(outcome, httpx.TransportError) else operation.send(outcome)


def asked(ask: Ask) -> Operation[httpx.Response]:
    """The successful answer to a request, which is sent again where that can help and does no harm.

    Raises:
        UserError: what the service objects to.
        httpx.TransportError: the service cannot be reached.
    """
    failures = 0
    while True:
        try:
            response: httpx.Response = yield ask
        except BROKEN as error:
            failures += 1
            if failures > RETRIES or not (ask.repeatable or isinstance(error, UNSENT)):
                raise
            yield Pause(pause_s(failures))
            continue
        wait = _asked_to_wait_s(response)
        if wait is None or failures >= RETRIES:
            check(response)
            return response
        failures += 1
        yield Pause(wait)


def got(path: str, **params: str | int) -> Operation[dict[str, Any]]:
    """The JSON document at a path."""
    response = yield from asked(Ask("GET", path, params=params, repeatable=True))
    return dict(response.json())


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
    value: T = yield Work(function)
    return value


def pause_s(failures: int) -> float:
    """Seconds to wait after so many failures one after another."""
    return float(min(0.1 * 2**failures, LONGEST_PAUSE_S))


def described(method: Callable[..., Any], source: Callable[..., Any]) -> None:
    """Gives a client's method the name, the documentation and the arguments of what it does."""
    signature = inspect.signature(source)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    value = get_args(signature.return_annotation)[-1]
    wraps(source)(method)
    method.__dict__["__signature__"] = signature.replace(
        parameters=[own, *signature.parameters.values()], return_annotation=getattr(value, "__forward_arg__", value)
    )


def _asked_to_wait_s(response: httpx.Response) -> float | None:
    """Seconds after which the service wants the request again, where that is soon."""
    text = response.headers.get("Retry-After", "")
    soon = response.status_code in (429, 503) and text.isdecimal() and int(text) <= LONGEST_PAUSE_S
    return float(text) if soon else None
