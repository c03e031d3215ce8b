"""What the service says about itself: alive, ready, its metrics, and what the key of a request may do.

Keys are made by `ups keys`.
"""

import asyncio
from dataclasses import replace
from typing import Self

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from ups_server import __version__
from ups_server.access.keys import ApiKey, KeyLimits
from ups_server.access.scopes import Scope, granted
from ups_server.api.access import Admitted, computed_today, limits_of, stored_bytes
from ups_server.api.problems import documented
from ups_server.api.service import CurrentService
from ups_server.engine.engine import Health

router = APIRouter()


class Alive(BaseModel):
    """The API process answers."""

    status: str = "ok"
    version: str = __version__


class DeviceReadiness(BaseModel):
    """State of one engine: `starting`, `loading` (the default model), `ready` or `down`."""

    device: str | None
    status: str
    reason: str | None
    models: list[str]
    restarts: int
    active: int
    queued: int

    @classmethod
    def of(cls, health: Health) -> Self:
        return cls(
            device=health.device,
            status=health.state,
            reason=health.reason,
            models=list(health.models),
            restarts=health.restarts,
            active=health.active,
            queued=health.queued,
        )


class Readiness(DeviceReadiness):
    """State of the engines together: `ready` where one is; `draining`, and `down`, as it also is while the database
    cannot be written."""

    devices: list[DeviceReadiness] = Field(description="Each engine; one, where `UPS_DEVICES` names no more.")


@router.get("/healthz", tags=["health"])
async def healthz() -> Alive:
    """200 as long as the API process answers."""
    return Alive()


@router.get(
    "/readyz",
    tags=["health"],
    responses={503: {"model": Readiness, "description": "Not ready yet, or the engine is down."}},
)
async def readyz(service: CurrentService, response: Response) -> Readiness:
    """200 once an engine holds the default model and the database can be written; 503 until then."""
    health = service.engine.health()
    devices = [DeviceReadiness.of(one) for one in health.devices or (health,)]
    if not await asyncio.to_thread(service.jobs.database.writable):
        health = replace(health, state="down", reason="the database cannot be written: it is locked or away")
    if service.draining.is_set():
        health = replace(health, state="draining", reason="the service is shutting down")
    if health.state != "ready":
        response.status_code = 503
        response.headers["Retry-After"] = str(service.settings.retry_after_s)
    return Readiness(**DeviceReadiness.of(health).model_dump(), devices=devices)


METRICS = "# TYPE ups_engine_queued_rollouts gauge\nups_engine_queued_rollouts 0.0\n"
METRICS_ANSWER = {
    "description": "The metrics.",
    "content": {"text/plain": {"schema": {"type": "string"}, "example": METRICS}},
}


@router.get("/metrics", tags=["health"], response_class=Response, responses={200: METRICS_ANSWER})
def get_metrics(request: Request) -> Response:
    """Requests, queue and batches of the engine, jobs by state, memory: what Prometheus collects."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


class CurrentKey(BaseModel):
    """What whoever asks may do."""

    required: bool = Field(description="Does this service ask for keys?")
    key: ApiKey | None = Field(description="The key that was shown; null where none is required.")
    scopes: list[Scope] = Field(description="All rights, those that others include among them.")
    limits: KeyLimits | None = Field(description="What the key may use; null where none is required.")
    stored_bytes: int = Field(
        description="Of all files this key uploaded and all results of its asynchronous rollouts."
    )
    compute_seconds: float = Field(description="Computed for this key today, UTC.")


@router.get("/v1/keys/current", tags=["keys"], responses=documented(401))
def get_current_key(service: CurrentService, caller: Admitted) -> CurrentKey:
    """The key of this request, what it allows and what it has used."""
    key = caller.key if caller is not None else None
    allowed = frozenset(Scope) if key is None else granted(key.scopes)
    return CurrentKey(
        required=key is not None,
        key=key,
        scopes=sorted(allowed, key=list(Scope).index),
        limits=None if key is None else limits_of(key, service),
        stored_bytes=0 if key is None else stored_bytes(key, service),
        compute_seconds=0.0 if key is None else computed_today(key, service),
    )
