"""Webhooks: who is told of what becomes of jobs."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError

from ups_server.api.body import JSON, read_json
from ups_server.api.problems import documented
from ups_server.api.service import CurrentService, Service, place_of
from ups_server.jobs.webhooks import NewWebhook, Webhook, WebhookRequest, WebhookStore, resolved
from ups_server.specs import invalid_request

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

EXAMPLE = {"url": "https://example.org/jobs", "states": ["succeeded", "failed"]}
BODY: dict[str, Any] = {
    "required": True,
    "content": {JSON: {"schema": {"$ref": "#/components/schemas/WebhookRequest"}, "example": EXAMPLE}},
}


class WebhookList(BaseModel):
    """All webhooks of the service."""

    webhooks: list[Webhook]


def _store(service: Service) -> WebhookStore:
    return WebhookStore(service.jobs.database)


@router.get("")
def list_webhooks(service: CurrentService) -> WebhookList:
    """All webhooks, and how they fare."""
    return WebhookList(webhooks=_store(service).all())


@router.post("", status_code=201, responses=documented(400, 409, 413, 422), openapi_extra={"requestBody": BODY})
async def create_webhook(request: Request, response: Response, service: CurrentService) -> NewWebhook:
    """From now on, jobs that come into one of the states are told to the receiver. The secret is shown this once."""
    body = await read_json(request, service.settings.max_body_bytes)
    try:
        wanted = WebhookRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_request(error) from None
    await asyncio.to_thread(resolved, wanted.url, service.settings.webhooks_private)
    made = await asyncio.to_thread(_store(service).create, wanted)
    response.headers["Location"] = place_of(request, made.id)
    return made


@router.get("/{webhook_id}", responses=documented(404))
def get_webhook(webhook_id: str, service: CurrentService) -> Webhook:
    """One webhook, and how it fares."""
    return _store(service).get(webhook_id)


@router.delete("/{webhook_id}", status_code=204, responses=documented(404))
def delete_webhook(webhook_id: str, service: CurrentService) -> Response:
    """Nothing is sent to it any more, nor what is still waiting."""
    _store(service).delete(webhook_id)
    return Response(status_code=204)
