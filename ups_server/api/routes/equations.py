"""Equations: read in symbols, or proposed from words. Nothing is run."""

import asyncio

from fastapi import APIRouter, Request
from pydantic import ValidationError

from ups_server.api.body import read_body
from ups_server.api.problems import documented
from ups_server.api.service import CurrentService
from ups_server.language.reader import understood
from ups_server.specs import EquationAnswer, EquationRequest, invalid_request

router = APIRouter(prefix="/v1/equations", tags=["equations"])

EXAMPLE = {"description": "a dye carried to the right that slowly spreads and decays"}


@router.post(
    "",
    responses=documented(400, 413, 422),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/EquationRequest"}, "example": EXAMPLE}
            },
        }
    },
)
async def read_equation(request: Request, service: CurrentService) -> EquationAnswer:
    """The canonical form of an equation in symbols; of a description in words, a proposal to be confirmed."""
    body = await read_body(request, service.settings.max_body_bytes)
    try:
        wanted = EquationRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_request(error) from None
    return await asyncio.to_thread(understood, wanted)
