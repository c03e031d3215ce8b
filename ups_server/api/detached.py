"""Rollouts that nobody waits for: `Prefer: respond-async` queues them, and their result is kept."""

import asyncio
import math
from functools import partial
from typing import Annotated

from fastapi import Header, Request
from fastapi.responses import JSONResponse

from ups_server.access.keys import ApiKey
from ups_server.api.body import received
from ups_server.api.memory import COPIES, Memory
from ups_server.api.metering import own_key
from ups_server.api.quotas import reserved
from ups_server.api.service import Service
from ups_server.catalog import Catalog
from ups_server.engine.admission import check_cost
from ups_server.files.storage import FileStorage
from ups_server.jobs.results import RolloutFolder
from ups_server.jobs.rollouts import order, without_waiting
from ups_server.jobs.spec import ROLLOUT, Job
from ups_server.jobs.store import new_id
from ups_server.rollout.plan import Plan, plan
from ups_server.rollout.planning import check_planning, planning_bytes
from ups_server.settings import Settings
from ups_server.specs import RolloutRequest
from ups_server.tensors import Arrays

PATH = "/v1/rollouts"
PREFERENCE = "respond-async"
ASYNC_SHARE = 24.0
"""Of the time that a numerical rollout may take, where nobody waits for it."""


Prefer = Annotated[
    list[str] | None,
    Header(description="`respond-async`: do not wait; the answer is 202, and the result is kept (RFC 7240)."),
]


def respond_async(prefer: list[str] | None) -> bool:
    """Does the client prefer not to wait?"""
    preferences = ",".join(prefer or ()).split(",")
    return any(preference.partition(";")[0].strip().lower() == PREFERENCE for preference in preferences)


async def accept(request: Request, service: Service, key: str | None, payer: ApiKey | None) -> JSONResponse:
    """Queues a rollout: 202 and its place; 200 where the Idempotency-Key `key` has made it before.

    Args:
        payer: its result counts towards the bytes of this API key.

    Raises:
        UserError: everything that can be wrong with a request; ``quota_exceeded``, ``idempotency_conflict``.
    """
    async with received(request, service, partial(_needed, service)) as (wanted, arrays):
        job, created = await asyncio.to_thread(_order, wanted, arrays, service, key, payer)
    service.rollouts.wake()
    headers = {"Location": f"{PATH}/{job.id}", "Preference-Applied": PREFERENCE}
    return JSONResponse(job.model_dump(mode="json"), 202 if created else 200, headers)


async def kept_plan(
    catalog: Catalog, settings: Settings, files: FileStorage, memory: Memory, folder: RolloutFolder
) -> Plan:
    """The plan of a rollout that was queued, once there is memory for it. Raises UserError as `plan`."""
    allowed = without_waiting(settings)
    async with memory.hold(COPIES * await asyncio.to_thread(folder.request_bytes), patient=True) as held:
        wanted, arrays = await asyncio.to_thread(folder.request)
        size = await asyncio.to_thread(planning_bytes, wanted, catalog, allowed, arrays, files)
        check_planning(size, settings)
        if arrays is None:
            await held.change(size, patient=True)
        return await asyncio.to_thread(plan, wanted, catalog, allowed, arrays, files)


def _needed(service: Service, wanted: RolloutRequest, arrays: Arrays | None) -> int:
    return planning_bytes(wanted, service.catalog, without_waiting(service.settings), arrays, service.files)


def _order(
    request: RolloutRequest, arrays: Arrays | None, service: Service, key: str | None, payer: ApiKey | None
) -> tuple[Job, bool]:
    todo = plan(request, service.catalog, without_waiting(service.settings), arrays, service.files)
    check_cost(todo.spec, len(todo.initial), service.settings, ASYNC_SHARE)
    store, key, job_id = service.jobs.store, own_key(key), new_id(ROLLOUT)
    if key is not None and store.has_key(key):  # a repetition takes no room
        return order(request, arrays, todo, store, service.settings, key, job_id)
    wanted = 4 * math.prod(todo.shape)
    with reserved(job_id, wanted, payer, service):
        service.results.make_room(store, wanted)
        return order(request, arrays, todo, store, service.settings, key, job_id)
