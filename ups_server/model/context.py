"""What an operator has read of its problems, and keeps for all their steps."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from torch import Tensor

from ups_server.model.rows import Rows
from ups_server.model.symmetry import Symmetry


@dataclass(frozen=True)
class Coefficients(Rows):
    """What one kind of operator knows beside what all know: each has a class of its own."""

    def turned(self, symmetry: Symmetry) -> Self:
        """The same of the problems turned by the symmetry."""
        return self


@dataclass(frozen=True)
class Context(Rows):
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
