"""The Well's HDF5: fields by tensor order in `t0_fields`, `t1_fields` and `t2_fields`, with `dimensions`, `scalars` and
`boundary_conditions` beside them.

Written as the collection publishes its format (https://polymathic-ai.org/the_well/data_format/), with what it has no
place for as further attributes at the root: `family`, `equation`, `boundary`. A file that names a family is read by
that; the collection's own files, which name none, are read through a mapping.

Fields whose names end in x, y, ..., one for every axis (`Vx`, `Vy`), are the components of one vector, named by what is
left (`V`); the others are scalars. There are no tensors of second order.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats import hdf5
from ups_server.data.formats.base import (
    AXIS_NAMES,
    LONGEST_ATTRIBUTE,
    Exporter,
    Format,
    Given,
    Header,
    damage_named,
)
from ups_server.data.formats.description import ArraySource, times_of
from ups_server.data.source import Readable, RowProgress, pieces, static_pieces
from ups_server.errors import UserError
from ups_server.pde.grid import BoundaryKind

CHUNK_BYTES = 2**20
GROUPS = ("t0_fields", "t1_fields", "t2_fields")
"""By tensor order."""
KINDS = {BoundaryKind.PERIODIC: "PERIODIC", BoundaryKind.OUTFLOW: "OPEN", BoundaryKind.CAUCHY: "OPEN"}
WALL = "WALL"
"""Kinds of boundary conditions that the collection has; what is neither periodic nor open is a wall."""
TEXT = h5py.string_dtype()


@dataclass(frozen=True)
class _Stored:
    """Where a field is: in which group, under which name, as which component of a vector."""

    group: str
    name: str
    component: int | None = None


def _stored(fields: Sequence[str], ndim: int) -> list[_Stored]:
    """The place of each field."""
    axes = AXIS_NAMES[:ndim]
    found = []
    for field in fields:
        vector = field[:-1]
        if vector and field[-1] in axes and all(f"{vector}{axis}" in fields for axis in axes):
            found.append(_Stored(GROUPS[1], vector, axes.index(field[-1])))
        else:
            found.append(_Stored(GROUPS[0], field))
    return found


class WellFormat(Format):
    name = "the_well"
    hdf5 = True

    def matches(self, path: Path, first: bytes) -> bool:
        if not path.is_file():
            return False
        try:
            with h5py.File(path, "r") as file:
                groups = all(hdf5.has(file, name, h5py.Group) for name in ("dimensions", *GROUPS))
                return groups and hdf5.FAMILY in file.attrs
        except Exception:  # not HDF5, or damaged: whoever opens it says so
            return False

    def open(self, path: Path, given: Given) -> "WellSource":
        with damage_named(path):
            return WellSource(path, given)


class WellSource(ArraySource):
    """Datasets (trajectory, time, x, ...[, component]), of static fields without time."""

    layout = "The Well"

    def __init__(self, path: Path, given: Given) -> None:
        self._file = hdf5.open_plainly(path)
        with hdf5.closed_on_error(self._file):
            self._describe(path, given)

    def _describe(self, path: Path, given: Given) -> None:
        attributes = self._file.attrs
        equation = given.equation(path, hdf5.text(attributes, hdf5.FAMILY))
        sides = hdf5.text(attributes, "boundary")
        entries = {} if sides is None else {"boundary": json.loads(sides)}
        dimensions = self._group("dimensions")
        axes = {name: hdf5.vector(dimensions, name) for name in AXIS_NAMES[: equation.ndim]}
        times = hdf5.vector(dimensions, "time")
        self._places = _stored([field.name for field in equation.fields], equation.ndim)
        self._fixed = _stored([field.name for field in equation.static_fields], equation.ndim)
        found = [self._dataset(place, equation.ndim + 2) for place in self._places]
        count = found[0].shape[0]
        names = [coefficient.name for coefficient in equation.coefficients]
        super().__init__(
            path, equation, entries, times_of(times, len(times), "time"), axes, self._scalars(names), count,
            given.coefficients,
        )  # fmt: skip
        found += [self._dataset(place, equation.ndim + 1) for place in self._fixed]
        expected = [(count, len(times), *self.grid.n)] * len(self._places) + [(count, *self.grid.n)] * len(self._fixed)
        for entry, place, shape in zip(found, [*self._places, *self._fixed], expected, strict=True):
            wanted = shape if place.component is None else (*shape, self.grid.ndim)
            if entry.shape != wanted:
                raise UserError("wrong_shape", f"{entry.name} does not fit the axes", got=entry.shape, expected=wanted)
        self._missing = {int(row) for entry in found for row in hdf5.unwritten(entry)}

    def _group(self, name: str) -> h5py.Group:
        if not hdf5.has(self._file, name, h5py.Group):
            raise UserError("missing_dataset", f"the file has no group {name}")
        return self._file[name]

    def _dataset(self, place: _Stored, ndim: int) -> h5py.Dataset:
        return hdf5.float_dataset(self._group(place.group), place.name, ndim + (place.component is not None))

    def _scalars(self, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """The coefficients in the file: as an attribute, which is not rounded, where there is one."""
        found = {name: values for name, values in hdf5.numbers(self._file.attrs) if name in names}
        scalars = self._group("scalars")
        for name in names:
            if name not in found and hdf5.has(scalars, name, h5py.Dataset):
                found[name] = np.asarray(hdf5.read(hdf5.dataset(scalars, name), ()), np.float64)
        return found

    def close(self) -> None:
        self._file.close()

    def _never_written(self) -> set[int]:
        return self._missing

    def _values(self, channel: int, row: int, frames: slice, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        return self._part(self._places[channel], (row, frames, *space))

    def _static(self, channel: int, row: int, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        return self._part(self._fixed[channel], (row, *space))

    def _part(self, place: _Stored, where: tuple[int | slice, ...]) -> NDArray[np.floating[Any]]:
        component = () if place.component is None else (place.component,)
        return hdf5.read(hdf5.dataset(self._group(place.group), place.name), (*where, *component))


class WellExporter(Exporter):
    """Always with a trajectory axis. Its files end in `.h5` or `.hdf5`, which alone mean PDEBench's layout."""

    format = "the_well"
    suffixes = ()
    media_type = "application/x-the-well"

    def write(
        self, target: Path | BinaryIO, header: Header, values: Readable, progress: RowProgress | None = None
    ) -> None:
        with h5py.File(target, "w") as file:
            _describe(file, header)
            _dimensions(file, header)
            _boundary(file, header)
            _scalars(file, header)
            moving = _allocate(file, header, values.fields, (header.count, len(header.times)))
            fixed = _allocate(file, header, values.static_fields, (header.count,))
            for group in GROUPS:
                names = sorted(file.require_group(group))
                file[group].attrs["field_names"] = np.array(names, TEXT)
            for rows, frames, block in pieces(values, progress=progress):
                _put(moving, (slice(rows.start, rows.stop), frames), block)
            for row, static in static_pieces(values):
                _put(fixed, (row,), static)


def _describe(file: h5py.File, header: Header) -> None:
    for name, value in header.attributes.items():
        plain = value if isinstance(value, str | int | float) else json.dumps(value)
        if isinstance(plain, str) and len(plain.encode()) > LONGEST_ATTRIBUTE:
            file[f"about/{name}"] = plain
        else:
            file.attrs[name] = plain
    numbers = {name: np.unique(np.asarray(value, np.float64)) for name, value in header.coefficients.items()}
    same = {name: float(found[0]) for name, found in numbers.items() if len(found) == 1}
    file.attrs.update(same)
    file.attrs.update(
        {
            "dataset_name": header.family.id,
            "grid_type": "cartesian",
            "n_spatial_dims": header.grid.ndim,
            "n_trajectories": header.count,
            "simulation_parameters": np.array(list(same), TEXT),
            hdf5.FAMILY: header.family.id,
            "equation": header.family.equation,
            "boundary": json.dumps(header.sides),
        }
    )


def _dimensions(file: h5py.File, header: Header) -> None:
    group = file.create_group("dimensions")
    axes = header.axes()
    group.attrs["spatial_dims"] = np.array(list(axes), TEXT)
    group["time"] = header.times.astype(np.float32)
    group["time"].attrs["sample_varying"] = False
    for name, axis in axes.items():
        group[name] = axis.astype(np.float32)
        group[name].attrs.update({"sample_varying": False, "time_varying": False})


def _boundary(file: h5py.File, header: Header) -> None:
    """One group an axis, or one a side where the two differ; its mask is true on the points next to the sides."""
    group = file.create_group("boundary_conditions")
    boundary = header.boundary or header.family.boundary
    for axis, n, sides in zip(AXIS_NAMES, header.grid.n, boundary.sides, strict=False):
        low, high = (KINDS.get(kind, WALL) for kind in sides)
        ends: dict[str, tuple[str, tuple[int, ...]]] = {f"{axis}_{low.lower()}": (low, (0, n - 1))}
        if low != high:
            ends = {f"{axis}_low": (low, (0,)), f"{axis}_high": (high, (n - 1,))}
        for name, (kind, points) in ends.items():
            condition = group.create_group(name)
            condition["mask"] = np.isin(np.arange(n), points)
            condition.attrs.update({"bc_type": kind, "sample_varying": False, "time_varying": False})
            condition.attrs["associated_dims"] = np.array([axis], TEXT)
            condition.attrs["associated_fields"] = np.array([], TEXT)


def _scalars(file: h5py.File, header: Header) -> None:
    group = file.create_group("scalars")
    group.attrs["field_names"] = np.array(list(header.coefficients), TEXT)
    for name, value in header.coefficients.items():
        varying = name not in file.attrs["simulation_parameters"]
        group[name] = np.asarray(value if varying else np.ravel(value)[0], np.float32)
        group[name].attrs.update({"sample_varying": varying, "time_varying": False})


def _allocate(
    file: h5py.File, header: Header, fields: Sequence[str], leading: tuple[int, ...]
) -> list[tuple[h5py.Dataset, list[int]]]:
    """Space for fields: the datasets, each with the channels that it holds, in the order of its components."""
    places = _stored(fields, header.grid.ndim)
    channels: dict[tuple[str, str], list[int]] = {}
    for channel in sorted(range(len(places)), key=lambda channel: places[channel].component or 0):
        channels.setdefault((places[channel].group, places[channel].name), []).append(channel)
    made = []
    for (group, name), held in channels.items():
        frame = header.grid.n if group == GROUPS[0] else (*header.grid.n, header.grid.ndim)
        frames = max(1, CHUNK_BYTES // (4 * int(np.prod(frame))))
        chunks = (1, *(min(n, frames) for n in leading[1:]), *frame)
        found = file.require_group(group).create_dataset(
            name, (*leading, *frame), "f4", chunks=chunks, track_times=False
        )
        found.attrs.update({"sample_varying": True, "time_varying": len(leading) == 2})
        found.attrs["dim_varying"] = np.ones(header.grid.ndim, bool)
        made.append((found, held))
    return made


def _put(
    datasets: Sequence[tuple[h5py.Dataset, list[int]]], where: tuple[int | slice, ...], block: NDArray[np.float32]
) -> None:
    for found, channels in datasets:
        scalar = found.name.startswith(f"/{GROUPS[0]}/")
        found[where] = block[..., channels[0]] if scalar else block[..., channels]
