"""NetCDF-4 with CF conventions: one variable a field over (trajectory,) time, x, ...; coordinates with units."""

import json
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats import hdf5
from ups_server.data.formats.base import (
    AXIS_NAMES,
    LONGEST_ATTRIBUTE,
    CoefficientValues,
    Exporter,
    Format,
    Given,
    Header,
    damage_named,
)
from ups_server.data.formats.description import ArraySource
from ups_server.data.remote import address_of, is_consolidated, not_there, open_store
from ups_server.data.source import Readable, RowProgress, pieces, static_pieces
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import Grid

if TYPE_CHECKING:
    import xarray as xr

CONVENTIONS = "CF-1.11"
CHUNK_BYTES = 2**22


class NetcdfFormat(Format):
    name = "netcdf"
    hdf5 = True

    def matches(self, path: Path, first: bytes) -> bool:
        return path.is_file() and hdf5.is_netcdf(path)

    def open(self, path: Path, given: Given) -> "XarraySource":
        with damage_named(path):
            return XarraySource(path, given)


class NetcdfExporter(Exporter):
    format = "netcdf"
    suffixes = (".nc",)
    media_type = "application/x-netcdf"

    def write(
        self, target: Path | BinaryIO, header: Header, values: Readable, progress: RowProgress | None = None
    ) -> None:
        dataset = template(header, bool(values.static_fields))
        for name, text in list(dataset.attrs.items()):
            if isinstance(text, str) and len(text.encode()) > LONGEST_ATTRIBUTE:
                del dataset.attrs[name]
                dataset[name] = ((), text)
        file = _NetcdfFile(target, dataset)
        try:
            fill(file, dataset, header, values, progress)
        finally:
            file.file.close()


class XarraySource(ArraySource):
    """One variable a field over (trajectory,) time, x, ..."""

    layout = "NetCDF or Zarr"

    def __init__(self, path: Path, given: Given) -> None:
        import xarray as xr

        options: dict[str, Any] = {"decode_times": False, "cache": False}
        with ExitStack() as opened:
            if address_of(path) or path.is_dir() or zipfile.is_zipfile(path):
                store, consolidated = _zarr_store(path, opened)
                reading = {"consolidated": consolidated}
                self._file = xr.open_dataset(store, engine="zarr", backend_kwargs=reading, **options)
            else:
                self._file = xr.open_dataset(path, engine="h5netcdf", **options)
            opened.callback(self._file.close)
            self._describe(path, given)
            self._opened = opened.pop_all()

    def _describe(self, path: Path, given: Given) -> None:
        entries = dict(self._file.attrs)
        if "boundary" in entries:
            entries["boundary"] = json.loads(entries["boundary"])
        coordinates = {name: np.asarray(c.values, np.float64) for name, c in self._file.coords.items() if c.ndim <= 1}
        axes = {name: coordinates.pop(name) for name in AXIS_NAMES if name in coordinates}
        times = coordinates.pop("time", np.full(1, np.nan))
        names = {str(name): value for name, value in coordinates.items() if name != "trajectory"}
        equation, count = given.equation(path, entries.get("family")), self._file.sizes.get("trajectory", 1)
        super().__init__(path, equation, entries, times, axes, names, count, given.coefficients)
        for name, order in (
            *((name, ("time", *AXIS_NAMES[: self.grid.ndim])) for name in self.fields),
            *((name, AXIS_NAMES[: self.grid.ndim]) for name in self.static_fields),
        ):
            if name not in self._file.data_vars:
                raise UserError("missing_dataset", f"{path.name} has no variable {name}", got=list(self._file))
            found = self._file[name]
            if {*found.dims} - {"trajectory"} != {*order}:
                raise UserError("wrong_shape", f"{name} has other axes", got=found.dims, expected=order)
            if found.dtype.kind != "f":
                raise UserError("wrong_dtype", f"{name} does not hold floating-point numbers", got=str(found.dtype))

    def close(self) -> None:
        self._opened.close()

    def _values(self, channel: int, row: int, frames: slice, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        axes = AXIS_NAMES[: self.grid.ndim]
        return self._chosen(self.fields[channel], row, {"time": frames, **dict(zip(axes, space, strict=True))})

    def _static(self, channel: int, row: int, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        return self._chosen(self.static_fields[channel], row, dict(zip(AXIS_NAMES, space, strict=False)))

    def _chosen(self, name: str, row: int, where: dict[str, slice]) -> NDArray[np.floating[Any]]:
        found = self._file[name]
        index: dict[str, Any] = {**where, "trajectory": row} if "trajectory" in found.dims else dict(where)
        return np.asarray(found.isel(index).transpose(*where).values)


def _zarr_store(path: Path, opened: ExitStack) -> tuple[Any, bool]:
    """What zarr reads, which `opened` closes, and whether its metadata list what is in it, as is known of an address.

    Raises:
        UserError: ``not_found``, and those of `open_store`.
    """
    from zarr.storage import LocalStore, ZipStore

    address = address_of(path)
    if address is None:
        store: Any = LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")
        opened.callback(store.close)
        return store, False
    store = open_store(address)
    opened.callback(store.close)
    try:
        return store, is_consolidated(store)
    except FileNotFoundError:
        raise not_there(address) from None


def to_dataset(
    values: NDArray[np.floating[Any]],
    times: NDArray[np.float64],
    family: Family,
    grid: Grid,
    coefficients: CoefficientValues,
    attributes: dict[str, Any] | None = None,
    static: NDArray[np.floating[Any]] | None = None,
) -> "xr.Dataset":
    """One variable a field over (trajectory,) time, x, ...; coordinates and variables carry units and long names.

    Args:
        values: (B, T, X..., C), or (T, X..., C) for a dataset without the axis `trajectory`.
        coefficients: by name: one number, or one a trajectory; they become coordinates.
        static: ([B,] X..., S), of families with static fields.
    """
    batched = values.ndim == grid.ndim + 3
    count = len(values) if batched else 1
    header = Header(family, grid, times, coefficients, count, attributes or {}, batched)
    return build_dataset(header, values, times, static)


def build_dataset(
    header: Header,
    values: NDArray[np.floating[Any]],
    times: NDArray[np.float64],
    static: NDArray[np.floating[Any]] | None = None,
) -> "xr.Dataset":
    """The dataset of values ([B,] T, X..., C) and static fields ([B,] X..., S)."""
    import xarray as xr

    family = header.family
    leading = ("trajectory",) if header.batched else ()
    dimensions = (*leading, "time", *AXIS_NAMES[: header.grid.ndim])
    variables = {
        field.name: (dimensions, values[..., channel], _described(field.unit, field.description or field.name))
        for channel, field in enumerate(family.fields)
    }
    if static is not None:
        variables |= {
            field.name: (
                (*leading, *AXIS_NAMES[: header.grid.ndim]),
                static[..., channel],
                _described(field.unit, field.description or field.name),
            )
            for channel, field in enumerate(family.static_fields)
        }
    coordinates: dict[str, Any] = {"time": ("time", times, _described(family.time_unit, "time", "time", "T"))}
    for name, axis in header.axes().items():
        coordinates[name] = (name, axis, _described(family.length_unit, f"{name} coordinate", axis=name.upper()))
    for coefficient in family.coefficients:
        if coefficient.name in header.coefficients:
            number = np.asarray(header.coefficients[coefficient.name], np.float64)
            per_row = header.batched and number.ndim == 1
            coordinates[coefficient.name] = (
                leading if per_row else (),
                number if per_row else number.reshape(-1)[0],
                _described(coefficient.unit, coefficient.description),
            )
    return xr.Dataset(variables, coordinates, _attributes(header))


def _described(unit: str, long_name: str, standard_name: str | None = None, axis: str | None = None) -> dict[str, str]:
    entries = {"units": unit, "long_name": long_name, "standard_name": standard_name, "axis": axis}
    return {key: value for key, value in entries.items() if value is not None}


def _attributes(header: Header) -> dict[str, Any]:
    """Global attributes; what NetCDF has no type for is JSON text."""
    family, grid = header.family, header.grid
    entries = {
        "Conventions": CONVENTIONS,
        "title": family.name,
        "family": family.id,
        "equation": family.equation,
        "extent": np.array(grid.extent).ravel(),
        "boundary": header.sides,
        **header.attributes,
    }
    plain = (str, int, float, np.ndarray, np.generic)
    return {
        name: value if isinstance(value, plain) and not isinstance(value, bool) else json.dumps(value)
        for name, value in entries.items()
    }


def template(header: Header, static: bool = False) -> "xr.Dataset":
    """The dataset of a header with its coordinates and attributes, every value the same single zero."""
    zero, fixed = np.float32(0), (*header.grid.n, len(header.family.static_fields))
    constant = np.broadcast_to(zero, (header.count, *fixed) if header.batched else fixed) if static else None
    dataset = build_dataset(header, np.broadcast_to(zero, header.shape), header.times, constant)
    if header.coefficients:  # CF's way to say that a variable without a dimension of its name is a coordinate
        for name in dataset.data_vars:
            dataset[name].attrs["coordinates"] = " ".join(header.coefficients)
    return dataset


class ArrayFile(Protocol):
    """A file of named arrays, being filled."""

    def create(self, name: str, variable: "xr.Variable") -> None:
        """Space for a variable, with its attributes."""

    def put(self, name: str, where: Any, values: NDArray[Any]) -> None:
        """Fill a part."""


class _NetcdfFile:
    def __init__(self, target: Path | BinaryIO, dataset: "xr.Dataset") -> None:
        import h5netcdf

        self.file = h5netcdf.File(target, "w")
        self.file.dimensions = dict(dataset.sizes)
        self.file.attrs.update(dataset.attrs)

    def create(self, name: str, variable: "xr.Variable") -> None:
        chunks = chunk_shape(variable) if variable.ndim else None
        dtype = h5py.string_dtype() if variable.dtype.kind == "U" else variable.dtype
        missing = np.float32(np.nan) if dtype == np.float32 else None
        made = self.file.create_variable(name, variable.dims, dtype, chunks=chunks, fillvalue=missing)
        made.attrs.update(variable.attrs)

    def put(self, name: str, where: Any, values: NDArray[Any]) -> None:
        self.file.variables[name][where] = values


def fill(
    file: ArrayFile, dataset: "xr.Dataset", header: Header, values: Readable, progress: RowProgress | None = None
) -> None:
    """All variables of `dataset` (see `template`), with what is in `values`, in constant memory."""
    for name, variable in dataset.variables.items():
        file.create(str(name), variable)
        if name in dataset.coords or not variable.ndim:
            file.put(str(name), ..., np.asarray(variable.values))
    for rows, frames, block in pieces(values, progress=progress):
        where = (slice(rows.start, rows.stop), frames) if header.batched else (frames,)
        for channel, name in enumerate(values.fields):
            file.put(name, where, (block if header.batched else block[0])[..., channel])
    for row, static in static_pieces(values):
        for channel, name in enumerate(values.static_fields):
            file.put(name, row if header.batched else ..., static[..., channel])


def chunk_shape(variable: "xr.Variable") -> tuple[int, ...]:
    """One trajectory, as many whole frames as fit `CHUNK_BYTES`."""
    if variable.ndim == 1:
        return tuple(max(1, size) for size in variable.shape)
    one = (1,) if variable.dims[0] == "trajectory" else ()
    rest = variable.shape[len(one) :]
    if "time" not in variable.dims:
        return (*one, *rest)
    frames = max(1, CHUNK_BYTES // (4 * int(np.prod(rest[1:]))))
    return (*one, min(rest[0], frames), *rest[1:])
