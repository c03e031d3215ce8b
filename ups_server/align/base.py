"""The interface of adaptation methods: how an embedder is aligned with the language model before tuning."""

from abc import ABC, abstractmethod
from typing import final

from torch import Tensor

from ups_server.model.ups import UPSModel


class Alignment(ABC):
    """A stage-1 loss on sequence-mean features.

    `prepare` sees the model once before training; `loss` is called with the features of every batch; what a method
    accumulates between calls is its `state`, so that a resumed run equals an uninterrupted one.
    """

    @abstractmethod
    def prepare(self, model: UPSModel) -> None:
        """Computes what stays fixed during stage 1 (the features of the reference text)."""

    @abstractmethod
    def loss(self, features: Tensor) -> Tensor:
        """The alignment loss of a batch of sequence-mean features (B, E)."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state")


@final
class NoAlignment(Alignment):
    """Naive fine-tuning: no stage-1 alignment."""

    def prepare(self, model: UPSModel) -> None:
        pass

    def loss(self, features: Tensor) -> Tensor:
        return features.new_zeros(())
