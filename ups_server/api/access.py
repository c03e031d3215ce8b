"""Who asks, what they may do and use, and what they used.

Which right each route needs, and whether whoever asks has it: a service without keys listens on loopback only and
answers whoever reaches it there, but no web page of another site: neither by a name that was made to point to loopback,
nor by a request from there. From the first key on every request shows one, as ``Authorization: Bearer ups_...``. Its
limits say how often it asks, how many bytes it stores and how long is computed for it; it goes with the request to the
engine, and to the files and jobs the request makes.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from ups_server.access.keys import DAY_S, ApiKey, KeyLimits, KeyStore
from ups_server.access.scopes import Scope
from ups_server.access.usage import KeyUsage, Meter
from ups_server.api.service import CurrentService, Service
from ups_server.engine.engine import Engine, Event, Health, RolloutSpec, Started
from ups_server.errors import UserError
from ups_server.settings import is_loopback

logger = logging.getLogger(__name__)

KEY: ContextVar[str | None] = ContextVar("key", default=None)
"""Id of the key of the request in hand."""

SCHEME = "ApiKey"
"""Name of the security scheme in the OpenAPI document."""

OPEN = frozenset({"/", "/web/{name:path}", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Routes that ask for nothing: the page, which lets its user enter a key, and health."""

CHANGES = {
    "rollouts": Scope.RUN,
    "inference": Scope.RUN,
    "equations": Scope.RUN,
    "evaluations": Scope.RUN,
    "files": Scope.RUN,
    "fine-tuning": Scope.ADAPT,
    "models": Scope.ADMIN,
    "webhooks": Scope.ADMIN,
}
"""Right to change something, by the tag of the route. What is not here needs `admin`; looking needs `read`."""


def scope_of(path: str, method: str, tags: Sequence[Any]) -> Scope | None:
    """The right that a route needs; None: none."""
    if path in OPEN:
        return None
    if method in ("GET", "HEAD"):
        return Scope.READ
    return CHANGES.get(tags[0] if tags else "", Scope.ADMIN)


def keys_required(service: Service) -> bool:
    """Does the service ask for keys?"""
    return service.jobs.running and KeyStore(service.jobs.database).any()


@dataclass(frozen=True)
class Caller:
    """Who asks. `key`: None where the service has no keys."""

    key: ApiKey | None


async def admit(request: Request, service: CurrentService) -> Caller | None:
    """Lets a request in, or not; None on routes that are open to everybody.

    Raises:
        UserError: ``missing_key``, ``invalid_key``, ``insufficient_scope``, ``foreign_host``, ``foreign_origin``,
            ``rate_limited``, ``compute_quota_exceeded``.
    """
    route = request.scope["route"]
    tags = [str(tag) for tag in route.tags] if isinstance(route, APIRoute) else []
    scope = scope_of(route.path, request.method, tags)
    if scope is None:
        return None
    caller = await asyncio.to_thread(_caller, request, service, scope, tags)
    # Not in the thread: what is set here is seen by the route, and by the engine that it asks.
    KEY.set(None if caller.key is None else caller.key.id)
    request.state.key = KEY.get()
    return caller


UNCHECKED = frozenset({"/", "/web/{name:path}"})
"""Routes whose query is the page's own affair."""


async def check_query(request: Request) -> None:
    """Raises UserError ``unknown_parameter`` for a name in the query that the route does not know."""
    route = request.scope["route"]
    if not isinstance(route, APIRoute) or route.path in UNCHECKED:
        return
    known = _query_names(route.dependant)
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise UserError(
            "unknown_parameter",
            "the query has a parameter that this address does not know",
            got=unknown,
            expected=known,
            hint="nothing was done; names are written as in the OpenAPI document",
        )


def _query_names(dependant: Dependant) -> list[str]:
    """Names in the query that a route and what it depends on ask for."""
    names = [parameter.alias for parameter in dependant.query_params]
    return names + [name for other in dependant.dependencies for name in _query_names(other)]


def _caller(request: Request, service: Service, scope: Scope, tags: list[str]) -> Caller:
    store = KeyStore(service.jobs.database)
    given = bearer_key(request)
    if given is None and not store.any():
        check_local(request)
        return Caller(None)
    if given is None:
        raise UserError(
            "missing_key", "this service asks for an API key", expected="Authorization: Bearer ups_...", hint=HINT
        )
    key = store.find(given)
    check_rate(key, service)
    if not key.allows(scope):
        raise UserError(
            "insufficient_scope",
            f"the key {key.id} may not do this",
            got=list(key.scopes),
            expected=scope.value,
            hint=f"`ups keys create NAME --scope {scope.value}` makes one that may",
        )
    check_compute(request, tags, key, service)
    return Caller(key)


HINT = "set UPS_KEY for client and command line; `ups keys create` makes keys"

Admitted = Annotated[Caller | None, Depends(admit)]
"""Who asks, as a parameter of a route."""


def bearer_key(request: Request) -> str | None:
    """The key of a request. Raises UserError ``invalid_key`` for another way to say who one is."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer":
        raise UserError("invalid_key", "the Authorization is of another kind", got=scheme[:32], expected="Bearer")
    return key.strip()


def check_local(request: Request) -> None:
    """Refuses what a browser sends on behalf of another site.

    Raises:
        UserError: ``foreign_host``, ``foreign_origin``.
    """
    host = _host_of(f"//{request.headers.get('host', '')}")
    peer = host if request.client is None else request.client.host
    for name in (peer, host):
        if not is_loopback(name):
            raise UserError(
                "foreign_host",
                "a service without keys answers on this machine only, and to its names",
                got=name[:128],
                expected="localhost or a loopback address",
                hint="`ups keys create NAME` makes a key; then every name is fine",
            )
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise UserError(
            "foreign_origin", "a service without keys answers no page of another site", got=origin[:128], hint=HINT
        )


def _host_of(address: str) -> str:
    """The name in an address, without its port; empty where it is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


COMPUTING = frozenset({"rollouts", "inference", "super-resolution", "evaluations", "fine-tuning"})
"""Tags of routes whose creations make the engine or the worker compute."""


class LimitReached(UserError):
    """429: asking again after `retry_after` seconds helps."""

    def __init__(self, code: str, message: str, retry_after: float, expected: str) -> None:
        self.retry_after = max(1, math.ceil(retry_after))
        super().__init__(code, message, expected=expected, hint=f"ask again in {self.retry_after} s")


def limits_of(key: ApiKey, service: Service) -> KeyLimits:
    """A key's own limits, and the settings' where it has none."""
    settings = service.settings
    return KeyLimits(
        requests_per_minute=key.requests_per_minute or settings.key_requests_per_minute,
        stored_bytes=settings.key_stored_bytes if key.stored_bytes is None else key.stored_bytes,
        compute_seconds=settings.key_compute_seconds if key.compute_seconds is None else key.compute_seconds,
    )


def check_rate(key: ApiKey, service: Service) -> None:
    """Raises LimitReached ``rate_limited``."""
    allowed = limits_of(key, service).requests_per_minute
    if allowed is None:
        return
    wait = service.rates.take(key.id, allowed)
    if wait > 0:
        raise LimitReached(
            "rate_limited", "too many requests with this key", wait, f"at most {allowed} requests a minute"
        )


def check_compute(request: Request, tags: Collection[str], key: ApiKey, service: Service) -> None:
    """Raises LimitReached ``compute_quota_exceeded`` where something would begin that the key has no time left for."""
    begins = request.method == "POST" and COMPUTING.intersection(tags) and not request.url.path.endswith("/cancel")
    allowed = limits_of(key, service).compute_seconds
    if begins and allowed is not None and computed_today(key, service) >= allowed:
        tomorrow = DAY_S - time.time() % DAY_S
        raise LimitReached(
            "compute_quota_exceeded", "this key has used its time", tomorrow, f"at most {allowed:g} s a day (UTC)"
        )


def computed_today(key: ApiKey, service: Service) -> float:
    """Seconds that engine and worker computed for a key since midnight, UTC."""
    return KeyUsage(service.jobs.database).compute_today(key.id) + service.meter.gathered(key.id)


@contextmanager
def reserved(resource: str, size: int, key: ApiKey | None, service: Service) -> Iterator[None]:
    """While a block makes a file or a job of `size` bytes, they count for its key.

    Raises:
        UserError: ``quota_exceeded`` where they are more than the key may store.
    """
    allowed = None if key is None else limits_of(key, service).stored_bytes
    if key is None or allowed is None:
        yield
        return
    usage = KeyUsage(service.jobs.database)
    left = usage.reserve(key.id, resource, size, allowed, partial(sizes_of, service))
    if size > left:
        raise UserError(
            "quota_exceeded",
            "files and results of this key would exceed its quota",
            got=size,
            expected=f"at most {max(left, 0)} bytes, of {allowed} in all",
            hint="delete files and queued rollouts that are not needed any more",
        )
    try:
        yield
    finally:
        usage.settle(resource)


def stored_bytes(key: ApiKey, service: Service) -> int:
    """Bytes of all files that a key uploaded and of the results of its asynchronous rollouts, planned ones included."""
    return KeyUsage(service.jobs.database).taken(key.id, partial(sizes_of, service))


def sizes_of(service: Service, resources: Collection[str]) -> dict[str, int]:
    """Bytes of those files and results that are there, by id; frames that are still to come included."""
    files = {record.id: record.size for record in service.files.records() if record.id in resources}
    return {**files, **service.results.sizes(set(resources) - files.keys())}


ACCOUNT_S = 5.0
"""Seconds between two entries: a service that is killed forgets no more."""


Record = Callable[[str, str], Awaitable[None]]
"""(key, id of what it made) -> written down."""


def scoped_key(idempotency_key: str | None) -> str | None:
    """The Idempotency-Key of a request as it is stored: what one API key chose says nothing to another."""
    key = KEY.get()
    return idempotency_key if key is None or idempotency_key is None else f"{key}:{idempotency_key}"


class MeteredEngine(Engine):
    """An engine that counts for whom it works: from the start of a rollout on, the time it is waited for."""

    def __init__(self, engine: Engine, meter: Meter) -> None:
        self._engine = engine
        self._meter = meter

    async def start(self) -> None:
        await self._engine.start()

    async def rollout(self, spec: RolloutSpec, *arrays: Any, **more: Any) -> AsyncGenerator[Event]:
        key, began = KEY.get(), None
        async with aclosing(self._engine.rollout(spec, *arrays, **more)) as events:
            while True:
                asked = time.monotonic()
                try:
                    event = await anext(events, None)
                finally:
                    if key is not None and began is not None:
                        self._meter.computed(key, time.monotonic() - max(asked, began))
                if event is None:
                    return
                if isinstance(event, Started):
                    began = time.monotonic()
                yield event

    def beside(self, model: str) -> bool:
        return self._engine.beside(model)

    def uses(self, model: str) -> bool:
        return self._engine.uses(model)

    def health(self) -> Health:
        return self._engine.health()

    async def close(self) -> None:
        await self._engine.close()


class Ownership:
    """ASGI middleware: what an answer says was made (201 or 202 with a `Location`) belongs to the key that asked."""

    def __init__(self, app: ASGIApp, record: Record) -> None:
        self.app = app
        self._record = record

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (201, 202):
                location = Headers(raw=message["headers"]).get("location")
                key = scope.get("state", {}).get("key")
                if location is not None and key is not None:
                    try:
                        await asyncio.shield(asyncio.ensure_future(self._record(key, location.rpartition("/")[2])))
                    except SQLAlchemyError:  # it was made: whoever asked has to learn its name
                        logger.exception("%s was not written down as a key's", location)
            await send(message)

        await self.app(scope, receive, watched if scope["type"] == "http" else send)


async def record_owner(service: Service, key: str, resource: str) -> None:
    """Writes down that a key made a file or a job."""
    await asyncio.to_thread(KeyUsage(service.jobs.database).record_owner, key, resource)


async def keep_accounts(service: Service) -> None:
    """Writes the meter down every few seconds, until cancelled."""
    while True:
        await asyncio.sleep(ACCOUNT_S)
        try:
            await asyncio.to_thread(write_accounts, service)
        except SQLAlchemyError:
            logger.exception("the time of the keys could not be written down")


def write_accounts(service: Service) -> None:
    """Moves what the meter gathered into the database."""
    gathered = service.meter.drain()
    try:
        if gathered:
            KeyUsage(service.jobs.database).add(gathered)
    except SQLAlchemyError:
        for key, seconds in gathered.items():
            service.meter.computed(key, seconds)
        raise
