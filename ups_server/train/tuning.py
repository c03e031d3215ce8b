"""What tuning may change, by name. Imports no torch: what is offered can be asked without it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ups_server.model.ups import Operator
    from ups_server.train.loop import Select


@dataclass(frozen=True)
class Tuning:
    """One way to tune.

    Attributes:
        select: the parameters that stage 2 trains.
        select_aligned: those that stage 1 trains, where there is one.
        equip: adds what is trained beside the weights of the model in a folder.
        body: does it change the language model? Where it does not, a silent one is not asked.
        kept: share of a step's activations that the backward pass of stage 2 needs (measured): where weights are
            frozen, the inputs of their layers need not be kept.
    """

    select: "Select"
    select_aligned: "Select"
    equip: "Callable[[Operator, Path], None] | None" = None
    body: bool = True
    kept: float = 1.0


def _operator() -> Tuning:
    """Everything but the language model."""
    from ups_server.train.loop import trained_parameters

    return Tuning(trained_parameters, trained_parameters, body=False)


def _full() -> Tuning:
    """Everything but the word embeddings."""
    from ups_server.train.loop import trained_parameters

    return Tuning(trained_parameters, trained_parameters)


def _lora() -> Tuning:
    """Low-rank adapters of attention projections and of the operator's linear layers; in stage 1 only the latter."""
    from ups_server.model.checkpoint import equip
    from ups_server.train.selection import low_rank

    return Tuning(low_rank, low_rank, equip)


def _layernorm() -> Tuning:
    """Layer norms, and the linear layers around the language model and to the next state (FPT, Lu et al. 2021).

    Stage 1 aligns all of the operator.
    """
    from ups_server.train.loop import trained_parameters
    from ups_server.train.selection import frozen_language_model

    return Tuning(frozen_language_model, trained_parameters, kept=0.6)


def _head() -> Tuning:
    """The predictor alone; stage 1 aligns all of the operator."""
    from ups_server.train.loop import trained_parameters
    from ups_server.train.selection import predictor

    return Tuning(predictor, trained_parameters, body=False, kept=0.35)


TUNINGS: "dict[str, Callable[[], Tuning]]" = {
    "operator": _operator,
    "full": _full,
    "lora": _lora,
    "layernorm": _layernorm,
    "head": _head,
}
