"""The interface of adaptation methods: how an operator is aligned with the language model it works with.

A batch is small. `FeatureQueue` keeps the rows of earlier batches, without gradient, beside those of this one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol, final

import torch
from torch import Tensor, nn

from ups_server.align.text import ReferenceText
from ups_server.model.conditioning import Conditions
from ups_server.model.operator import UPSModel

PARTS = 16
"""Parts of the box that an outline holds the mean of; a square number, so that it works in two dimensions too."""


class Target(Protocol):
    """What a method may ask about the data before training."""

    @property
    def text(self) -> ReferenceText:
        """What states are matched to."""
        ...

    @property
    def ndim(self) -> int:
        """Spatial dimensions; the largest where families differ."""
        ...

    def outlines(self, count: int) -> Tensor:
        """(M, N * PARTS) outlines of the targets of at least `count` random training windows."""
        ...


class NormalisedBatch(Protocol):
    """A batch of one family, normalised, as `train.dataset.Batch` has it."""

    @property
    def frames(self) -> Tensor:
        """(R W, T, N, X...): of every window, at least two frames."""
        ...

    @property
    def context(self) -> Tensor:
        """(R, N, X...) first frames of the trajectories."""
        ...

    @property
    def conditions(self) -> Conditions:
        """Of the R trajectories."""
        ...

    @property
    def windows(self) -> int:
        """W, windows per trajectory."""
        ...


class Alignment(ABC):
    """One adaptation method: a loss on features in stage 1 (`aligns`) or a loss on mixed tokens (`mixes`); in stage 1,
    also a loss on weights that a step of tuning would lead to (`bilevel`).

    `prepare` sees model and data once before training and gives the same after a restart; what a method accumulates
    between calls, and parameters of its own, are its `state`, so that a resumed run equals an uninterrupted one. Random
    numbers come from torch's generator, which the loop seeds in every step.
    """

    aligns: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    bilevel: ClassVar[bool] = False
    reads: ClassVar[bool] = False
    """Does `loss` need what the body makes of the state tokens?"""

    @abstractmethod
    def prepare(self, model: UPSModel, target: Target) -> None:
        """Computes what stays fixed during training (the features of the reference text)."""

    def loss(self, features: Tensor, outlines: Tensor, read: Tensor | None = None) -> Tensor:
        """The alignment loss of a batch of sequence-mean features (B, E) and outlines of their targets (B, F).

        Args:
            read: of a method that `reads`, the means (B, H) of what the body makes of the state tokens.
        """
        return features.new_zeros(())

    def terms(self) -> dict[str, float]:
        """What the latest loss was made of, by name."""
        return {}

    def mixed_loss(self, model: UPSModel, batch: NormalisedBatch, done: float) -> Tensor:
        """The loss of one step from mixed tokens; `done` is the fraction of the stage behind."""
        return batch.frames.new_zeros(())

    def bilevel_loss(self, model: UPSModel, batch: NormalisedBatch) -> Tensor:
        """The loss of a step of stage 1 that depends on what a step of tuning would make of the model's weights."""
        return batch.frames.new_zeros(())

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Parameters of the method's own, trained with the model and left behind with the method."""
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state")


@final
class NoAlignment(Alignment):
    """Naive fine-tuning: neither stage-1 alignment nor mixing."""

    def prepare(self, model: UPSModel, target: Target) -> None:
        pass


@final
class FeatureQueue:
    """The latest `size` rows of several tensors that belong together, the newest first."""

    def __init__(self, size: int, *names: str) -> None:
        self.size = size
        self.names = names
        self._rows: dict[str, Tensor] = {}

    def push(self, *fresh: Tensor) -> tuple[Tensor, ...]:
        """The sample with `fresh` (B, ...) in front. Its rows carry their gradient, but not into later samples."""
        sample = tuple(
            torch.cat([rows, self._rows[name]])[: self.size] if self._rows else rows[: self.size]
            for name, rows in zip(self.names, fresh, strict=True)
        )
        self._rows = {name: rows.detach() for name, rows in zip(self.names, sample, strict=True)}
        return sample

    def state(self) -> dict[str, Tensor]:
        return dict(self._rows)

    def load_state(self, state: dict[str, Tensor]) -> None:
        self._rows = dict(state)


def standing_for(fresh: Tensor, sample: int) -> Tensor:
    """Values (B, ...) with a gradient that is `sample` / B times as large.

    In a mean over a sample in which they are B of `sample` rows, they then count in the gradient as if they were all
    of it: an unbiased estimate of the gradient of the whole.
    """
    return fresh.detach() + (fresh - fresh.detach()) * (sample / len(fresh))
