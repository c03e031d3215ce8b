"""Trajectories in NetCDF-CF, Zarr and npz files, as this project's own exporters and `ups data convert` write them."""

import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from ups_server.data.pdebench.axes import grid_of
from ups_server.data.pdebench.coefficients import by_coefficient, coefficient_table
from ups_server.data.pdebench.identify import canonical
from ups_server.data.rows import RowNumbers, coefficient_faults, trajectory_of
from ups_server.data.store import Frames, Rows
from ups_server.errors import UserError
from ups_server.pde.boundary import BoundaryCondition
from ups_server.pde.described import describe
from ups_server.pde.family import Family
from ups_server.pde.grid import Grid
from ups_server.pde.state import Trajectory

AXES = ("x", "y", "z")
UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile)
"""What the libraries below raise on files that are damaged or another format."""


def open_arrays(path: Path, family: str | None, coefficients: Mapping[str, float] | None = None) -> "ArraySource":
    """Open a `.nc`, `.zarr` or `.npz` of trajectories.

    Args:
        family: needed where the file does not say, and must agree with it where it does.
        coefficients: likewise.

    Raises:
        UserError: ``unreadable``, or what is missing or contradictory.
    """
    said = Said(family, coefficients or {})
    try:
        return NpzSource(path, said) if path.suffix.lower() == ".npz" else XarraySource(path, said)
    except UNREADABLE as error:
        reason = "is empty" if path.is_file() and path.stat().st_size == 0 else "is damaged or of another format"
        raise UserError("unreadable", f"{path.name} {reason}") from error


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
        return describe(self.family or own or "")


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
    """`data` ([N,] T, X..., C), mapped into memory, and the header as JSON text."""

    layout = "npz"

    def __init__(self, path: Path, said: Said) -> None:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if not {"header", "data", "times"} <= set(file.files):
                raise UserError("missing_dataset", f"{path.name} lacks header, data or times", got=file.files[:12])
            entries = json.loads(str(file["header"]))
            times = np.asarray(file["times"], np.float64)
            axes = {name: np.asarray(file[name], np.float64) for name in AXES if name in file.files}
            has_static = "static" in file.files
        data = _mapped(path, "data")
        equation = said.equation(path, entries.get("family"))
        if data.ndim == equation.ndim + 2:
            data = data[None]
        coefficients = {name: np.asarray(value, np.float64) for name, value in entries.get("coefficients", {}).items()}
        super().__init__(path, equation, entries, times, axes, coefficients, len(data), said.coefficients)
        expected = (len(data), len(times), *self.grid.n, len(self.fields))
        if data.shape != expected or data.dtype.kind != "f":
            raise UserError(
                "wrong_shape", "data do not fit the axes", got=(data.shape, str(data.dtype)), expected=expected
            )
        if self.static_fields and not has_static:
            raise UserError("missing_dataset", f"{path.name} lacks static", expected=self.static_fields)
        self._data = data
        shape = (len(data), *self.grid.n, len(self.static_fields))
        self._fixed = _mapped(path, "static").reshape(shape) if self.static_fields else np.zeros(shape, np.float32)

    def close(self) -> None:
        """The maps go with the last reference to them."""

    def _values(self, channel: int, row: int, frames: slice, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        where: tuple[Any, ...] = (row, frames, *space, channel)
        return np.asarray(self._data[where])

    def _static(self, channel: int, row: int, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        where: tuple[Any, ...] = (row, *space, channel)
        return np.asarray(self._fixed[where])


def _mapped(path: Path, name: str) -> NDArray[Any]:
    """An array of an uncompressed npz as a map of its bytes in the file."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise UserError("unsupported_storage", f"{name} in {path.name} is compressed", hint="write it with np.savez")
    with path.open("rb") as stream:
        stream.seek(entry.header_offset + 26)
        lengths = np.frombuffer(stream.read(4), "<u2")
        stream.seek(entry.header_offset + 30 + int(lengths.sum()))
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.hasobject or 0 in shape:
            raise UserError("wrong_dtype", f"{name} in {path.name} holds no numbers", got=(shape, str(dtype)))
        return np.memmap(path, dtype, "r", stream.tell(), tuple(shape), "F" if fortran else "C")
