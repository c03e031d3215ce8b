"""Boundary conditions, one kind per side of the box."""

from dataclasses import dataclass
from enum import StrEnum


class BoundaryKind(StrEnum):
    """What holds on one side of the box."""

    PERIODIC = "periodic"
    DIRICHLET = "dirichlet"
    """Prescribed value."""
    NO_FLUX = "no_flux"
    """Zero normal derivative."""
    CAUCHY = "cauchy"
    """A relation between value and normal derivative, such as the outflow of diffusion-sorption."""
    OUTFLOW = "outflow"
    """Waves leave: zero-order extrapolation."""
    NO_SLIP = "no_slip"
    """Zero velocity at a wall."""


@dataclass(frozen=True)
class BoundaryCondition:
    """(low, high) kinds per axis."""

    sides: tuple[tuple[BoundaryKind, BoundaryKind], ...]

    @classmethod
    def uniform(cls, kind: BoundaryKind, ndim: int) -> "BoundaryCondition":
        return cls(((kind, kind),) * ndim)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Per axis: does the domain wrap around?"""
        return tuple(low is BoundaryKind.PERIODIC for low, _ in self.sides)

    def as_names(self) -> list[list[str]]:
        return [[low.value, high.value] for low, high in self.sides]

    @classmethod
    def from_names(cls, names: list[list[str]]) -> "BoundaryCondition":
        return cls(tuple((BoundaryKind(low), BoundaryKind(high)) for low, high in names))
