"""Boundary conditions, one kind per side of the box."""

from dataclasses import dataclass
from enum import StrEnum

from ups_server.errors import UserError


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

    def as_text(self) -> str:
        """`LOW/HIGH` for each axis, with commas between."""
        return ",".join(f"{low.value}/{high.value}" for low, high in self.sides)

    @classmethod
    def from_text(cls, text: str) -> "BoundaryCondition":
        """Reads `as_text`; one kind stands for both ends of an axis.

        Raises:
            UserError: ``invalid_boundary``.
        """
        axes = [axis.split("/") for axis in text.split(",")]
        known = [kind.value for kind in BoundaryKind]
        if any(len(axis) > 2 or not set(axis) <= set(known) for axis in axes):
            raise UserError(
                "invalid_boundary", "a boundary is given by axis: KIND, or LOW/HIGH", got=text, expected=known
            )
        return cls.from_names([[axis[0], axis[-1]] for axis in axes])
