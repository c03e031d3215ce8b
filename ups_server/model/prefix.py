"""Prefix tuning: a frozen language model reads trained activations in front of every sequence, in each of its layers.

Source: Li and Liang 2021, "Prefix-Tuning", Eq. 3, and section 7.4 (it begins as the activations of real words). Keys
and values of the prefix are those that each layer makes of them, and they are trained as they are, without the paper's
reparametrisation by another network. As in the paper's, positions begin behind the prefix.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ups_server.errors import UserError
from ups_server.model.operator import Operator, UPSModel
from ups_server.model.ups import UPS

LENGTH = 10
"""Tokens, as many as the paper has for the smaller of its tasks."""
WORDS = "a partial differential equation, its initial state and its solution at a later time"


def add_prefix(model: Operator, length: int = LENGTH) -> bool:
    """Gives the language model of an operator a prefix, where it has none yet; was it added?

    Raises:
        UserError: ``language_model_not_read`` where nothing that it reads changes a prediction;
            ``language_model_too_short``.
    """
    check_read(model)
    if not isinstance(model, UPSModel) or model.body.prefix is not None:
        return False
    words, _ = model.metadata.beginnings((WORDS,))
    model.body.begin_prefix(words[0, torch.arange(length) % words.shape[1]])
    model.metadata.most = model.body.most_words(model.config.state_tokens)
    model.config = model.config.changed(prefix=length)
    return True


def check_read(model: Operator) -> None:
    """Raises UserError ``language_model_not_read``."""
    if not isinstance(model, UPSModel) or not model.use_body or (isinstance(model, UPS) and model.ignores_body):
        raise UserError(
            "language_model_not_read",
            f"{model.config.name} predicts without a language model: a prefix of it would change nothing",
            hint='start from "lm", which has it in the path, or choose another tuning',
        )


@contextmanager
def without_prefix(model: Operator) -> Iterator[None]:
    """The model as it is without its prefix, meanwhile."""
    if not isinstance(model, UPSModel):
        yield
        return
    prefix, config = model.body.prefix, model.config
    model.body.prefix, model.config = None, config.changed(prefix=0)
    try:
        yield
    finally:
        model.body.prefix, model.config = prefix, config
