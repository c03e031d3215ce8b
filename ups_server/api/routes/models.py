"""The models: what they were trained on and how well they score."""

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from ups_server.api.problems import documented
from ups_server.api.service import CurrentService
from ups_server.catalog import ModelCard
from ups_server.errors import UserError

router = APIRouter(prefix="/v1/models", tags=["models"])


class UnreadableModel(BaseModel):
    """A model folder that no card could be made of."""

    id: str
    code: str
    detail: str


class ModelList(BaseModel):
    """All models and the one that requests get by default."""

    default: str
    models: list[ModelCard]
    unreadable: list[UnreadableModel] = Field(description="Folders that cannot be used, and why; they hide no other.")


@router.get("")
def list_models(service: CurrentService) -> ModelList:
    """Every model, without its scores and its Markdown card."""
    cards = [card.model_copy(update={"readme": None, "scores": None}) for card in service.catalog.models()]
    unreadable = [
        UnreadableModel(id=model_id, code=error.code, detail=error.message)
        for model_id, error in service.catalog.unreadable().items()
    ]
    return ModelList(default=service.settings.default_model, models=cards, unreadable=unreadable)


@router.get("/{model_id}", responses=documented(404, 422))
def get_model(model_id: str, service: CurrentService) -> ModelCard:
    """One model: families with trained ranges, measured scores, card."""
    return service.catalog.model(model_id)


@router.delete("/{model_id}", status_code=204, responses=documented(404, 409, 422))
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
