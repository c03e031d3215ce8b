"""Evaluations: a model scored on a stored file, as a job."""

import asyncio

from fastapi import APIRouter, Request, Response

from ups_server.api.jobs import IdempotencyKey, add_job_routes, create, read_spec, request_body
from ups_server.api.problems import documented
from ups_server.api.service import CurrentService, Service
from ups_server.jobs.spec import EvaluationSpec, Job
from ups_server.jobs.submission import check_evaluation

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])

EXAMPLE = {"model": "ups-mini", "file": "file-0123456789abcdef", "resolution": 128}


@router.post(
    "",
    status_code=201,
    responses={200: {"model": Job, "description": "The job this key made."}, **documented(400, 404, 409, 413, 422)},
    openapi_extra=request_body(EvaluationSpec, EXAMPLE),
)
async def create_evaluation(
    request: Request, response: Response, service: CurrentService, idempotency_key: IdempotencyKey = None
) -> Job:
    """Scores a model on a file: one step ahead and full rollout, with persistence beside both."""
    spec = await read_spec(request, service, EvaluationSpec)
    await asyncio.to_thread(_check, spec, service)
    return await create(request, response, service, spec, idempotency_key)


def _check(spec: EvaluationSpec, service: Service) -> None:
    check_evaluation(spec, service.catalog.model(spec.model or ""), service.settings.data_dir)


add_job_routes(router, "evaluation")
