"""Operators whose every step leads through the language model, as the papers on cross-modal fine-tuning have them.

A state becomes tokens by an embedder, the body reads them behind the tokens of the equation's text, and a head makes
the next state of its hidden states. `UPSPaper` has the embedder and the head of UPS, `PatchOperator` those of ORCA.
"""

import math
from abc import abstractmethod
from dataclasses import replace
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ups_server.model.body import masked_mean
from ups_server.model.conditioning import Conditions, with_metadata
from ups_server.model.config import UPSConfig
from ups_server.model.context import Context
from ups_server.model.operator import TokenMix, UPSModel
from ups_server.model.superspace import coordinates, state_nrmse

PAPER_LIFTING = "embedder.lifting.fcs.0.weight"
"""Of `UPSPaper`, (out, in, 1): static fields are its last inputs."""


class CrossModalOperator(UPSModel):
    """One step through embedder, body and head; the absolute next state.

    A state of fewer dimensions than the superspace has is broadcast along those it lacks; one on another grid is
    interpolated to that of the weights and back. The loss is Eq. 6.3 of the thesis. Metadata in front, positions and
    layer norm once.
    """

    def __init__(self, config: UPSConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(config, encoder, tokenizer)
        self.ndim = config.superspace.max_dimensions
        self.inputs = config.superspace.slots + self.ndim + config.superspace.static_slots

    @property
    @abstractmethod
    def points(self) -> int:
        """Points per axis that the weights belong to."""

    @abstractmethod
    def tokens(self, inputs: Tensor) -> Tensor:
        """State tokens (B, l, W) of the fields, coordinates and static fields (B, I, n...)."""

    @abstractmethod
    def next_state(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, N, n...) of the hidden states (B, L, E) of text and state under their mask (B, L)."""

    @final
    def read(self, initial: Tensor, given: Conditions) -> Context:
        given = with_metadata(given, self.config.conditioner.metadata)
        tokens, mask = self.metadata.tokens(given.texts)
        return replace(given.context(), metadata=tokens, metadata_mask=mask)

    @final
    def task_loss(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return state_nrmse(prediction, target, mask)

    @final
    def advance(self, u: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        step, tokens, _ = self._advance(u, context, None)
        return step, tokens

    @final
    def tokenised(self, u: Tensor, context: Context) -> Tensor:
        return self.tokens(self._inputs(u, context))

    @final
    def mixed_step(
        self, u: Tensor, initial: Tensor, given: Conditions, windows: int, mix: TokenMix
    ) -> tuple[Tensor, Tensor]:
        step, _, read = self._advance(u, self.read(initial, given).repeat(windows), mix)
        return step, read

    def _advance(self, u: Tensor, context: Context, mix: TokenMix | None) -> tuple[Tensor, Tensor, Tensor]:
        """Next states, state tokens, and the mean (B, E) of what the body made of the sequence."""
        given, missing = tuple(u.shape[2:]), self.ndim - (u.ndim - 2)
        tokens = self.tokens(self._inputs(u, context))
        sequence, mask = self.mixed_sequence(tokens if mix is None else mix(tokens), context)
        hidden = self.body(sequence, mask) if self.use_body else self.body.embed(sequence, mask)
        step = self.next_state(hidden, mask)
        for _ in range(missing):  # all rows of a broadcast state are one
            step = step[..., 0]
        step = interpolated(step, given) * context.mask[(..., *(None,) * len(given))]
        return step, tokens, masked_mean(hidden, mask)

    def _inputs(self, u: Tensor, context: Context) -> Tensor:
        """(B, I, n...) on the grid of the weights."""
        given, missing = tuple(u.shape[2:]), self.ndim - (u.ndim - 2)
        own = (self.points,) * len(given)
        static = u.new_zeros(u.shape[0], self.config.superspace.static_slots, *given)
        if context.static is not None:
            static[:, : context.static.shape[1]] = context.static
        u = interpolated(torch.cat([u, static], dim=1), own)
        square = u[(..., *(None,) * missing)].expand(*u.shape, *(self.points,) * missing)
        state, static = square.split([square.shape[1] - static.shape[1], static.shape[1]], dim=1)
        place = coordinates(own, (False,) * len(own), (0.5,) * len(own), self.ndim, u)
        place = place[(..., *(None,) * missing)].expand(self.ndim, *(self.points,) * self.ndim)
        return torch.cat([state, place.expand(u.shape[0], *place.shape), static], dim=1)


@final
class UPSPaper(CrossModalOperator):
    """The architecture of UPS: FNO channels are the tokens, a mean-pooled linear predictor gives the next state.

    The weights are tied to n, and where the language model is trained, all of it is. Source: thesis 6.1.3. Where it
    departs: static fields are further input channels, the last ones; padding of the text is masked; states on other
    grids are interpolated to n and back. `train.baseline` has the training, and ``docs/models.md`` all departures.
    """

    trains_words = True

    def __init__(self, config: UPSConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        from neuralop.models import FNO

        super().__init__(config, encoder, tokenizer)
        layers, points = config.embedder, config.resolution**self.ndim
        self.embedder = FNO(
            n_modes=(2 * layers.n_modes,) * self.ndim,
            in_channels=self.inputs,
            out_channels=config.reading.tokens,
            hidden_channels=layers.hidden_channels,
            n_layers=layers.n_layers,
            positional_embedding=None,
        )
        self.tokenise = nn.Linear(points, self.body.word_size)
        self.predictor = nn.Linear(self.body.size, config.superspace.slots * points)

    @property
    def points(self) -> int:
        return self.config.resolution

    def tokens(self, inputs: Tensor) -> Tensor:
        tokens: Tensor = self.tokenise(self.embedder(inputs).flatten(2))
        return tokens

    def next_state(self, hidden: Tensor, mask: Tensor) -> Tensor:
        values: Tensor = self.predictor(masked_mean(hidden, mask))
        return values.reshape(-1, self.config.superspace.slots, *(self.points,) * self.ndim)


@final
class PatchOperator(CrossModalOperator):
    """The architecture of ORCA: a convolution whose kernel is its stride makes a token of every patch, and the head is
    linear at every token, ``E -> N k^d``, its values put back into the patch (pixel shuffle).

    The stride k is `UPSConfig.patch_stride`. Source: Shen et al. 2023, section 3.1, "Custom Embedding Network" and
    "Custom Prediction Head". Positions and layer norm of the embedder are the language model's own; its word embeddings
    stay as they are.
    """

    def __init__(self, config: UPSConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(config, encoder, tokenizer)
        self.stride = config.patch_stride
        convolution = nn.Conv1d if self.ndim == 1 else nn.Conv2d
        self.embedder = convolution(self.inputs, self.body.word_size, self.stride, stride=self.stride)
        self.predictor = nn.Linear(self.body.size, config.superspace.slots * self.stride**self.ndim)

    @property
    def points(self) -> int:
        """The resolution, rounded up to whole patches."""
        return math.ceil(self.config.resolution / self.stride) * self.stride

    def tokens(self, inputs: Tensor) -> Tensor:
        patches: Tensor = self.embedder(inputs)
        return patches.flatten(2).mT

    def next_state(self, hidden: Tensor, mask: Tensor) -> Tensor:
        side = self.points // self.stride
        values: Tensor = self.predictor(hidden[:, -(side**self.ndim) :])
        # (B, patches..., N, k...) -> (B, N, patches and k in turns...)
        slots, axes = self.config.superspace.slots, range(self.ndim)
        values = values.reshape(-1, *(side,) * self.ndim, slots, *(self.stride,) * self.ndim)
        order = [0, 1 + self.ndim, *(place for axis in axes for place in (1 + axis, 2 + self.ndim + axis))]
        return values.permute(order).reshape(-1, slots, *(self.points,) * self.ndim)


def interpolated(u: Tensor, points: tuple[int, ...]) -> Tensor:
    """Cell-centred values (B, C, X...) on another grid of the same box, linearly; as they are where it is theirs."""
    if tuple(u.shape[2:]) == points:
        return u
    return F.interpolate(u, points, mode="linear" if len(points) == 1 else "bilinear")
