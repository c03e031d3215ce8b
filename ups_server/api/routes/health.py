"""Is the service alive, and can it answer rollouts?"""

import asyncio
from dataclasses import replace

from fastapi import APIRouter, Response
from pydantic import BaseModel

from ups_server import __version__
from ups_server.api.service import CurrentService

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The API process answers."""

    status: str = "ok"
    version: str = __version__


class Readiness(BaseModel):
    """State of the engine: `starting`, `loading` (the default model), `ready`, `draining`, or `down`, as it also is
    while the database cannot be written."""

    status: str
    reason: str | None
    device: str | None
    models: list[str]
    restarts: int
    active: int
    queued: int


@router.get("/healthz")
async def healthz() -> Alive:
    """200 as long as the API process answers."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready yet, or the engine is down."}})
async def readyz(service: CurrentService, response: Response) -> Readiness:
    """200 once the engine holds the default model and the database can be written; 503 until then."""
    health = service.engine.health()
    if not await asyncio.to_thread(service.jobs.database.writable):
        health = replace(health, state="down", reason="the database cannot be written: it is locked or away")
    if service.draining.is_set():
        health = replace(health, state="draining", reason="the service is shutting down")
    if health.state != "ready":
        response.status_code = 503
        response.headers["Retry-After"] = str(service.settings.retry_after_s)
    return Readiness(
        status=health.state,
        reason=health.reason,
        device=health.device,
        models=list(health.models),
        restarts=health.restarts,
        active=health.active,
        queued=health.queued,
    )
