"""Exact symmetries of an equation, which a step is averaged over.

With a symmetry P that is its own inverse, ``G(u) = (F(u) + P F(P u)) / 2`` commutes with P whatever F is: the mean over
a group (Reynolds operator). A trained F nearly commutes with P; the mean takes away what is left of its error there.
P mirrors all axes at once where x -> -x is a symmetry, with a sign for every field, else u -> -u where that is one. On
normalised states it is a flip or none, sign and shift.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ups_server.model.config import FamilyCard
from ups_server.model.rows import Rows
from ups_server.pde.grid import BoundaryCondition

CENTRE = 0.5
"""Offset of points that map onto themselves when their axis is mirrored."""


@dataclass(frozen=True)
class Symmetry(Rows):
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
    card: FamilyCard, boundary: BoundaryCondition, offset: tuple[float, ...]
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
