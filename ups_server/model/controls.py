"""Controls: the same model with its language model silenced, or with one of the same shape that has read nothing."""

from typing import Literal

import torch

from ups_server.errors import UserError
from ups_server.model.ups import Operator, UPSModel

BodyControl = Literal["trained", "none", "random"]

SEED = 0


def control_body(model: Operator, body: BodyControl) -> None:
    """Puts a trained model into the state of a control, in place.

    "none" leaves the language model out; "random" replaces its weights (`randomise_body`); "trained" changes nothing.

    Raises:
        UserError: ``no_language_model``.
    """
    if body == "none":
        _with_language_model(model).use_body = False
    elif body == "random":
        randomise_body(model, SEED)


@torch.no_grad()
def randomise_body(model: Operator, seed: int) -> None:
    """Random weights, as before any pretraining, for all of the language model but its word embeddings.

    The embeddings stay because the operator reads names and symbols through them without the body too: only what the
    body adds is replaced. The random numbers are of `seed` alone; the state of the global generator is kept.

    Raises:
        UserError: ``no_language_model``.
    """
    encoder = _with_language_model(model).body.encoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(encoder)(encoder.config, add_pooling_layer=False)
    fresh.set_input_embeddings(encoder.get_input_embeddings())
    encoder.load_state_dict(fresh.state_dict())


def _with_language_model(model: Operator) -> UPSModel:
    if not isinstance(model, UPSModel):
        raise UserError("no_language_model", f"{model.config.name} has no language model")
    return model
