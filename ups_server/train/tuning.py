"""What tuning may change, by name. Imports no torch: what is offered can be asked without it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ups_server.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from ups_server.model.checkpoint import TrainedModel
    from ups_server.model.operator import Operator
    from ups_server.train.loop import Select


@dataclass(frozen=True)
class Tuning:
    """One way to tune.

    Attributes:
        select: the parameters that stage 2 trains.
        select_aligned: those that stage 1 trains, where there is one.
        equip: adds what is trained beside the weights of the model in a folder.
        extend: adds a part to the model that is trained, and says whether it was added; without it, the model is as it
            was.
        body: does it change the language model? Where it does not, one that changes nothing is not asked.
        kept: share of a step's activations that the backward pass of stage 2 needs (measured): where weights are
            frozen, the inputs of their layers need not be kept.
    """

    select: "Select"
    select_aligned: "Select"
    equip: "Callable[[TrainedModel, Path], None] | None" = None
    extend: "Callable[[Operator], bool] | None" = None
    body: bool = True
    kept: float = 1.0


def _operator() -> Tuning:
    """Everything but the language model."""
    from ups_server.train.loop import trained_parameters

    return Tuning(trained_parameters, trained_parameters, body=False)


def _full() -> Tuning:
    """Everything but the word embeddings, which are trained where the architecture trains them (`ups-paper`)."""
    from ups_server.train.loop import trained_parameters

    return Tuning(trained_parameters, trained_parameters)


def _lora() -> Tuning:
    """Low-rank adapters of attention projections and of the operator's linear layers; in stage 1 only the latter."""
    from ups_server.model.checkpoint import TrainedModel

    return Tuning(low_rank, low_rank, TrainedModel.equip)


def _layernorm() -> Tuning:
    """Layer norms, and the linear layers around the language model and to the next state (FPT, Lu et al. 2021).

    Stage 1 aligns all of the operator.
    """
    from ups_server.train.loop import trained_parameters

    return Tuning(frozen_language_model, trained_parameters, kept=0.6)


def _prefix() -> Tuning:
    """Tokens in front of what the language model reads, in each of its layers (prefix tuning, Li and Liang 2021), and
    the linear layers around the language model and to the next state.

    Stage 1 aligns all of the operator.
    """
    from ups_server.model.prefix import add_prefix
    from ups_server.train.loop import trained_parameters

    return Tuning(prefix, trained_parameters, extend=add_prefix)


def _head() -> Tuning:
    """The predictor alone; stage 1 aligns all of the operator."""
    from ups_server.train.loop import trained_parameters

    return Tuning(predictor, trained_parameters, body=False, kept=0.35)


TUNINGS: dict[str, Callable[[], Tuning]] = {
    "operator": _operator,
    "full": _full,
    "lora": _lora,
    "layernorm": _layernorm,
    "prefix": _prefix,
    "head": _head,
}


def low_rank(model: "Operator", *, train_body: bool) -> "dict[str, nn.Parameter]":
    """Adapters; those of the language model only where it is trained."""
    from ups_server.model.lora import adapter_parameters

    wanted = adapter_parameters(model)
    return _only(model, lambda name: name in wanted and (train_body or not name.startswith("body.")), "low-rank layers")


def frozen_language_model(model: "Operator", *, train_body: bool) -> "dict[str, nn.Parameter]":
    """Layer norms, and the linear layers into the language model, out of it and to the next state; of an operator whose
    every step leads through it, all of the embedder, the input layer of FPT.
    """
    norms = {
        f"{name}.{part}"
        for name, layer in model.named_modules()
        if is_layer_norm(layer) and model.use_body and (train_body or not name.startswith("body."))
        for part, _ in layer.named_parameters(recurse=False)
    }
    around = _around(model) if norms else ()
    return _only(model, lambda name: name in norms or name.startswith(around), "layer norms that take part")


def prefix(model: "Operator", *, train_body: bool) -> "dict[str, nn.Parameter]":
    """The prefix where the language model is trained, and the layers that `frozen_language_model` has around it."""
    around = _around(model)
    return _only(
        model, lambda name: (train_body and name == "body.prefix") or name.startswith(around), "language model"
    )


def _around(model: "Operator") -> tuple[str, ...]:
    """Beginnings of the names of the layers into the language model, out of it and to the next state; where every step
    leads through it, of the embedder too.
    """
    linear = ("tokenise.", "read_out.", "predictor.")
    return (*linear, "embedder.") if model.config.through_body else linear


def is_layer_norm(layer: "nn.Module") -> bool:
    """Language models have classes of their own for it, some without a mean."""
    return type(layer).__name__.endswith(("LayerNorm", "RMSNorm"))


def embedder(model: "Operator", *, train_body: bool) -> "dict[str, nn.Parameter]":
    """What makes tokens of a state: neither the language model nor the predictor."""
    return _only(model, lambda name: not name.startswith(("body.", "predictor.")), "embedder")


def predictor(model: "Operator", *, train_body: bool) -> "dict[str, nn.Parameter]":
    """The layer that gives the next state."""
    return _only(model, lambda name: name.startswith("predictor."), "linear predictor")


def _only(model: "Operator", wanted: Callable[[str], bool], what: str) -> "dict[str, nn.Parameter]":
    """Raises UserError ``nothing_to_tune``."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(wanted(name))
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise UserError("nothing_to_tune", f"{model.config.name} has no {what}", hint="choose the tuning `full`")
    return found
