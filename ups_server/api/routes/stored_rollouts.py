"""Rollouts that nobody waits for: `Prefer: respond-async` queues them; their state, events, result and end."""

import asyncio
import math
import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, JSONResponse
from starlette.types import Receive, Scope, Send

from ups_server.access.keys import ApiKey
from ups_server.api.access import reserved, scoped_key
from ups_server.api.answers import VARY, choose_file
from ups_server.api.body import received
from ups_server.api.memory import COPIES, Memory
from ups_server.api.problems import documented
from ups_server.api.routes.jobs import add_job_routes
from ups_server.api.service import CurrentService, Service, place_of
from ups_server.catalog import Catalog
from ups_server.data.export import media_types
from ups_server.data.formats.zarr import METADATA
from ups_server.engine.admission import check_cost
from ups_server.errors import UserError
from ups_server.files.storage import FileStorage
from ups_server.jobs.results import SUFFIXES, RolloutFolder
from ups_server.jobs.rollouts import order, without_waiting
from ups_server.jobs.spec import ROLLOUT, Job
from ups_server.jobs.store import new_id
from ups_server.rollout.plan import Plan, completed, outlined
from ups_server.rollout.resolve import Discretized, check_memory
from ups_server.settings import Settings
from ups_server.specs import RolloutRequest
from ups_server.tensors import SAFETENSORS, Arrays

router = APIRouter(prefix="/v1/rollouts", tags=["rollouts"])

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
    async with received(request, service, partial(_outline, service)) as found:
        job, created = await asyncio.to_thread(_order, found, service, key, payer)
    service.rollouts.wake()
    headers = {"Location": place_of(request, job.id), "Preference-Applied": PREFERENCE}
    return JSONResponse(job.model_dump(mode="json"), 202 if created else 200, headers)


async def kept_plan(
    catalog: Catalog, settings: Settings, files: FileStorage, memory: Memory, folder: RolloutFolder
) -> Plan:
    """The plan of a rollout that was queued, once there is memory for it. Raises UserError as `plan`."""
    allowed = without_waiting(settings)
    async with memory.hold(COPIES * await asyncio.to_thread(folder.request_bytes), patient=True) as held:
        wanted, arrays = await asyncio.to_thread(folder.request)
        found = await asyncio.to_thread(outlined, wanted, catalog, allowed, arrays, files)
        check_memory(found, settings)
        if arrays is None:
            await held.change(found.bytes, patient=True)
        return await asyncio.to_thread(completed, found, allowed)


def _outline(service: Service, wanted: RolloutRequest, arrays: Arrays | None) -> Discretized:
    return outlined(wanted, service.catalog, without_waiting(service.settings), arrays, service.files)


def _order(found: Discretized, service: Service, key: str | None, payer: ApiKey | None) -> tuple[Job, bool]:
    request, arrays = found.resolved.wanted, found.resolved.arrays
    todo = completed(found, without_waiting(service.settings))
    check_cost(todo.spec, len(todo.initial), service.settings, ASYNC_SHARE)
    store, key, job_id = service.jobs.store, scoped_key(key), new_id(ROLLOUT)
    if key is not None and store.has_key(key):  # a repetition takes no room
        return order(request, arrays, todo, store, service.settings, key, job_id)
    wanted = 4 * math.prod(todo.shape)
    with reserved(job_id, wanted, payer, service):
        service.results.make_room(store, wanted)
        return order(request, arrays, todo, store, service.settings, key, job_id)


KEY = re.compile(r"(zarr\.json|[A-Za-z_][A-Za-z0-9_]*/(zarr\.json|c(\.[0-9]+)*))")
"""Every file of a result in Zarr: nothing else of the folder can be named."""

BINARY = {"schema": {"type": "string", "format": "binary"}}
RESULT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The result as a file, whole or the part that `Range` asks for.",
        "content": {media_type: BINARY for media_type, name in media_types().items() if name in SUFFIXES},
    },
    206: {"description": "A part."},
    **documented(404, 406, 409, 410, 416),
}

add_job_routes(router, ROLLOUT)


class HeldFile(FileResponse):
    """A file of a result, which is not removed while it is sent. Ranges are answered (RFC 9110)."""

    def __init__(self, path: Path, held: ExitStack, media_type: str, filename: str | None = None) -> None:
        super().__init__(path, media_type=media_type, filename=filename)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


@router.get("/{job_id}/result", responses=RESULT, response_class=FileResponse, response_model=None)
async def get_result(job_id: str, request: Request, service: CurrentService) -> HeldFile:
    """The result of a rollout that has ended, as the file that the Accept header asks for; default: safetensors.

    In Zarr, this address is the store itself: `xarray.open_zarr(".../result")`, from the first frame on.
    """
    format, media_type = choose_file(request.headers.get("accept"), SAFETENSORS, SUFFIXES)
    found = await asyncio.to_thread(_file, job_id, format, media_type, service)
    found.headers.update(VARY)
    return found


@router.get("/{job_id}/result/{key:path}", responses=RESULT, response_class=FileResponse, response_model=None)
def get_result_part(
    job_id: str,
    service: CurrentService,
    key: Annotated[str, PathParameter(description="`zarr.json`, or a document or chunk of an array.")],
) -> HeldFile:
    """A part of the result in Zarr version 3, one step a chunk; frames that are not there yet are missing."""
    with ExitStack() as held:
        folder, job = _reading(held, job_id, service)
        if job.final and key.endswith(METADATA):
            folder.settle()
        path = folder.zarr / key
        if not KEY.fullmatch(key) or not path.is_file():
            raise UserError("not_found", f"the result has no part {key!r}", got=key)
        media_type = "application/json" if path.suffix == ".json" else "application/octet-stream"
        return HeldFile(path, held.pop_all(), media_type)


@router.delete("/{job_id}", status_code=204, responses=documented(404, 409))
def delete_rollout(job_id: str, service: CurrentService) -> Response:
    """Removes a rollout that has ended, with its result and events."""
    service.jobs.store.delete(job_id, ROLLOUT)
    service.results.remove(RolloutFolder(service.settings.data_dir, job_id))
    return Response(status_code=204)


def _file(job_id: str, format: str, media_type: str, service: Service) -> HeldFile:
    with ExitStack() as held:
        folder, job = _reading(held, job_id, service)
        if not job.final:
            raise UserError(
                "result_not_ready",
                f"{job_id} has not ended",
                got=job.state.value,
                hint="follow its events; the frames that are there are in the Zarr store at this address",
            )
        folder.settle()
        path = folder.file(format)
        return HeldFile(path, held.pop_all(), media_type, f"{job_id}{path.suffix}")


def _reading(held: ExitStack, job_id: str, service: Service) -> tuple[RolloutFolder, Job]:
    """The folder of a result, held until the stack is closed, and its job.

    Raises:
        UserError: ``unknown_job``, ``result_not_ready``, ``result_expired``.
    """
    job = service.jobs.store.get(job_id, ROLLOUT)
    folder = held.enter_context(service.results.reading(job_id))
    if not (folder.zarr / METADATA).is_file():
        raise UserError("result_not_ready", f"{job_id} has no frame yet", got=job.state.value)
    return folder, job
