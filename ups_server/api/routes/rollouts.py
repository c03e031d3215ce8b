"""Rollouts, from an initial condition to its future; and super-resolution, on a finer grid than the state's, by both
methods."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from ups_server.api.access import Admitted
from ups_server.api.answers import (
    EVENTS,
    OFFERED,
    VARY,
    Answer,
    Encoding,
    answer_bytes,
    check_size,
    choose,
    collect,
    encode,
    stream,
)
from ups_server.api.answers import JSON as JSON_FORMAT
from ups_server.api.body import JSON, received
from ups_server.api.problems import documented
from ups_server.api.routes.jobs import IdempotencyKey
from ups_server.api.routes.stored_rollouts import Prefer, accept, respond_async
from ups_server.api.service import CurrentService, Service
from ups_server.engine.admission import check_cost
from ups_server.errors import UserError
from ups_server.jobs.spec import Job
from ups_server.rollout.plan import Plan, completed, outlined
from ups_server.rollout.reference import ReferenceQuality, TrueError
from ups_server.rollout.resolve import Discretized
from ups_server.rollout.super_resolution import Refinement
from ups_server.specs import Comparison, Method, RolloutAnswer, RolloutRequest, SuperResolutionAnswer
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
        todo = await asyncio.to_thread(prepared, found, output, service)
    del found
    try:
        return await while_connected(request, _answer(todo, output, content_type, encoding, service))
    except ClientDisconnect:
        return Response(status_code=499)


def outline(service: Service, wanted: RolloutRequest, arrays: Arrays | None) -> Discretized:
    """What a request asks of this service."""
    return outlined(wanted, service.catalog, service.settings, arrays, service.files)


def prepared(found: Discretized, output: str, service: Service) -> Plan:
    """The plan of a rollout that is waited for, its answer of a format. Raises UserError where it is too much."""
    todo = completed(found, service.settings)
    check_size(todo, output, service.settings)
    check_cost(todo.spec, len(todo.initial), service.settings)
    return todo


async def _answer(todo: Plan, output: str, content_type: str, encoding: Encoding, service: Service) -> Response:
    if output == EVENTS:
        return await stream(todo, service.engine, encoding, service.settings)
    async with service.answers.hold(answer_bytes(todo, output)):
        answer = await collect(todo, service.engine, service.settings)
        return Response(await asyncio.to_thread(encode, answer, output), media_type=content_type, headers=VARY)


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


super_resolution = APIRouter(prefix="/v1/super-resolution", tags=["rollouts"])

ANSWERS_AT_ONCE = 3
"""Answers that the memory of one request holds: by both methods, and the frames of the reference."""
SCHEMA = {"$ref": "#/components/schemas/RolloutRequest"}
SUPER_RESOLUTION_CONTENT = {
    JSON: {"schema": SCHEMA, "example": {**EXAMPLE, "output_resolution": [512]}},
    SAFETENSORS: BINARY,
    NPZ: BINARY,
}
SUPER_RESOLUTION_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": SuperResolutionAnswer,
        "description": "Both answers along the leading axis, in the order of `methods`; formats as of rollouts, "
        "without streams.",
        "content": {name: entry for name, entry in ANSWERS[200]["content"].items() if name != "text/event-stream"},
    },
    **documented(400, 404, 406, 409, 413, 415, 422, 429, 503),
}


@super_resolution.post(
    "",
    responses=SUPER_RESOLUTION_ANSWERS,
    response_model=None,
    openapi_extra={"requestBody": {**REQUEST_BODY, "content": SUPER_RESOLUTION_CONTENT}},
)
async def create_super_resolution(request: Request, service: CurrentService) -> Response:
    """A rollout at `output_resolution`, resolution-free and interpolated side by side.

    Both start from what the grid of the request shows of the state. With `reference`, the numerical solver on the fine
    grid says how far each is off; diagnostics are those of the first of `methods`.
    """
    output, content_type = choose(request.headers.get("accept"))
    async with received(request, service, partial(outline, service)) as found:
        plans = await asyncio.to_thread(_prepare_both, found, output, service)
    del found
    try:
        return await while_connected(request, _answer_both(*plans, output, content_type, service))
    except ClientDisconnect:
        return Response(status_code=499)


def _prepare_both(found: Discretized, output: str, service: Service) -> tuple[Plan, Plan]:
    """The rollouts by the method of the request, or the default one, and by the other."""
    if output == EVENTS:
        raise UserError(
            "not_acceptable", "super-resolution is not streamed", hint="stream a rollout with output_resolution"
        )
    first = completed(found, service.settings)
    if first.refined is None:
        raise UserError(
            "missing_output_resolution", "super-resolution needs an output_resolution", expected="points per axis"
        )
    if first.batched:
        raise UserError("wrong_shape", "super-resolution takes one state at a time", got=len(first.initial), expected=1)
    other = Method.INTERPOLATION if first.refined.method is Method.RESOLUTION_FREE else Method.RESOLUTION_FREE
    changed = found.resolved.wanted.model_copy(update={"method": other, "reference": False, "diagnostics": False})
    check_size(first, output, service.settings)
    return first, completed(outline(service, changed, found.resolved.arrays), service.settings)


async def _answer_both(first: Plan, second: Plan, output: str, content_type: str, service: Service) -> Response:
    async with service.answers.hold(ANSWERS_AT_ONCE * answer_bytes(first, output)):
        one = await collect(first, service.engine, service.settings, keep_truths=True)
        two = await collect(second, service.engine, service.settings)
        both = await asyncio.to_thread(_together, one, two)
        return Response(await asyncio.to_thread(encode, both, output), media_type=content_type, headers=VARY)


def _together(one: Answer, two: Answer) -> Answer:
    """Both answers along the batch axis, as far as both go."""
    frames = min(one.values.shape[1], two.values.shape[1])
    attributes = {**one.attributes, "batched": True, "methods": [_refined(a).method.value for a in (one, two)]}
    known = {flag["code"] for flag in attributes["flags"]}
    attributes["flags"] = attributes["flags"] + [f for f in two.attributes["flags"] if f["code"] not in known]
    summary = _refined(one).summary
    every = [*summary.explained, *(line for line in _refined(two).summary.explained if line not in summary.explained)]
    attributes["super_resolution"] = summary.model_copy(update={"explained": every}).model_dump(mode="json")
    attributes["errors"] = {}
    found = attributes.pop("reference", None)
    if found is not None:
        other = _compared(two, one.truths, Comparison.model_validate(found))
        names = attributes["methods"]
        attributes["errors"] = {names[0]: found, names[1]: other.model_dump(mode="json")}
    values = np.concatenate([one.values[:, :frames], two.values[:, :frames]])
    return replace(one, plan=replace(one.plan, batched=True), values=values, attributes=attributes)


def _compared(answer: Answer, truths: list[Any], first: Comparison) -> Comparison:
    """The errors of the second method against the frames the solver computed beside the first."""
    errors = TrueError(answer.plan)
    for frame, truth in enumerate(truths[: answer.values.shape[1]]):
        errors.add(answer.values[:, frame], truth)
    solved = ReferenceQuality(
        first.reason,
        first.seconds["solver"],
        tuple(first.points),
        None,
        None,
        first.settled,
        first.accuracy,
        first.start,
    )
    found = {"error": first.error, "error_per_field": first.error_per_field}
    return errors.summary(solved, answer.seconds).model_copy(update=found)


def _refined(answer: Answer) -> Refinement:
    assert answer.plan.refined is not None
    return answer.plan.refined
