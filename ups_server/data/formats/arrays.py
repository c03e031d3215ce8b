"""Sources of files that name their arrays and axes and describe themselves: NetCDF, Zarr, npz."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats.base import AXIS_NAMES, UNREADABLE
from ups_server.data.formats.description import by_coefficient, canonical, coefficient_table, grid_of
from ups_server.data.source import FileSource, FrameIndices, Rows
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition


class ArraySource(FileSource):
    """Trajectories as arrays with names.

    Args:
        equation: the family of the file.
        entries: the file's description of itself.
        axes: coordinates by axis name.
        coefficients: by name, one number or one a trajectory.
        given: coefficients that the user gives: together all must be known.
    """

    def __init__(
        self,
        path: Path,
        equation: Family,
        entries: Mapping[str, Any],
        times: NDArray[np.float64],
        axes: Mapping[str, NDArray[np.float64]],
        coefficients: Mapping[str, NDArray[np.float64]],
        count: int,
        given: Mapping[str, float],
    ) -> None:
        names = list(AXIS_NAMES[: equation.ndim])
        missing = [name for name in names if name not in axes]
        if missing or not np.isfinite(times).all() or times.ndim != 1:
            raise UserError("wrong_axis", f"{path.name} lacks {', '.join(missing) or 'finite times'}")
        grid = grid_of(equation, [axes[name] for name in names], names)
        sides = entries.get("boundary")
        boundary = equation.boundary if sides is None else BoundaryCondition.from_names(sides)
        super().__init__(path, equation, boundary, grid, times, count)
        named = ((canonical(equation, name, name), np.ravel(column)) for name, column in coefficients.items())
        stored = by_coefficient(named)
        unknown = sorted(set(stored) - set(self.coefficient_names))
        if unknown:
            raise UserError(
                "unknown_coefficient", f"{self.family} has no coefficient {unknown[0]}", expected=self.coefficient_names
            )
        self._table = coefficient_table(equation, self.coefficient_names, count, stored, {"the user": given})

    @property
    @final
    def coefficients(self) -> NDArray[np.float64]:
        return self._table

    @final
    def read(
        self, rows: Rows, frames: FrameIndices = slice(None), stride: int = 1, first: int = 0
    ) -> NDArray[np.float32]:
        self._check_rows(rows)
        chosen = np.arange(len(self.times))[frames]
        out = np.empty((len(rows), len(chosen), *self._points(stride, first), len(self.fields)), np.float32)
        if not out.size:
            return out
        span = slice(int(chosen.min()), int(chosen.max()) + 1)
        for target, row in zip(out, rows, strict=True):
            for channel in range(len(self.fields)):
                block = self._whole(self._values, channel, int(row), span, self._space(stride, first))
                target[..., channel] = block[chosen - span.start]
        return out

    @final
    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        if not self.static_fields:
            return None
        self._check_rows(rows)
        out = np.empty((len(rows), *self._points(stride, first), len(self.static_fields)), np.float32)
        for target, row in zip(out, rows, strict=True):
            for channel in range(len(self.static_fields)):
                target[..., channel] = self._whole(self._static, channel, int(row), self._space(stride, first))
        return out

    @abstractmethod
    def _values(self, channel: int, row: int, frames: slice, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        """(F, X...) of one field."""

    @abstractmethod
    def _static(self, channel: int, row: int, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        """(X...) of one static field."""

    def _whole(self, read: Any, *where: Any) -> NDArray[np.floating[Any]]:
        try:
            return np.asarray(read(*where))
        except UNREADABLE as error:
            raise UserError("unreadable", f"{self.path.name} cannot be read: its data are damaged") from error
