"""The door: which right each route needs, and whether whoever asks has it.

A service without keys listens on loopback only and answers whoever reaches it there, but no web page of another site:
neither by a name that was made to point to loopback, nor by a request from there. From the first key on every request
shows one, as ``Authorization: Bearer ups_...``.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from ups_server.access.keys import ApiKey, KeyStore
from ups_server.access.scopes import Scope
from ups_server.api.metering import KEY
from ups_server.api.quotas import check_compute, check_rate
from ups_server.api.service import CurrentService, Service
from ups_server.errors import UserError
from ups_server.settings import is_loopback

SCHEME = "ApiKey"
"""Name of the security scheme in the OpenAPI document."""

OPEN = frozenset({"/", "/web/{name:path}", "/healthz", "/readyz"})
"""Routes that ask for nothing: the page, which lets its user enter a key, and health."""

CHANGES = {
    "rollouts": Scope.RUN,
    "equations": Scope.RUN,
    "evaluations": Scope.RUN,
    "files": Scope.RUN,
    "fine-tuning": Scope.ADAPT,
    "models": Scope.ADMIN,
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


def _caller(request: Request, service: Service, scope: Scope, tags: list[str]) -> Caller:
    store = KeyStore(service.jobs.database)
    shown = shown_key(request)
    if shown is None and not store.any():
        check_local(request)
        return Caller(None)
    if shown is None:
        raise UserError(
            "missing_key", "this service asks for an API key", expected="Authorization: Bearer ups_...", hint=HINT
        )
    key = store.find(shown)
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


def shown_key(request: Request) -> str | None:
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
