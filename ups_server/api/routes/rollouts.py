"""Rollouts: from an initial condition to its future."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from ups_server.api.access import Admitted
from ups_server.api.answers import EVENTS, OFFERED, Encoding, answer_bytes, check_size, choose, collect, encode, stream
from ups_server.api.answers import JSON as JSON_FORMAT
from ups_server.api.body import JSON, received
from ups_server.api.problems import documented
from ups_server.api.routes.jobs import IdempotencyKey
from ups_server.api.routes.stored_rollouts import Prefer, accept, respond_async
from ups_server.api.service import CurrentService, Service
from ups_server.engine.admission import check_cost
from ups_server.jobs.spec import Job
from ups_server.rollout.plan import Plan, completed, outlined
from ups_server.rollout.resolve import Discretized
from ups_server.specs import RolloutAnswer, RolloutRequest
from ups_server.tensors import NPZ, SAFETENSORS, Arrays

router = APIRouter(prefix="/v1/rollouts", tags=["rollouts"])

EXAMPLE = {
    "family": "burgers",
    "coefficients": {"nu": 0.001},
    "grid": {"n": [128]},
    "initial_condition": {"sample": {"seed": 7}},
    "n_steps": 20,
}

BINARY = {"schema": {"type": "string", "format": "binary"}}

REQUEST_BODY = {
    "required": True,
    "description": "JSON; or safetensors / npz with an array `initial_condition` and the JSON as text: metadata key "
    "`request` of safetensors, entry `request` of npz.",
    "content": {
        JSON: {"schema": {"$ref": "#/components/schemas/RolloutRequest"}, "example": EXAMPLE},
        SAFETENSORS: BINARY,
        NPZ: BINARY,
    },
}

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": RolloutAnswer,
        "description": "The rollout, in the format of the Accept header. Binary formats hold arrays `data`, `times` "
        "and the coordinates `x`, `y`, `z`, and the rest as JSON in metadata key or entry `header`.",
        "content": {
            name: {"schema": {"type": "string"}} if output == EVENTS else BINARY
            for name, output in OFFERED.items()
            if output != JSON_FORMAT
        },
    },
    202: {
        "model": Job,
        "description": "With `Prefer: respond-async`: the job, whose result will be at `{Location}/result`; 200 and "
        "the same where its Idempotency-Key came before.",
        "headers": {"Location": {"description": "The rollout.", "schema": {"type": "string"}}},
    },
    **documented(400, 404, 406, 409, 413, 415, 422, 429, 503, 507),
}


@router.post("", responses=ANSWERS, response_model=None, openapi_extra={"requestBody": REQUEST_BODY})
async def create_rollout(
    request: Request,
    service: CurrentService,
    encoding: Annotated[Encoding, Query(description="How an event stream writes its states.")] = Encoding.LIST,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
    caller: Admitted = None,
) -> Response:
    """Advances initial conditions `n_steps` steps and returns every `save_every`-th state, the first one included.

    With `Prefer: respond-async` nobody waits: the result is kept, and survives whatever process dies meanwhile.
    """
    if respond_async(prefer):
        return await accept(request, service, idempotency_key, caller.key if caller else None)
    output, content_type = choose(request.headers.get("accept"))
    async with received(request, service, partial(outline, service)) as found:
        todo = await asyncio.to_thread(_prepare, found, output, service)
    del found
    try:
        return await while_connected(request, _answer(todo, output, content_type, encoding, service))
    except ClientDisconnect:
        return Response(status_code=499)


def outline(service: Service, wanted: RolloutRequest, arrays: Arrays | None) -> Discretized:
    """What a request asks of this service."""
    return outlined(wanted, service.catalog, service.settings, arrays, service.files)


def _prepare(found: Discretized, output: str, service: Service) -> Plan:
    todo = completed(found, service.settings)
    check_size(todo, output, service.settings)
    check_cost(todo.spec, len(todo.initial), service.settings)
    return todo


async def _answer(todo: Plan, output: str, content_type: str, encoding: Encoding, service: Service) -> Response:
    if output == EVENTS:
        return await stream(todo, service.engine, encoding, service.settings)
    async with service.answers.hold(answer_bytes(todo, output)):
        answer = await collect(todo, service.engine, service.settings)
        return Response(await asyncio.to_thread(encode, answer, output), media_type=content_type)


async def while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The result of `work`, which is cancelled when the client goes away: its place in the engine is free again.

    Raises:
        ClientDisconnect: the client went away.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect()
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
