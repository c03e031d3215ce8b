"""Which parameters a tuning trains: marks them on the model and returns them by name (`train.loop.Select`)."""

from collections.abc import Callable

from torch import nn

from ups_server.errors import UserError
from ups_server.model.adapters import adapter_parameters
from ups_server.model.ups import Operator


def low_rank(model: Operator, *, train_body: bool) -> dict[str, nn.Parameter]:
    """Adapters; those of the language model only where it is trained."""
    wanted = adapter_parameters(model)
    return _only(model, lambda name: name in wanted and (train_body or not name.startswith("body.")), "low-rank layers")


def frozen_language_model(model: Operator, *, train_body: bool) -> dict[str, nn.Parameter]:
    """Layer norms, and the linear layers into the language model, out of it and to the next state."""
    norms = {
        f"{name}.{part}"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.LayerNorm) and model.use_body and (train_body or not name.startswith("body."))
        for part, _ in layer.named_parameters(recurse=False)
    }
    ports = ("tokenise.", "read_out.", "predictor.") if norms else ()
    return _only(model, lambda name: name in norms or name.startswith(ports), "layer norms that take part")


def predictor(model: Operator, *, train_body: bool) -> dict[str, nn.Parameter]:
    """The layer that gives the next state."""
    return _only(model, lambda name: name.startswith("predictor."), "linear predictor")


def _only(model: Operator, wanted: Callable[[str], bool], what: str) -> dict[str, nn.Parameter]:
    """Raises UserError ``nothing_to_tune``."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(wanted(name))
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise UserError("nothing_to_tune", f"{model.config.name} has no {what}", hint="choose the tuning `full`")
    return found
