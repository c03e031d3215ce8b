"""What a model is: one step of a PDE, and around it, where it has one, a language model.

`ups` and `paper` are operators with a language model, `baselines` those without. Two controls put a trained model into
the state of one without its language model, or around one of the same shape that has read nothing.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, Self, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ups_server.errors import UserError
from ups_server.model.body import LLMBody, MetadataEncoder, masked_mean, new_body
from ups_server.model.conditioning import Conditions
from ups_server.model.config import UPSConfig
from ups_server.model.context import Context
from ups_server.model.superspace import nrmse

TokenMix = Callable[[Tensor], Tensor]
"""State tokens (B, l, E) -> as many tokens, some of them taken from elsewhere."""


class Operator(nn.Module, ABC):
    """One step of a PDE, ``u_{t+1} = G(u_t, metadata)``, on normalised superspace states.

    Attributes:
        use_body: does the language model take part? Never where there is none.
    """

    def __init__(self, config: UPSConfig) -> None:
        super().__init__()
        self.config = config
        self.use_body = False

    @abstractmethod
    def read(self, initial: Tensor, given: Conditions) -> Context:
        """Reads problems once: initial states (B, N, X...) and conditions -> their context."""

    @abstractmethod
    def forward(self, u: Tensor, context: Context) -> Tensor:
        """One step: states (B, N, X...) -> next states (B, N, X...)."""

    def task_loss(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """What training makes small: of next states (B, N, X...) and the mask (B, N) of their slots."""
        return nrmse(prediction, target, mask)

    def sharing_weights(self) -> Self:
        """A copy with modules of its own around the same tensors, which must not be changed any more."""
        memo: dict[int, object] = {id(value): value for value in (*self.parameters(), *self.buffers())}
        return copy.deepcopy(self, memo | {id(value): value for value in self._never_changed()})

    def _never_changed(self) -> tuple[object, ...]:
        """What copies share besides the weights."""
        return ()


class UPSModel(Operator):
    """Unified PDE solver: an operator around a pretrained language model.

    Attributes:
        trains_words: are word embeddings trained where the language model is?
    """

    trains_words: ClassVar[bool] = False

    def __init__(self, config: UPSConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(config)
        self.body = LLMBody(encoder, config.reading.prefix)
        self.metadata = MetadataEncoder(tokenizer, self.body.words, self.body.most_words(config.state_tokens))
        self.use_body = config.reading.body

    @abstractmethod
    def advance(self, u: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """One step: states (B, N, X...) -> (next states (B, N, X...), state tokens (B, l, E) for the alignment)."""

    @abstractmethod
    def tokenised(self, u: Tensor, context: Context) -> Tensor:
        """The tokens (B, l, E) of `advance` alone."""

    @abstractmethod
    def mixed_step(
        self, u: Tensor, initial: Tensor, given: Conditions, windows: int, mix: TokenMix
    ) -> tuple[Tensor, Tensor]:
        """One step in which the body reads mixed tokens, and alone says what it read: no path leads around it.

        Args: states u (R W, N, X...) of W windows of each of R trajectories; initial (R, N, X...) and conditions of
            these. Returns the next states, and the mean (B, E) of what the body made of each mixed sequence.
        """

    def forward(self, u: Tensor, context: Context) -> Tensor:
        return self.advance(u, context)[0]

    def _never_changed(self) -> tuple[object, ...]:
        return (self.metadata,)

    @final
    def sequence_features(self, tokens: Tensor, context: Context) -> Tensor:
        """Sequence-mean features (B, E) of the mixed sequence as it enters the body, metadata tokens excluded.

        These are matched to the features of reference text in stage 1; the metadata tokens are text already and
        would match trivially.
        """
        embedded = self.body.embed(*self.mixed_sequence(tokens, context))
        return embedded[:, -tokens.shape[1] :].mean(1)

    @final
    def read_features(self, tokens: Tensor) -> Tensor:
        """Means (B, E) of what the body makes of state tokens (B, l, E) by themselves, as it reads reference text."""
        return self._read_mean(tokens, tokens.new_ones(tokens.shape[:2]))

    @final
    def read_text_features(self, texts: tuple[str, ...]) -> Tensor:
        """Means (B, E) of what the body makes of the beginnings of reference texts, padding excluded."""
        return self._read_mean(*self.metadata.beginnings(texts))

    def _read_mean(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(self.body(tokens, mask), mask)

    @final
    def mixed_sequence(self, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Metadata tokens in front of the state tokens (B, l, E), and the mask of the whole."""
        if context.metadata is None or context.metadata_mask is None:
            raise TypeError("the context has no text")
        mask = torch.cat([context.metadata_mask, tokens.new_ones(tokens.shape[:2])], dim=1)
        return torch.cat([context.metadata, tokens], dim=1), mask

    @final
    def text_features(self, texts: tuple[str, ...]) -> Tensor:
        """Sequence-mean features (B, E) of the beginnings of reference texts, padding excluded."""
        tokens, mask = self.metadata.beginnings(texts)
        return masked_mean(self.body.embed(tokens, mask), mask)


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
        fresh = new_body(encoder.config)
    fresh.set_input_embeddings(encoder.get_input_embeddings())
    encoder.load_state_dict(fresh.state_dict())


def _with_language_model(model: Operator) -> UPSModel:
    if not isinstance(model, UPSModel):
        raise UserError("no_language_model", f"{model.config.name} has no language model")
    return model
