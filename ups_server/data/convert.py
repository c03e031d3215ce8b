"""Copying trajectories between PDEBench's HDF5, NetCDF-CF, Zarr and npz, in constant memory."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ups_server.data.atomic import replacing
from ups_server.data.exporters.base import Header
from ups_server.data.formats.pdebench.writing import layout_file
from ups_server.data.source import Progress, TrajectorySource, pieces
from ups_server.errors import UserError
from ups_server.pde.registry import known_family

if TYPE_CHECKING:
    import xarray as xr

SUFFIXES = (".h5", ".hdf5", ".nc", ".zarr", ".npz")
CHUNK_BYTES = 2**22


def convert(source: TrajectorySource, target: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """Write all trajectories of `source` in the format that the suffix of `target` names.

    The file appears when it is whole. A trajectory axis is always written.

    Raises:
        UserError: ``unknown_format``, ``file_exists`` (a folder), ``no_layout``, ``unusable_file``,
            and those of reading.
    """
    path = Path(target)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError("unknown_format", f"{path.name} names no format", got=suffix, expected=list(SUFFIXES))
    if path.is_dir():
        raise UserError("file_exists", f"{path} exists", hint="delete it, or choose another path")
    if source.row_faults:
        row, reason = next(iter(sorted(source.row_faults.items())))
        raise UserError("unusable_file", f"trajectory {row} cannot be copied: {reason}", got=len(source.row_faults))
    header = Header(
        known_family(source.family),
        source.grid,
        source.times,
        {name: source.coefficients[:, column] for column, name in enumerate(source.coefficient_names)},
        source.n_trajectories,
        boundary=source.boundary,
    )
    write = {".h5": _write_hdf5, ".hdf5": _write_hdf5, ".npz": _write_npz, ".nc": _write_netcdf, ".zarr": _write_zarr}
    with (_replacing_folder if suffix == ".zarr" else replacing)(path) as partial:
        write[suffix](partial, header, source, progress)
    return path


def _watched(source: TrajectorySource, progress: Progress | None) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    for rows, frames, values in pieces(source):
        yield slice(rows.start, rows.stop), frames, values
        if progress is not None:
            progress(rows.stop, source.n_trajectories)


def _statics(source: TrajectorySource) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Static fields, row by row."""
    for row in range(source.n_trajectories if source.static_fields else 0):
        static = source.read_static([row])
        if static is not None:
            yield slice(row, row + 1), static


def _write_hdf5(path: Path, header: Header, source: TrajectorySource, progress: Progress | None) -> None:
    file = layout_file(
        path, header.family, header.coefficients, header.times, header.grid, header.count, header.boundary
    )
    try:
        for rows, frames, values in _watched(source, progress):
            file.put(values, rows, frames)
        for rows, static in _statics(source):
            file.put_static(static, rows)
    finally:
        file.close()


class _Target(Protocol):
    """A file of named arrays, being filled."""

    def create(self, name: str, variable: "xr.Variable") -> None:
        """Space for a variable, with its attributes."""

    def put(self, name: str, where: Any, values: NDArray[Any]) -> None:
        """Fill a part."""


class NetcdfTarget:
    """A NetCDF-4 file with the dimensions and attributes of a dataset."""

    def __init__(self, path: Path, template: "xr.Dataset") -> None:
        import h5netcdf

        self.file = h5netcdf.File(path, "w")
        self.file.dimensions = dict(template.sizes)
        self.file.attrs.update(template.attrs)

    def create(self, name: str, variable: "xr.Variable") -> None:
        chunks = _chunks(variable) if variable.ndim else None
        made = self.file.create_variable(name, variable.dims, variable.dtype, chunks=chunks)
        made.attrs.update(variable.attrs)

    def put(self, name: str, where: Any, values: NDArray[Any]) -> None:
        self.file.variables[name][where] = values


class _Zarr:
    def __init__(self, path: Path, template: "xr.Dataset") -> None:
        import zarr

        attributes = {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in template.attrs.items()
        }
        self.group = zarr.open_group(path, mode="w", zarr_format=3, attributes=attributes)

    def create(self, name: str, variable: "xr.Variable") -> None:
        self.group.create_array(
            name,
            shape=variable.shape,
            dtype=variable.dtype,
            chunks=_chunks(variable) if variable.ndim else "auto",
            dimension_names=[str(dimension) for dimension in variable.dims],
            attributes={**variable.attrs},
        )

    def put(self, name: str, where: Any, values: NDArray[Any]) -> None:
        self.group[name][where] = values


def _write_netcdf(path: Path, header: Header, source: TrajectorySource, progress: Progress | None) -> None:
    template = _template(header)
    target = NetcdfTarget(path, template)
    try:
        _fill(target, template, source, progress)
    finally:
        target.file.close()


def _write_zarr(path: Path, header: Header, source: TrajectorySource, progress: Progress | None) -> None:
    template = _template(header)
    _fill(_Zarr(path, template), template, source, progress)


def _template(header: Header) -> "xr.Dataset":
    """The dataset with its coordinates and attributes, its values a single zero."""
    from ups_server.data.exporters.dataset import build_dataset

    zero, n = np.float32(0), header.grid.n
    values = np.broadcast_to(zero, (header.count, len(header.times), *n, len(header.family.fields)))
    fixed = len(header.family.static_fields)
    static = np.broadcast_to(zero, (header.count, *n, fixed)) if fixed else None
    template = build_dataset(header, values, header.times, static)
    if header.coefficients:  # CF's way to say that a variable without a dimension of its name is a coordinate
        for name in template.data_vars:
            template[name].attrs["coordinates"] = " ".join(header.coefficients)
    return template


def _fill(target: _Target, template: "xr.Dataset", source: TrajectorySource, progress: Progress | None) -> None:
    for name, variable in template.variables.items():
        target.create(str(name), variable)
    for name, coordinate in template.coords.items():
        target.put(str(name), ..., np.asarray(coordinate.values))
    for rows, frames, values in _watched(source, progress):
        for channel, name in enumerate(source.fields):
            target.put(name, (rows, frames), values[..., channel])
    for rows, static in _statics(source):
        for channel, name in enumerate(source.static_fields):
            target.put(name, rows, static[..., channel])


def _chunks(variable: "xr.Variable") -> tuple[int, ...]:
    """One trajectory, as many whole frames as fit `CHUNK_BYTES`."""
    if variable.ndim == 1:
        return tuple(max(1, size) for size in variable.shape)
    one = (1,) if variable.dims[0] == "trajectory" else ()
    rest = variable.shape[len(one) :]
    if "time" not in variable.dims:
        return (*one, *rest)
    frames = max(1, CHUNK_BYTES // (4 * int(np.prod(rest[1:]))))
    return (*one, min(rest[0], frames), *rest[1:])


def _write_npz(path: Path, header: Header, source: TrajectorySource, progress: Progress | None) -> None:
    arrays: dict[str, Streamed] = {}
    if source.static_fields:
        blocks = (static for _, static in _statics(source))
        arrays["static"] = (header.count, *header.grid.n, len(source.static_fields)), blocks
    shape = (header.count, len(header.times), *header.grid.n, len(source.fields))
    arrays["data"] = shape, (values for _, _, values in _watched(source, progress))
    write_npz(path, header, arrays)


Streamed = tuple[tuple[int, ...], Iterator[NDArray[np.float32]]]
"""Shape of an array, and blocks of it that follow one another in C order."""


def write_npz(path: Path, header: Header, arrays: Mapping[str, Streamed]) -> None:
    """An npz file as `NpzExporter` writes it, of arrays that need not fit into memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        small = {"header": np.array(json.dumps(header.document(header.times))), "times": header.times, **header.axes()}
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
        for name, (shape, blocks) in arrays.items():
            _stream(archive, name, shape, blocks)


def _stream(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], blocks: Iterator[NDArray[np.float32]]) -> None:
    """An array whose blocks follow one another in C order."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for block in blocks:
            stream.write(np.ascontiguousarray(block, "<f4").data)


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`; renamed on success, removed on failure."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
