"""An alignment method: features are drawn to the mean of the word embeddings of one sentence."""

from torch import Tensor

from ups_server.align.base import Alignment, Target
from ups_server.model.operator import UPSModel

SENTENCE = "a partial differential equation and its initial state"


class SentenceAlignment(Alignment):
    aligns = True

    def prepare(self, model: UPSModel, target: Target) -> None:
        self._sentence = model.metadata.mean((SENTENCE,)).detach()

    def loss(self, features: Tensor, outlines: Tensor, read: Tensor | None = None) -> Tensor:
        return (features - self._sentence.to(features.device)).square().mean()
