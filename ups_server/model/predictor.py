"""From features to tokens and to the next state: pooling, and the paper's predictor as an alternative to ours."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from ups_server.errors import UserError
from ups_server.model.config import UPSConfig

CHANNEL_POINTS = 64
"""Parts of the box that a channel token holds; a square number, so that it works in two dimensions too."""


def pooled(features: Tensor, parts: int) -> Tensor:
    """Means (B, C, parts) of features (B, C, X...) over equal parts of the box; in 2-D sqrt(parts) a side."""
    if features.ndim == 3:
        return F.adaptive_avg_pool1d(features, parts)
    side = round(parts**0.5)
    return F.adaptive_avg_pool2d(features, (side, side)).flatten(2)


class MeanPoolPredictor(nn.Module):
    """The paper's predictor: each channel a token ``n^d -> e``, the mean over the sequence, linear ``e -> N n^d``.

    A GELU stands where the paper has the language model in every step: without it the mean of linear tokens would be
    the token of the mean channel. The weights belong to the grids of the families, as the paper's do.

    Source: thesis 6.1.3.
    """

    def __init__(self, config: UPSConfig, size: int) -> None:
        super().__init__()
        self.slots = config.slots
        self.tokenise = nn.ModuleDict()
        self.expand = nn.ModuleDict()
        for n, ndim in config.grids:
            self.tokenise[_key((n,) * ndim)] = nn.Linear(n**ndim, size)
            self.expand[_key((n,) * ndim)] = nn.Linear(size, config.slots * n**ndim)

    def last_layers(self) -> Iterator[nn.Linear]:
        """The layers that give the step."""
        yield from (layer for layer in self.expand.values() if isinstance(layer, nn.Linear))

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
