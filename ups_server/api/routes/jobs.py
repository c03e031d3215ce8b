"""Jobs: what every kind of them offers (create once, look up, follow, cancel, resume), evaluations, fine-tunings."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field, ValidationError

from ups_server.api.access import scoped_key
from ups_server.api.answers import VARY, EventStream, with_keep_alive
from ups_server.api.body import JSON, read_json
from ups_server.api.problems import documented
from ups_server.api.service import CurrentService, Service, place_of
from ups_server.errors import UserError
from ups_server.jobs.spec import Checkpoint, EvaluationSpec, FineTuningSpec, Job, JobEvent, JobState
from ups_server.jobs.store import PAGE, JobStore
from ups_server.jobs.submission import check_evaluation, check_fine_tuning
from ups_server.specs import invalid_request

EVENT_STREAM = "text/event-stream"

SpecT = TypeVar("SpecT", EvaluationSpec, FineTuningSpec)

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1, max_length=255, description="A request repeated with the same key answers with the job it made."
    ),
]


class JobList(BaseModel):
    """Jobs, the latest first."""

    jobs: list[Job]
    next: str | None = Field(default=None, description="`before` of the following page; null: this is the last one.")


class JobEvents(BaseModel):
    """Events in order. `complete`: there will be no more unless the job is resumed."""

    events: list[JobEvent]
    complete: bool


def request_body(spec: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI entry of a body that the route reads itself."""
    schema = {"$ref": f"#/components/schemas/{spec.__name__}"}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema, "example": example}}}}


async def read_spec(request: Request, service: Service, spec: type[SpecT]) -> SpecT:
    """The spec of a job from a request, its model filled in.

    Raises:
        UserError: ``invalid_json``, ``invalid_request``, ``body_too_large``.
    """
    body = await read_json(request, service.settings.max_body_bytes)
    try:
        found = spec.model_validate_json(body)
    except ValidationError as error:
        raise invalid_request(error) from None
    if isinstance(found, FineTuningSpec) and found.fresh:
        return found
    return found.model_copy(update={"model": found.model or service.settings.default_model})


async def create(
    request: Request, response: Response, service: Service, spec: EvaluationSpec | FineTuningSpec, key: str | None
) -> Job:
    """Queues a job: 201 and its place; 200 where the key has made it before."""
    job, created = await asyncio.to_thread(service.jobs.store.create, spec, scoped_key(key))
    response.status_code = 201 if created else 200
    response.headers["Location"] = place_of(request, job.id)
    return job


def add_job_routes(router: APIRouter, kind: str) -> None:
    """Adds list, get, events, cancel and resume of one kind of job."""

    @router.get("", responses=documented(404))
    def list_jobs(
        service: CurrentService,
        limit: Annotated[int, Query(ge=1, le=PAGE)] = 20,
        before: Annotated[str | None, Query(description="Only jobs made before this one.")] = None,
        state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    ) -> JobList:
        """The latest jobs first."""
        found = service.jobs.store.page(kind, limit, before, state)
        return JobList(jobs=found, next=found[-1].id if len(found) == limit else None)

    @router.get("/{job_id}", responses=documented(404))
    def get_job(job_id: str, service: CurrentService) -> Job:
        """One job: its state, and its result or error once it has ended."""
        return service.jobs.store.get(job_id, kind)

    @router.get(
        "/{job_id}/events",
        response_model=None,
        responses={
            200: {"model": JobEvents, "content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
            **documented(404, 422),
        },
    )
    async def follow_job(
        job_id: str,
        request: Request,
        response: Response,
        service: CurrentService,
        after: Annotated[int, Query(ge=0, description="Only events with a higher number.")] = 0,
        last_event_id: Annotated[str | None, Header(description="The same, as an event stream resumes.")] = None,
    ) -> Response | JobEvents:
        """The history of a job: as server-sent events until it ends, or what there is as JSON."""
        store = service.jobs.store
        await asyncio.to_thread(store.get, job_id, kind)
        start = after if last_event_id is None else event_number(last_event_id)
        if EVENT_STREAM in request.headers.get("accept", ""):
            settings = service.settings
            events = job_events(store, job_id, start, settings.job_poll_s, service.draining.is_set)
            return EventStream(with_keep_alive(events, settings.keep_alive_s))
        response.headers.update(VARY)
        found, complete = await asyncio.to_thread(store.events, job_id, start)
        return JobEvents(events=found, complete=complete)

    @router.post("/{job_id}/cancel", responses=documented(404, 409))
    def cancel_job(job_id: str, service: CurrentService) -> Job:
        """A waiting job is cancelled at once, a running one after the step in hand; what it reached is kept."""
        return service.jobs.store.cancel(job_id, kind)

    @router.post("/{job_id}/resume", responses=documented(404, 409))
    def resume_job(job_id: str, service: CurrentService) -> Job:
        """Queues a cancelled or failed job again; it goes on from its last checkpoint."""
        return service.jobs.store.resume(job_id, kind)


def event_number(text: str) -> int:
    """Raises UserError ``invalid_request``."""
    if not text.isdecimal() or len(text) > 9:
        raise UserError("invalid_request", "Last-Event-ID is not the id of an event", got=text, expected="its number")
    return int(text)


async def job_events(
    store: JobStore, job_id: str, after: int, poll: float, ending: Callable[[], bool] = lambda: False
) -> AsyncGenerator[bytes]:
    """The events from `after` on as they come, until the job has ended, or the service is: then they can be resumed."""
    while True:
        found, complete = await asyncio.to_thread(store.events, job_id, after)
        for event in found:
            yield sse(event)
            after = event.seq
        if complete or ending():
            return
        if not found:
            await asyncio.sleep(poll)


def sse(event: JobEvent) -> bytes:
    """`id` is the number, so that a client that comes back misses nothing and sees nothing twice."""
    data = json.dumps({"seq": event.seq, "at": event.at, **event.data}, allow_nan=False, separators=(",", ":"))
    return format_sse_event(data_str=data, event=event.type, id=str(event.seq))


evaluations = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])

EVALUATION = {"model": "ups-mini", "file": "file-0123456789abcdef", "resolution": 128}


@evaluations.post(
    "",
    status_code=201,
    responses={200: {"model": Job, "description": "The job this key made."}, **documented(400, 404, 409, 413, 422)},
    openapi_extra=request_body(EvaluationSpec, EVALUATION),
)
async def create_evaluation(
    request: Request, response: Response, service: CurrentService, idempotency_key: IdempotencyKey = None
) -> Job:
    """Scores a model on a file: one step ahead and full rollout, with persistence beside both."""
    spec = await read_spec(request, service, EvaluationSpec)
    await asyncio.to_thread(_check_evaluation, spec, service)
    return await create(request, response, service, spec, idempotency_key)


def _check_evaluation(spec: EvaluationSpec, service: Service) -> None:
    check_evaluation(spec, service.catalog.model(spec.model or ""), service.settings.data_dir)


add_job_routes(evaluations, "evaluation")


fine_tuning = APIRouter(prefix="/v1/fine-tuning/jobs", tags=["fine-tuning"])

FINE_TUNING = {
    "model": "ups-mini",
    "training_file": "file-0123456789abcdef",
    "n_trajectories": 10,
    "alignment": "none",
    "tuning": "operator",
    "suffix": "mine",
}


class CheckpointList(BaseModel):
    """Checkpoints in order. The last one is on disk, and the best one by validation becomes the model."""

    checkpoints: list[Checkpoint]


@fine_tuning.post(
    "",
    status_code=201,
    responses={200: {"model": Job, "description": "The job this key made."}, **documented(400, 404, 409, 413, 422)},
    openapi_extra=request_body(FineTuningSpec, FINE_TUNING),
)
async def create_fine_tuning(
    request: Request, response: Response, service: CurrentService, idempotency_key: IdempotencyKey = None
) -> Job:
    """Tunes a model to trajectories of a file; the result is a new model and an honest report."""
    spec = await read_spec(request, service, FineTuningSpec)
    await asyncio.to_thread(_check_fine_tuning, spec, service)
    return await create(request, response, service, spec, idempotency_key)


@fine_tuning.get("/{job_id}/checkpoints", responses=documented(404))
def list_checkpoints(job_id: str, service: CurrentService) -> CheckpointList:
    """Where a job has saved its state so far."""
    return CheckpointList(checkpoints=service.jobs.store.checkpoints(job_id))


def _check_fine_tuning(spec: FineTuningSpec, service: Service) -> None:
    card = None if spec.fresh else service.catalog.model(spec.model or "")
    check_fine_tuning(spec, card, service.settings.data_dir)


add_job_routes(fine_tuning, "fine_tuning")
