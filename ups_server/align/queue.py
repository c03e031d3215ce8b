"""A sample larger than a batch: the rows of earlier batches, without gradient, beside those of this one."""

from typing import final

import torch
from torch import Tensor


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
