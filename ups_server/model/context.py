"""What an operator has read of its problems, and keeps for all their steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What was read of each problem, one row per sample: all a step needs besides the state."""

    rows: dict[str, Tensor]
    periodic: tuple[bool, ...]
    offset: tuple[float, ...]
    trained: int
    """Points per axis of the grid the family was trained on."""

    def __getitem__(self, name: str) -> Tensor:
        return self.rows[name]

    def repeat(self, times: int) -> "Context":
        """Each row `times` times in succession: one trajectory's context for many of its windows."""
        return Context(
            {name: rows.repeat_interleave(times, 0) for name, rows in self.rows.items()},
            self.periodic,
            self.offset,
            self.trained,
        )

    def split(self, counts: Sequence[int]) -> list["Context"]:
        """The contexts of so many rows each."""
        pieces = {name: rows.split(list(counts)) for name, rows in self.rows.items()}
        return [
            Context({name: rows[part] for name, rows in pieces.items()}, self.periodic, self.offset, self.trained)
            for part in range(len(counts))
        ]

    @classmethod
    def joined(cls, contexts: Sequence["Context"]) -> "Context":
        """The rows of several contexts of one grid, boundary and trained grid, one after another.

        Where some have fewer metadata tokens or static fields, zeros take their places: the mask hides the ones, and
        an absent static field is zero.
        """
        first = contexts[0]
        names = dict.fromkeys(name for context in contexts for name in context.rows)
        rows = {name: _stacked([context.rows.get(name) for context in contexts], contexts) for name in names}
        return cls(rows, first.periodic, first.offset, first.trained)


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
