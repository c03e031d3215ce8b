"""Values with one row per sample, of which the samples of a batch can be taken, repeated and joined."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Tensors (B, ...), parts that are rows themselves, and what is the same for the whole batch.

    Attributes:
        listed: fields that are tuples of B entries.
    """

    listed: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return len(next(iter(self.tensors().values())))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; those of a part by ``part.name``."""
        found = dict[str, Tensor]()
        for name, value in self._entries():
            if isinstance(value, Rows):
                found |= {f"{name}.{inner}": tensor for inner, tensor in value.tensors().items()}
            else:
                found[name] = value
        return found

    def _entries(self) -> Iterator[tuple[str, "Tensor | Rows"]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor | Rows):
                yield field.name, value

    def changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Every tensor changed alike, those of parts too."""
        new: dict[str, Any] = {
            name: value.changed(change) if isinstance(value, Rows) else change(value) for name, value in self._entries()
        }
        return replace(self, **new)

    def to(self, device: torch.device) -> Self:
        return self.changed(lambda tensor: tensor.to(device))

    def repeat(self, times: int) -> Self:
        """Each row `times` times in succession: what is known of a trajectory, for many of its windows."""
        listed = {name: tuple(entry for entry in getattr(self, name) for _ in range(times)) for name in self.listed}
        return replace(self.changed(lambda tensor: tensor.repeat_interleave(times, 0)), **listed)

    def part(self, rows: slice) -> Self:
        """Some of the rows."""
        listed = {name: getattr(self, name)[rows] for name in self.listed}
        return replace(self.changed(lambda tensor: tensor[rows]), **listed)

    def split(self, counts: Sequence[int]) -> list[Self]:
        """Parts of so many rows each."""
        ends = [sum(counts[: index + 1]) for index in range(len(counts))]
        return [self.part(slice(end - count, end)) for end, count in zip(ends, counts, strict=True)]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of several, one after another; what has no rows is that of the first.

        Where some have less along the second axis, or nothing, zeros take its place.
        """
        whole: Self = _stacked(parts, [len(part) for part in parts])
        return whole


def _stacked(parts: Sequence[Any], counts: Sequence[int]) -> Any:
    """Rows or tensors (B_i, K_i, ...) along B, filled up with zeros to the largest K; None is nothing."""
    present = [part for part in parts if part is not None]
    first = present[0]
    if isinstance(first, Rows):
        names = dict.fromkeys(name for part in present for name, _ in part._entries())
        columns = {name: [None if part is None else getattr(part, name) for part in parts] for name in names}
        new = {name: _stacked(column, counts) for name, column in columns.items()}
        new |= {name: tuple(entry for part in parts for entry in getattr(part, name)) for name in first.listed}
        return replace(first, **new)
    if len({part.shape[1:] for part in present}) == 1 and len(present) == len(parts):
        return torch.cat(present)
    shape = (max(part.shape[1] for part in present), *first.shape[2:])
    out = first.new_zeros(sum(counts), *shape)
    for part, rows in zip(parts, out.split(list(counts)), strict=True):
        if part is not None:
            rows[:, : part.shape[1]] = part
    return out
