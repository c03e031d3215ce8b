"""What an operator has read of its problems, and keeps for all their steps: values with one row per sample.

Among them is an exact symmetry P of the equation, its own inverse, which a step is averaged over: with it
``G(u) = (F(u) + P F(P u)) / 2`` commutes with P whatever F is (Reynolds operator). A trained F nearly commutes with P;
the mean takes away what is left of its error there. P mirrors all axes at once where x -> -x is a symmetry, with a sign
for every field, else u -> -u where that is one. On normalised states it is a flip or none, sign and shift.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ups_server.model.config import KnownFamily
from ups_server.pde.grid import BoundaryCondition


@dataclass(frozen=True)
class BatchRows:
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
            if isinstance(value, BatchRows):
                found |= {f"{name}.{inner}": tensor for inner, tensor in value.tensors().items()}
            else:
                found[name] = value
        return found

    def _entries(self) -> Iterator[tuple[str, "Tensor | BatchRows"]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor | BatchRows):
                yield field.name, value

    def changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Every tensor changed alike, those of parts too."""
        new: dict[str, Any] = {
            name: value.changed(change) if isinstance(value, BatchRows) else change(value)
            for name, value in self._entries()
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
    if isinstance(first, BatchRows):
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


CENTRE = 0.5
"""Offset of points that map onto themselves when their axis is mirrored."""


@dataclass(frozen=True)
class Symmetry(BatchRows):
    """P for B problems.

    Attributes:
        turn: (B, N, 2) sign and shift of each normalised slot.
        static_turn: (B, S, 2), the same of the static fields, where there are any.
        mirrors: does it mirror the axes? The same for all.
    """

    turn: Tensor
    static_turn: Tensor | None
    mirrors: bool

    def of(self, u: Tensor) -> Tensor:
        """P u of states (B, N, X...), or of their means (B, N)."""
        return turned(u, self.turn, self.mirrors)

    def of_static(self, static: Tensor | None) -> Tensor | None:
        """The same of static fields (B, S, X...)."""
        if static is None or self.static_turn is None:
            return static
        return turned(static, self.static_turn, self.mirrors)


def symmetry_of(
    card: KnownFamily, boundary: BoundaryCondition, offset: tuple[float, ...]
) -> tuple[tuple[int, ...], bool] | None:
    """The symmetry that a step is averaged over, on this box and these points: signs of the fields, and is it a mirror?

    None where there is none. Along a bounded axis, points off the centre of their cells do not map onto themselves when
    it is mirrored, nor do unlike sides.
    """
    alike = all(
        wraps or (low is high and math.isclose(place, CENTRE))
        for wraps, (low, high), place in zip(boundary.periodic, boundary.sides, offset, strict=True)
    )
    if card.parity and alike:
        return card.parity, True
    return ((-1,) * len(card.fields), False) if card.odd else None


def turning(sign: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(..., 2) sign and shift of normalised quantities (v - mean) / std under v -> sign v; all arguments (...)."""
    return torch.stack([sign, (sign - 1) * mean / std], dim=-1)


def turned(u: Tensor, turn: Tensor, mirrors: bool) -> Tensor:
    """P u of normalised states (B, N, X...) with signs and shifts (B, N, 2); its own inverse."""
    axes = tuple(range(2, u.ndim))
    sign, shift = turn[(..., *(None,) * len(axes))].unbind(2)
    return (u.flip(axes) if mirrors else u) * sign + shift


@dataclass(frozen=True)
class Coefficients(BatchRows):
    """What one kind of operator knows beside what all know: each has a class of its own."""

    def turned(self, symmetry: Symmetry) -> Self:
        """The same of the problems turned by the symmetry."""
        return self


@dataclass(frozen=True)
class Context(BatchRows):
    """What was read of each problem, one row per sample: all a step needs besides the state.

    Attributes:
        mask: (B, N) one for the slots the family has.
        increment: (B, N) the family's usual change per step, of normalised states.
        static: (B, S, X...) static fields, normalised.
        metadata, metadata_mask: tokens (B, T, E) of the equation's text, one (B, T) for real ones.
        symmetry: that steps are averaged over.
        coefficients: what else the operator knows.
        periodic: per axis, the same for all. offset: of the points in their cells, likewise.
        trained: points per axis of the grid the family was trained on.
    """

    mask: Tensor
    periodic: tuple[bool, ...]
    offset: tuple[float, ...]
    trained: int
    increment: Tensor | None = None
    static: Tensor | None = None
    metadata: Tensor | None = None
    metadata_mask: Tensor | None = None
    symmetry: Symmetry | None = None
    coefficients: Coefficients | None = None

    @cached_property
    def with_turned(self) -> "Context":
        """These rows, then those of the same problems turned by the symmetry."""
        if self.symmetry is None:
            raise ValueError("there is no symmetry to turn by")
        other = replace(
            self,
            static=self.symmetry.of_static(self.static),
            coefficients=None if self.coefficients is None else self.coefficients.turned(self.symmetry),
        )
        return Context.joined([self, other])
