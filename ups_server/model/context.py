"""What an operator has read of its problems, and keeps for all their steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ups_server.model.symmetry import turned


@dataclass(frozen=True)
class Context:
    """What was read of each problem, one row per sample: all a step needs besides the state."""

    rows: dict[str, Tensor]
    periodic: tuple[bool, ...]
    offset: tuple[float, ...]
    trained: int
    """Points per axis of the grid the family was trained on."""
    mirrors: bool = False
    """Does the symmetry that steps are averaged over mirror the axes?"""

    def __getitem__(self, name: str) -> Tensor:
        return self.rows[name]

    def repeat(self, times: int) -> "Context":
        """Each row `times` times in succession: one trajectory's context for many of its windows."""
        return replace(self, rows={name: rows.repeat_interleave(times, 0) for name, rows in self.rows.items()})

    def turned(self, u: Tensor) -> Tensor:
        """States (B, N, X...) under the symmetry that steps are averaged over."""
        return turned(u, self["turn"], self.mirrors)

    @property
    def averages(self) -> bool:
        """Are steps averaged over a symmetry?"""
        return "turn" in self.rows

    @cached_property
    def with_turned(self) -> "Context":
        """These rows, then those of the same problems turned by the symmetry."""
        other = dict[str, Tensor]()
        if "initial_means" in self.rows:
            other["initial_means"] = self.turned(self["initial_means"])
        if "static" in self.rows:
            other["static"] = turned(self["static"], self["static_turn"], self.mirrors)
        return replace(self, rows={name: torch.cat([own, other.get(name, own)]) for name, own in self.rows.items()})

    def split(self, counts: Sequence[int]) -> list["Context"]:
        """The contexts of so many rows each."""
        pieces = {name: rows.split(list(counts)) for name, rows in self.rows.items()}
        return [replace(self, rows={name: rows[part] for name, rows in pieces.items()}) for part in range(len(counts))]

    @staticmethod
    def joined(contexts: Sequence["Context"]) -> "Context":
        """The rows of several contexts of one grid, boundary and trained grid, one after another.

        Where some have fewer metadata tokens or static fields, zeros take their places: the mask hides the ones, and
        an absent static field is zero.
        """
        names = dict.fromkeys(name for context in contexts for name in context.rows)
        rows = {name: _stacked([context.rows.get(name) for context in contexts], contexts) for name in names}
        return replace(contexts[0], rows=rows)


def _stacked(parts: list[Tensor | None], contexts: Sequence[Context]) -> Tensor:
    """Tensors (B_i, K_i, ...) along B, filled up with zeros to the largest K."""
    present = [part for part in parts if part is not None]
    if len({part.shape[1:] for part in present}) == 1 and len(present) == len(parts):
        return torch.cat(present)
    shape = (max(part.shape[1] for part in present), *present[0].shape[2:])
    counts = [len(context["mask"]) for context in contexts]
    out = present[0].new_zeros(sum(counts), *shape)
    for part, rows in zip(parts, out.split(counts), strict=True):
        if part is not None:
            rows[:, : part.shape[1]] = part
    return out
