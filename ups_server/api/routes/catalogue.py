"""What this installation knows: its families, the equation that a text names, its models. Nothing is run."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, ValidationError

from ups_server.api.body import read_json
from ups_server.api.problems import documented
from ups_server.api.service import CurrentService, Service
from ups_server.catalog import FamilyCard, ModelCard, family_card
from ups_server.errors import UserError
from ups_server.files.equations import declared_families
from ups_server.language.reader import understood
from ups_server.pde import Family, families, family
from ups_server.specs import EquationAnswer, EquationRequest, invalid_request

family_routes = APIRouter(prefix="/v1/families", tags=["families"])


class FamilyList(BaseModel):
    """All families."""

    families: list[FamilyCard]


@family_routes.get("")
def list_families(
    service: CurrentService,
    dimensions: Annotated[int | None, Query(ge=1, le=3, description="Only families in so many dimensions.")] = None,
) -> FamilyList:
    """Every family: equation, fields, coefficients with their physical domains, default grid and time step.

    Equations that users declared come last.
    """
    cards = [family_card(entry) for entry in families().values()]
    cards += [family_card(entry, declared=True) for entry in _declared(service).values()]
    return FamilyList(families=[card for card in cards if dimensions in (None, card.dimensions)])


@family_routes.get("/{family_id}", responses=documented(404))
def get_family(family_id: str, service: CurrentService) -> FamilyCard:
    """One family."""
    declared = _declared(service)
    return family_card(declared[family_id], declared=True) if family_id in declared else family_card(family(family_id))


def _declared(service: Service) -> dict[str, Family]:
    return declared_families(service.settings.data_dir, service.catalog.models())


equation_routes = APIRouter(prefix="/v1/equations", tags=["equations"])

DESCRIPTION = {"description": "a dye carried to the right that slowly spreads and decays"}


@equation_routes.post(
    "",
    responses=documented(400, 413, 422),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/EquationRequest"}, "example": DESCRIPTION}
            },
        }
    },
)
async def read_equation(request: Request, service: CurrentService) -> EquationAnswer:
    """The canonical form of an equation in symbols; of a description in words, a proposal to be confirmed."""
    body = await read_json(request, service.settings.max_body_bytes)
    try:
        wanted = EquationRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_request(error) from None
    return await asyncio.to_thread(understood, wanted)


model_routes = APIRouter(prefix="/v1/models", tags=["models"])


class UnreadableModel(BaseModel):
    """A model folder that no card could be made of."""

    id: str
    code: str
    detail: str


class ModelList(BaseModel):
    """All models and the one that requests get by default."""

    default: str
    defaults: dict[str, str] = Field(
        description="Family -> the model that its requests get by default, where that is another: it is better there."
    )
    models: list[ModelCard]
    unreadable: list[UnreadableModel] = Field(description="Folders that cannot be used, and why; they hide no other.")


@model_routes.get("")
def list_models(
    service: CurrentService,
    family: Annotated[str | None, Query(max_length=128, description="Only models of this family.")] = None,
    kind: Annotated[Literal["learned", "builtin"] | None, Query(description="Only models of this kind.")] = None,
) -> ModelList:
    """Every model, without its scores and its Markdown card."""
    cards = [
        card.model_copy(update={"readme": None, "scores": None})
        for card in service.catalog.models()
        if (family is None or family in card.families) and kind in (None, card.kind)
    ]
    unreadable = [
        UnreadableModel(id=model_id, code=error.code, detail=error.message)
        for model_id, error in service.catalog.unreadable().items()
    ]
    usual = service.settings.default_model
    return ModelList(default=usual, defaults=service.catalog.defaults(usual), models=cards, unreadable=unreadable)


@model_routes.get("/{model_id}", responses=documented(404, 422))
def get_model(model_id: str, service: CurrentService) -> ModelCard:
    """One model: families with trained ranges, measured scores, card."""
    return service.catalog.model(model_id)


@model_routes.delete("/{model_id}", status_code=204, responses=documented(404, 409, 422))
def delete_model(model_id: str, service: CurrentService) -> Response:
    """Removes an adapted model that nobody uses: no open job, no rollout in progress, not the default."""
    source = service.catalog.model(model_id).source
    user = service.jobs.store.uses(model_id)
    if user is None and service.engine.uses(source):
        user = "a rollout in progress"
    if user is None and model_id == service.settings.default_model:
        user = "requests that name no model"
    if user is not None:
        raise UserError("model_in_use", f"{model_id} is in use", got=user, hint="cancel what uses it, or wait for it")
    service.catalog.delete(model_id)
    return Response(status_code=204)
