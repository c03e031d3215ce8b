"""Fine-tuning jobs: a model adapted to a stored file of trajectories."""

import asyncio

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from ups_server.api.jobs import IdempotencyKey, add_job_routes, create, read_spec, request_body
from ups_server.api.problems import documented
from ups_server.api.service import CurrentService, Service
from ups_server.jobs.spec import Checkpoint, FineTuningSpec, Job
from ups_server.jobs.submission import check_fine_tuning

router = APIRouter(prefix="/v1/fine-tuning/jobs", tags=["fine-tuning"])

KIND = "fine_tuning"
EXAMPLE = {
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


@router.post(
    "",
    status_code=201,
    responses={200: {"model": Job, "description": "The job this key made."}, **documented(400, 404, 409, 413, 422)},
    openapi_extra=request_body(FineTuningSpec, EXAMPLE),
)
async def create_fine_tuning(
    request: Request, response: Response, service: CurrentService, idempotency_key: IdempotencyKey = None
) -> Job:
    """Tunes a model to trajectories of a file; the result is a new model and an honest report."""
    spec = await read_spec(request, service, FineTuningSpec)
    await asyncio.to_thread(_check, spec, service)
    return await create(request, response, service, spec, idempotency_key)


@router.get("/{job_id}/checkpoints", responses=documented(404))
def list_checkpoints(job_id: str, service: CurrentService) -> CheckpointList:
    """Where a job has saved its state so far."""
    return CheckpointList(checkpoints=service.jobs.store.checkpoints(job_id))


def _check(spec: FineTuningSpec, service: Service) -> None:
    check_fine_tuning(spec, service.catalog.model(spec.model or ""), service.settings.data_dir)


add_job_routes(router, KIND)
