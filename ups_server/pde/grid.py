"""Uniform grids on a box."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError

Extent = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Grid:
    """A uniform grid: along axis d, ``x_i = lo_d + (i + offset_d) dx_d`` with ``dx_d = (hi_d - lo_d) / n_d``.

    Attributes:
        n: number of points per axis.
        extent: (lo, hi) of the box per axis, in physical units.
        offset: position of the first point in units of the spacing. 0.5 is cell-centred; an integer-stride
            subsample of a cell-centred grid has a smaller one (the first point stays where it was).
    """

    n: tuple[int, ...]
    extent: Extent
    offset: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.offset:
            object.__setattr__(self, "offset", (0.5,) * len(self.n))
        if not 1 <= len(self.n) == len(self.extent) == len(self.offset) <= 3:
            raise UserError("invalid_grid", "n, extent and offset need one entry per axis", got=self.n)
        if any(points < 1 for points in self.n) or any(lo >= hi for lo, hi in self.extent):
            raise UserError("invalid_grid", "a grid needs positive n and lo < hi", got=(self.n, self.extent))

    @property
    def ndim(self) -> int:
        return len(self.n)

    @property
    def length(self) -> tuple[float, ...]:
        """Physical length of the box per axis."""
        return tuple(hi - lo for lo, hi in self.extent)

    @property
    def spacing(self) -> tuple[float, ...]:
        return tuple(length / points for length, points in zip(self.length, self.n, strict=True))

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
            (np.arange(points, dtype=np.float64) + offset) / points
            for points, offset in zip(self.n, self.offset, strict=True)
        )

    def subsample(self, stride: int, first: int = 0) -> "Grid":
        """The grid of every `stride`-th point from point `first` on, on every axis.

        Raises:
            UserError: ``resolution_mismatch`` where the stride does not divide n.
        """
        if stride < 1 or not 0 <= first < stride or any(points % stride for points in self.n):
            raise UserError("resolution_mismatch", "the stride must divide the number of points", got=(self.n, stride))
        return Grid(
            tuple(points // stride for points in self.n),
            self.extent,
            tuple((offset + first) / stride for offset in self.offset),
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

    def stride_to(self, n: int) -> int:
        """The integer stride that leaves `n` points along the first axis.

        Raises:
            UserError: ``resolution_mismatch`` where there is none.
        """
        if n < 1 or self.n[0] % n or any(points % (self.n[0] // n) for points in self.n):
            raise UserError(
                "resolution_mismatch",
                "lower resolutions are integer-stride subsamples",
                got=n,
                expected=f"a divisor of {self.n[0]}",
            )
        return self.n[0] // n
