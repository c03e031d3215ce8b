"""Trajectories in NetCDF-CF, Zarr and npz files, as this project's own exporters and `ups data convert` write them."""

import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from ups_server.data.npz import stored_arrays
from ups_server.data.pdebench.axes import grid_of
from ups_server.data.pdebench.coefficients import by_coefficient, coefficient_table
from ups_server.data.pdebench.identify import canonical
from ups_server.data.rows import RowNumbers, coefficient_faults, trajectory_of
from ups_server.data.store import Frames, Rows
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition, Grid
from ups_server.pde.registry import known_family
from ups_server.pde.state import Trajectory

AXES = ("x", "y", "z")
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    TypeError,
    IndexError,
    AttributeError,
    zipfile.BadZipFile,
)
"""What the libraries below raise on files that are damaged or another format."""


def open_npz(path: Path, family: str | None, coefficients: Mapping[str, float] | None = None) -> "NpzSource":
    """Open an npz of trajectories.

    Args:
        family: needed where the file does not say, and must agree with it where it does.
        coefficients: likewise.

    Raises:
        UserError: ``unreadable``, or what is missing or contradictory.
    """
    with _damage_named(path):
        return NpzSource(path, Said(family, coefficients or {}))


def open_netcdf(path: Path, family: str | None, coefficients: Mapping[str, float] | None = None) -> "XarraySource":
    """Open a NetCDF-4 file of trajectories; the rest as in `open_npz`."""
    with _damage_named(path):
        return XarraySource(path, Said(family, coefficients or {}))


def open_zarr(path: Path, family: str | None, coefficients: Mapping[str, float] | None = None) -> "XarraySource":
    """Open a Zarr folder of trajectories; the rest as in `open_npz`."""
    return open_netcdf(path, family, coefficients)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise UserError("unreadable", f"{path.name} is damaged or of another format") from error


@dataclass(frozen=True)
class Said:
    """What the user says about a file."""

    family: str | None
    coefficients: Mapping[str, float]

    def equation(self, path: Path, own: object) -> Family:
        """The family that file and user name.

        Raises:
            UserError: ``family_unknown`` or ``family_mismatch``.
        """
        own = own if isinstance(own, str) else None
        if own is None and self.family is None:
            raise UserError("family_unknown", f"{path.name} does not say which family it holds", hint="name the family")
        if None not in (own, self.family) and own != self.family:
            raise UserError("family_mismatch", f"{path.name} holds another family", got=self.family, expected=own)
        return known_family(self.family or own or "")


class ArraySource(ABC):
    """Trajectories as arrays with names. A `TrajectorySource`.

    Args:
        equation: the family of the file.
        entries: the file's description of itself.
        axes: coordinates by axis name.
        coefficients: by name, one number or one a trajectory.
        told: coefficients that the user gives: together all must be known.
    """

    layout: ClassVar[str]

    def __init__(
        self,
        path: Path,
        equation: Family,
        entries: Mapping[str, Any],
        times: NDArray[np.float64],
        axes: Mapping[str, NDArray[np.float64]],
        coefficients: Mapping[str, NDArray[np.float64]],
        count: int,
        told: Mapping[str, float],
    ) -> None:
        self.path = path
        self.equation = equation
        missing = [name for name in AXES[: self.equation.ndim] if name not in axes]
        if missing or not np.isfinite(times).all() or times.ndim != 1:
            raise UserError("wrong_axis", f"{path.name} lacks {', '.join(missing) or 'finite times'}")
        self.family = self.equation.id
        self.fields = tuple(field.name for field in self.equation.fields)
        self.static_fields = tuple(field.name for field in self.equation.static_fields)
        self.coefficient_names = tuple(coefficient.name for coefficient in self.equation.coefficients)
        names = list(AXES[: self.equation.ndim])
        self.grid: Grid = grid_of(self.equation, [axes[name] for name in names], names)
        self.times: NDArray[np.float64] = times
        sides = entries.get("boundary")
        self.boundary = self.equation.boundary if sides is None else BoundaryCondition.from_names(sides)
        self.n_trajectories = count
        named = ((canonical(equation, name, name), np.ravel(column)) for name, column in coefficients.items())
        stored = by_coefficient(named)
        unknown = sorted(set(stored) - set(self.coefficient_names))
        if unknown:
            raise UserError(
                "unknown_coefficient", f"{self.family} has no coefficient {unknown[0]}", expected=self.coefficient_names
            )
        self.coefficients: NDArray[np.float64] = coefficient_table(
            equation, self.coefficient_names, count, stored, {"the user": told}
        )
        self.row_numbers: RowNumbers = RowNumbers.without({}, count)
        self.row_faults: Mapping[int, str] = coefficient_faults(equation, self.coefficients)
        self.chunk_rows = self.chunk_frames = 1

    @final
    def read(self, rows: Rows, frames: Frames = slice(None), stride: int = 1, first: int = 0) -> NDArray[np.float32]:
        """(len(rows), len(frames), X..., C)

        Raises:
            UserError: ``row_out_of_range`` or ``unreadable``.
        """
        chosen = np.arange(len(self.times))[frames]
        out = np.empty((len(rows), len(chosen), *self._points(stride, first), len(self.fields)), np.float32)
        if not out.size:
            return out
        span = slice(int(chosen.min()), int(chosen.max()) + 1)
        for target, row in zip(out, rows, strict=True):
            self._check_row(int(row))
            for channel in range(len(self.fields)):
                block = self._whole(self._values, channel, int(row), span, self._space(stride, first))
                target[..., channel] = block[chosen - span.start]
        return out

    @final
    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        """(len(rows), X..., S), None for families without static fields."""
        if not self.static_fields:
            return None
        out = np.empty((len(rows), *self._points(stride, first), len(self.static_fields)), np.float32)
        for target, row in zip(out, rows, strict=True):
            self._check_row(int(row))
            for channel in range(len(self.static_fields)):
                target[..., channel] = self._whole(self._static, channel, int(row), self._space(stride, first))
        return out

    @final
    def trajectory(self, index: int) -> Trajectory:
        """Row `index` with all that is needed to read it."""
        return trajectory_of(self, index)

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

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

    def _points(self, stride: int, first: int) -> tuple[int, ...]:
        return tuple(len(range(first, n, stride)) for n in self.grid.n)

    def _space(self, stride: int, first: int) -> tuple[slice, ...]:
        return (slice(first, None, stride),) * self.grid.ndim

    def _check_row(self, row: int) -> None:
        if not 0 <= row < self.n_trajectories:
            raise UserError(
                "row_out_of_range",
                f"{self.path.name} has no trajectory {row}",
                expected=f"0 to {self.n_trajectories - 1}",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class XarraySource(ArraySource):
    """One variable a field over (trajectory,) time, x, ..."""

    layout = "NetCDF or Zarr"

    def __init__(self, path: Path, said: Said) -> None:
        import xarray as xr

        if path.is_dir():
            self._file = xr.open_dataset(
                path, engine="zarr", decode_times=False, cache=False, backend_kwargs={"consolidated": False}
            )
        else:
            self._file = xr.open_dataset(path, engine="h5netcdf", decode_times=False, cache=False)
        try:
            self._describe(path, said)
        except BaseException:
            self._file.close()
            raise

    def _describe(self, path: Path, said: Said) -> None:
        entries = dict(self._file.attrs)
        if "boundary" in entries:
            entries["boundary"] = json.loads(entries["boundary"])
        coordinates = {name: np.asarray(c.values, np.float64) for name, c in self._file.coords.items() if c.ndim <= 1}
        axes = {name: coordinates.pop(name) for name in AXES if name in coordinates}
        times = coordinates.pop("time", np.full(1, np.nan))
        names = {str(name): value for name, value in coordinates.items() if name != "trajectory"}
        equation, count = said.equation(path, entries.get("family")), self._file.sizes.get("trajectory", 1)
        super().__init__(path, equation, entries, times, axes, names, count, said.coefficients)
        for name, order in (
            *((name, ("time", *AXES[: self.grid.ndim])) for name in self.fields),
            *((name, AXES[: self.grid.ndim]) for name in self.static_fields),
        ):
            if name not in self._file.data_vars:
                raise UserError("missing_dataset", f"{path.name} has no variable {name}", got=list(self._file))
            found = self._file[name]
            if {*found.dims} - {"trajectory"} != {*order}:
                raise UserError("wrong_shape", f"{name} has other axes", got=found.dims, expected=order)
            if found.dtype.kind != "f":
                raise UserError("wrong_dtype", f"{name} does not hold floating-point numbers", got=str(found.dtype))

    def close(self) -> None:
        self._file.close()

    def _values(self, channel: int, row: int, frames: slice, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        axes = AXES[: self.grid.ndim]
        return self._chosen(self.fields[channel], row, {"time": frames, **dict(zip(axes, space, strict=True))})

    def _static(self, channel: int, row: int, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        return self._chosen(self.static_fields[channel], row, dict(zip(AXES, space, strict=False)))

    def _chosen(self, name: str, row: int, where: dict[str, slice]) -> NDArray[np.floating[Any]]:
        found = self._file[name]
        index: dict[str, Any] = {**where, "trajectory": row} if "trajectory" in found.dims else dict(where)
        return np.asarray(found.isel(index).transpose(*where).values)


class NpzSource(ArraySource):
    """`data` ([N,] T, X..., C), mapped into memory a row at a time, and the header as JSON text."""

    layout = "npz"

    def __init__(self, path: Path, said: Said) -> None:
        self._arrays = stored_arrays(path)
        if not {"header", "data", "times"} <= set(self._arrays):
            raise UserError("missing_dataset", f"{path.name} lacks header, data or times", got=list(self._arrays)[:12])
        entries = json.loads(str(self._small("header").astype(str)))
        if not isinstance(entries, dict) or not isinstance(entries.get("coefficients", {}), dict):
            raise UserError("wrong_attribute", f"the header of {path.name} is no mapping")
        equation = said.equation(path, entries.get("family"))
        data = self._arrays["data"]
        self._alone = len(data.shape) == equation.ndim + 2
        count = 1 if self._alone else data.shape[0]
        times = np.asarray(self._small("times"), np.float64)
        axes = {name: np.asarray(self._small(name), np.float64) for name in AXES if name in self._arrays}
        coefficients = {name: np.asarray(value, np.float64) for name, value in entries.get("coefficients", {}).items()}
        super().__init__(path, equation, entries, times, axes, coefficients, count, said.coefficients)
        expected = (count, len(times), *self.grid.n, len(self.fields))
        self._expect("data", expected)
        if self.static_fields:
            if "static" not in self._arrays:
                raise UserError("missing_dataset", f"{path.name} lacks static", expected=self.static_fields)
            self._expect("static", (count, *self.grid.n, len(self.static_fields)))

    def close(self) -> None:
        """Nothing stays open: every read maps what it reads."""

    def _small(self, name: str) -> NDArray[Any]:
        return self._arrays[name].part()

    def _expect(self, name: str, shape: tuple[int, ...]) -> None:
        found = self._arrays[name]
        wanted = shape[1:] if self._alone and len(found.shape) == len(shape) - 1 else shape
        if found.shape != wanted or found.dtype.kind != "f":
            raise UserError(
                "wrong_shape", f"{name} does not fit the axes", got=(found.shape, str(found.dtype)), expected=shape
            )

    def _row(self, name: str, row: int) -> NDArray[Any]:
        found = self._arrays[name]
        axes = self.grid.ndim + (2 if name == "data" else 1)
        return found.part() if len(found.shape) == axes else found.part(row)

    def _values(self, channel: int, row: int, frames: slice, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        where: tuple[Any, ...] = (frames, *space, channel)
        return np.asarray(self._row("data", row)[where])

    def _static(self, channel: int, row: int, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        where: tuple[Any, ...] = (*space, channel)
        return np.asarray(self._row("static", row)[where])
