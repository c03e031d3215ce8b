"""Metrics in the text format of Prometheus."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

router = APIRouter(tags=["health"])

EXAMPLE = "# TYPE ups_engine_queued_rollouts gauge\nups_engine_queued_rollouts 0.0\n"
ANSWER = {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}, "example": EXAMPLE}}}


@router.get("/metrics", response_class=Response, responses={200: ANSWER})
def get_metrics(request: Request) -> Response:
    """Requests, queue and batches of the engine, jobs by state, memory: what Prometheus collects."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
