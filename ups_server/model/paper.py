"""The paper's architecture, and its tokens and its predictor by themselves, as alternatives to ours (thesis 6.1.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ups_server.errors import UserError
from ups_server.model.body import masked_mean
from ups_server.model.conditioning import Conditions, with_metadata, zero
from ups_server.model.config import UPSConfig
from ups_server.model.context import Context
from ups_server.model.operator import TokenMix, UPSModel
from ups_server.model.superspace import coordinates

CHANNEL_POINTS = 64
"""Parts of the box that a channel token holds; a square number, so that it works in two dimensions too."""


class UPSPaper(UPSModel):
    """The paper's architecture: FNO channels are the tokens, the body runs in every step, a mean-pooled linear
    predictor gives the absolute next state. A 1-D state is broadcast to n x n; the weights are tied to n, and states
    on other grids are interpolated to it and back.

    Source: thesis 6.1.3. Metadata in front, positions and layer norm once, padding masked.
    """

    def __init__(self, config: UPSConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        from neuralop.models import FNO

        super().__init__(config, encoder, tokenizer)
        ndim, layers = config.superspace.max_dimensions, config.embedder
        points = config.resolution**ndim
        self.embedder = FNO(
            n_modes=(2 * layers.n_modes,) * ndim,
            in_channels=config.superspace.slots + ndim,
            out_channels=config.reading.tokens,
            hidden_channels=layers.hidden_channels,
            n_layers=layers.n_layers,
            positional_embedding=None,
        )
        self.tokenise = nn.Linear(points, self.body.size)
        self.predictor = nn.Linear(self.body.size, config.superspace.slots * points)

    def read(self, initial: Tensor, given: Conditions) -> Context:
        given = with_metadata(given, self.config.conditioner.metadata)
        tokens, mask = self.metadata.tokens(given.texts)
        return Context(given.mask, given.periodic, given.offset, given.trained, metadata=tokens, metadata_mask=mask)

    def advance(self, u: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        step, tokens, _ = self._advance(u, context, None)
        return step, tokens

    def mixed_step(
        self, u: Tensor, initial: Tensor, given: Conditions, windows: int, mix: TokenMix
    ) -> tuple[Tensor, Tensor]:
        step, _, read = self._advance(u, self.read(initial, given).repeat(windows), mix)
        return step, read

    def _advance(self, u: Tensor, context: Context, mix: TokenMix | None) -> tuple[Tensor, Tensor, Tensor]:
        """Next states, state tokens, and the mean (B, E) of what the body made of the sequence."""
        n, ndim = self.config.resolution, self.config.superspace.max_dimensions
        given, missing = tuple(u.shape[2:]), ndim - (u.ndim - 2)
        u = interpolated(u, (n,) * len(given))
        square = u[(..., *(None,) * missing)].expand(*u.shape, *(n,) * missing)
        place = coordinates((n,) * (ndim - missing), (False,) * (ndim - missing), (0.5,) * (ndim - missing), ndim, u)
        place = place[(..., *(None,) * missing)].expand(ndim, *(n,) * ndim)
        features = self.embedder(torch.cat([square, place.expand(u.shape[0], *place.shape)], dim=1))
        tokens = self.tokenise(features.flatten(2))
        sequence, mask = self.mixed_sequence(tokens if mix is None else mix(tokens), context)
        hidden = self.body(sequence, mask) if self.use_body else self.body.embed(sequence, mask)
        read = masked_mean(hidden, mask)
        step = self.predictor(read).reshape(-1, self.config.superspace.slots, *(n,) * ndim)
        step = step[(slice(None), slice(None), *(slice(None),) * (ndim - missing), *(0,) * missing)]
        return interpolated(step, given) * context.mask[(..., *(None,) * (step.ndim - 2))], tokens, read


def interpolated(u: Tensor, points: tuple[int, ...]) -> Tensor:
    """Cell-centred values (B, C, X...) on another grid of the same box, linearly; as they are where it is theirs."""
    if tuple(u.shape[2:]) == points:
        return u
    return F.interpolate(u, points, mode="linear" if len(points) == 1 else "bilinear")


class MeanPoolPredictor(nn.Module):
    """The paper's predictor: each channel a token ``n^d -> e``, the mean over the sequence, linear ``e -> N n^d``.

    A GELU stands where the paper has the language model in every step: without it the mean of linear tokens would be
    the token of the mean channel. The weights belong to the grids of the families, as the paper's do.

    Source: thesis 6.1.3.
    """

    def __init__(self, config: UPSConfig, size: int) -> None:
        super().__init__()
        self.slots = config.superspace.slots
        self.tokenise = nn.ModuleDict()
        self.expand = nn.ModuleDict()
        for n, ndim in config.grids:
            self.tokenise[_key((n,) * ndim)] = nn.Linear(n**ndim, size)
            self.expand[_key((n,) * ndim)] = zero(nn.Linear(size, self.slots * n**ndim))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, X...) -> step (B, N, X...).

        Raises:
            UserError: ``resolution_mismatch`` on a grid it was not trained on.
        """
        points = tuple(features.shape[2:])
        if _key(points) not in self.tokenise:
            raise UserError(
                "resolution_mismatch", "the mean-pool predictor is tied to the grids it was trained on",
                got=_key(points), expected=sorted(self.tokenise),
            )  # fmt: skip
        tokens = F.gelu(self.tokenise[_key(points)](features.flatten(2)))
        step: Tensor = self.expand[_key(points)](tokens.mean(1)).reshape(-1, self.slots, *points)
        return step


def _key(points: tuple[int, ...]) -> str:
    return "x".join(map(str, points))
