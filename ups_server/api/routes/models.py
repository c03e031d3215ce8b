"""The models: what they were trained on and how well they score."""

from fastapi import APIRouter
from pydantic import BaseModel

from ups_server.api.problems import documented
from ups_server.api.service import CurrentService
from ups_server.catalog import ModelCard

router = APIRouter(prefix="/v1/models", tags=["models"])


class ModelList(BaseModel):
    """All models and the one that requests get by default."""

    default: str
    models: list[ModelCard]


@router.get("")
def list_models(service: CurrentService) -> ModelList:
    """Every model, without its scores and its Markdown card."""
    cards = [card.model_copy(update={"readme": None, "scores": None}) for card in service.catalog.models()]
    return ModelList(default=service.settings.default_model, models=cards)


@router.get("/{model_id}", responses=documented(404))
def get_model(model_id: str, service: CurrentService) -> ModelCard:
    """One model: families with trained ranges, measured scores, card."""
    return service.catalog.model(model_id)
