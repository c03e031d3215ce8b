"""Who pays: the key of a request goes with it to the engine, and to the files and jobs it makes."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ups_server.access.usage import Meter, Usage
from ups_server.api.service import Service
from ups_server.engine.engine import Engine, Event, Health, RolloutSpec, Started

logger = logging.getLogger(__name__)

ACCOUNT_S = 5.0
"""Seconds between two entries: a service that is killed forgets no more."""

KEY: ContextVar[str | None] = ContextVar("key", default=None)
"""Id of the key of the request in hand."""

Own = Callable[[str, str], Awaitable[None]]
"""(key, id of what it made) -> written down."""


def own_key(idempotency_key: str | None) -> str | None:
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

    def uses(self, model: str) -> bool:
        return self._engine.uses(model)

    def health(self) -> Health:
        return self._engine.health()

    async def close(self) -> None:
        await self._engine.close()


class Ownership:
    """ASGI middleware: what an answer says was made (201 or 202 with a `Location`) belongs to the key that asked."""

    def __init__(self, app: ASGIApp, own: Own) -> None:
        self.app = app
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (201, 202):
                location = Headers(raw=message["headers"]).get("location")
                key = scope.get("state", {}).get("key")
                if location is not None and key is not None:
                    try:
                        await asyncio.shield(asyncio.ensure_future(self._own(key, location.rpartition("/")[2])))
                    except SQLAlchemyError:  # it was made: whoever asked has to learn its name
                        logger.exception("%s was not written down as a key's own", location)
            await send(message)

        await self.app(scope, receive, watched if scope["type"] == "http" else send)


async def own(service: Service, key: str, resource: str) -> None:
    """Writes down that a key made a file or a job."""
    await asyncio.to_thread(Usage(service.jobs.database).own, key, resource)


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
            Usage(service.jobs.database).add(gathered)
    except SQLAlchemyError:
        for key, seconds in gathered.items():
            service.meter.computed(key, seconds)
        raise
