"""A box with a uniform grid, what holds at its sides, and states and trajectories that are known at its points."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError

Array = NDArray[np.float64]
"""Numbers in double precision, as solvers and scores compute with."""
Floats = NDArray[np.floating]
"""Numbers in single or double precision, as states come."""
Numbers = Mapping[str, Array]
"""Of every coefficient, by its name: one number a trajectory (N,)."""
Extent = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Grid:
    """A uniform grid: along axis d, ``x_i = lo_d + (i + offset_d) dx_d`` with ``dx_d = (hi_d - lo_d) / cells_d``.

    Attributes:
        n: number of points per axis.
        extent: (lo, hi) of the box per axis, in physical units.
        offset: position of the first point in units of the spacing. 0.5 is cell-centred; an integer-stride
            subsample of a cell-centred grid has a smaller one (the first point stays where it was).
        closed: per axis, are both ends of the box points? Then there is one spacing less than points; `offset` is 0.
    """

    CENTRE: ClassVar[float] = 0.5
    """Offset of cell centres."""

    n: tuple[int, ...]
    extent: Extent
    offset: tuple[float, ...] = ()
    closed: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not self.offset:
            object.__setattr__(self, "offset", (self.CENTRE,) * len(self.n))
        if not self.closed:
            object.__setattr__(self, "closed", (False,) * len(self.n))
        if not 1 <= len(self.n) == len(self.extent) == len(self.offset) == len(self.closed) <= 3:
            raise UserError("invalid_grid", "n, extent, offset and closed need one entry per axis", got=self.n)
        if any(cells < 1 for cells in self.cells) or any(lo >= hi for lo, hi in self.extent):
            raise UserError("invalid_grid", "a grid needs positive n and lo < hi", got=(self.n, self.extent))
        if any(both and offset for both, offset in zip(self.closed, self.offset, strict=True)):
            raise UserError("invalid_grid", "an axis with points on both ends begins on one", got=self.offset)

    @classmethod
    def nodes(cls, n: tuple[int, ...], extent: Extent, periodic: tuple[bool, ...]) -> "Grid":
        """From the lower ends on; where an axis is not periodic, up to the upper one, which a periodic one repeats."""
        return cls(n, extent, (0.0,) * len(n), tuple(not wraps for wraps in periodic))

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Grid":
        """Reads what `as_json` wrote."""
        extent = tuple((low, high) for low, high in document["extent"])
        return cls(tuple(document["n"]), extent, tuple(document["offset"]), tuple(document.get("closed", ())))

    def as_json(self) -> dict[str, Any]:
        """The attributes, each a list with one entry per axis."""
        return {
            "n": list(self.n),
            "extent": [list(ends) for ends in self.extent],
            "offset": list(self.offset),
            "closed": list(self.closed),
        }

    @property
    def ndim(self) -> int:
        return len(self.n)

    @property
    def length(self) -> tuple[float, ...]:
        """Physical length of the box per axis."""
        return tuple(hi - lo for lo, hi in self.extent)

    @property
    def cells(self) -> tuple[int, ...]:
        """How many spacings make up the box, per axis."""
        return tuple(points - both for points, both in zip(self.n, self.closed, strict=True))

    @property
    def spacing(self) -> tuple[float, ...]:
        return tuple(length / cells for length, cells in zip(self.length, self.cells, strict=True))

    @cached_property
    def axes(self) -> tuple[NDArray[np.float64], ...]:
        """Point coordinates per axis, each (n_d,)."""
        return tuple(
            lo + (np.arange(points, dtype=np.float64) + offset) * dx
            for points, (lo, _), offset, dx in zip(self.n, self.extent, self.offset, self.spacing, strict=True)
        )

    @property
    def positions(self) -> tuple[NDArray[np.float64], ...]:
        """Point coordinates per axis in units of the box, from 0 to 1, each (n_d,)."""
        return tuple(
            (np.arange(points, dtype=np.float64) + offset) / cells
            for points, cells, offset in zip(self.n, self.cells, self.offset, strict=True)
        )

    def subsample(self, stride: int, first: int = 0) -> "Grid":
        """The grid of every `stride`-th point from point `first` on, on every axis.

        Raises:
            UserError: ``resolution_mismatch`` where the stride does not divide the number of cells, or leaves out an
                end of a closed axis.
        """
        fits = stride >= 1 and 0 <= first < stride and not (first and any(self.closed))
        if not fits or any(cells % stride for cells in self.cells):
            raise UserError("resolution_mismatch", "the stride must divide the number of points", got=(self.n, stride))
        return Grid(
            tuple(cells // stride + both for cells, both in zip(self.cells, self.closed, strict=True)),
            self.extent,
            tuple((offset + first) / stride for offset in self.offset),
            self.closed,
        )

    def within_cells(self, factor: int) -> "Grid":
        """`factor` times as many points: the midpoints of as many parts of each cell, with the cells around the points.

        Raises:
            UserError: ``invalid_grid`` where factor is not positive.
        """
        return Grid(
            tuple(points * factor for points in self.n),
            self.extent,
            tuple(factor * (offset - 0.5) + 0.5 for offset in self.offset),
        )

    def refined(self, factor: int) -> tuple["Grid", tuple[slice, ...]]:
        """A grid of `factor` times as many cells, and the slices of its points that are those of this one."""
        first = tuple(math.floor(offset * factor) for offset in self.offset)
        fine = Grid(
            tuple(cells * factor + both for cells, both in zip(self.cells, self.closed, strict=True)),
            self.extent,
            tuple(offset * factor - skipped for offset, skipped in zip(self.offset, first, strict=True)),
            self.closed,
        )
        return fine, tuple(slice(skipped, None, factor) for skipped in first)

    def stride_to(self, n: int | Sequence[int]) -> int:
        """The integer stride, the same along every axis, that leaves `n` points: along the first one, or along each.

        Raises:
            UserError: ``resolution_mismatch`` where there is none.
        """
        if not isinstance(n, int):
            stride = self.stride_to(n[0])
            if self.subsample(stride).n != tuple(n):
                raise UserError(
                    "resolution_mismatch",
                    "lower resolutions leave out points alike along all axes",
                    got="x".join(map(str, n)),
                    expected="x".join(map(str, self.subsample(stride).n)),
                )
            return stride
        wanted = n - self.closed[0]
        if wanted < 1 or self.cells[0] % wanted or any(cells % (self.cells[0] // wanted) for cells in self.cells):
            raise UserError(
                "resolution_mismatch",
                "lower resolutions are integer-stride subsamples",
                got=n,
                expected=f"a divisor of {self.cells[0]}" + (", and one more" if self.closed[0] else ""),
            )
        return self.cells[0] // wanted


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


@dataclass(frozen=True)
class State:
    """The fields of one family at one time.

    Attributes:
        values: (X..., C) in physical units, fields in the family's order.
        static: (X..., S) fields that do not change in time (forcing), or None.
    """

    family: str
    values: Floats
    time: float
    grid: Grid
    boundary: BoundaryCondition
    coefficients: Mapping[str, float] = field(default_factory=dict)
    static: Floats | None = None


@dataclass(frozen=True)
class Trajectory:
    """A solution at several times.

    Attributes:
        values: (T, X..., C) in physical units, fields in the family's order.
        times: (T,) in the family's time unit.
        static: (X..., S) or None.
    """

    family: str
    values: Floats
    times: NDArray[np.float64]
    grid: Grid
    boundary: BoundaryCondition
    coefficients: Mapping[str, float] = field(default_factory=dict)
    static: Floats | None = None

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, step: int) -> State:
        return State(
            self.family,
            self.values[step],
            float(self.times[step]),
            self.grid,
            self.boundary,
            self.coefficients,
            self.static,
        )
