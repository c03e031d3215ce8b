"""Writing PDEBench's layouts: space for all trajectories at once, filled in any order.

Attributes whose text is too long for HDF5 are datasets of the group `about`.
"""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray

from ups_server import __version__
from ups_server.data.formats.base import LONGEST_ATTRIBUTE, CoefficientValues, Exporter, Header
from ups_server.data.formats.pdebench.card import BATCHED, CONFIG, FAMILY, GROUPED, SINGLE, Card, card_of
from ups_server.data.formats.pdebench.layouts import BOUNDARY
from ups_server.data.source import Readable, RowProgress, pieces, static_pieces
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition, Grid

CHUNK_BYTES = 2**20
GENERATOR = "generator"


def boundary_word(card: Card, family: Family, boundary: BoundaryCondition | None) -> str | None:
    """How files say that boundary condition, None where it is the usual one of the family.

    Raises:
        UserError: ``no_layout`` where they cannot.
    """
    holds = boundary or family.boundary
    if holds == type(family).boundary:
        return None
    word = card.boundary_word(holds)
    if word is None:
        raise UserError(
            "no_layout",
            f"files of {family.id} cannot say that boundary condition",
            got=holds.as_names(),
            expected=type(family).boundary.as_names(),
        )
    return word


class PdebenchExporter(Exporter):
    """HDF5 in the layout that PDEBench publishes the family in; always with a trajectory axis."""

    format = "hdf5"
    suffixes = (".h5", ".hdf5")
    media_type = "application/x-hdf5"

    def write(
        self, target: Path | BinaryIO, header: Header, values: Readable, progress: RowProgress | None = None
    ) -> None:
        layout = layout_file(
            target, header.family, header.coefficients, header.times, header.grid, header.count, header.boundary
        )
        try:
            for name, value in header.attributes.items():
                plain = value if isinstance(value, str | int | float) else json.dumps(value)
                if isinstance(plain, str) and len(plain.encode()) > LONGEST_ATTRIBUTE:
                    layout.file[f"about/{name}"] = plain
                else:
                    layout.file.attrs[name] = plain
            for rows, frames, block in pieces(values, progress=progress):
                layout.put(block, slice(rows.start, rows.stop), frames)
            for row, static in static_pieces(values):
                layout.put_static(static[None], slice(row, row + 1))
        finally:
            layout.close()


class LayoutFile(ABC):
    """A file in one layout, being filled.

    Args:
        target: a path or a binary stream.
        count: trajectories to make space for.
        boundary: default: the family's.

    Raises:
        UserError: ``no_layout`` where files of the family cannot say that boundary condition.
    """

    def __init__(
        self,
        target: Path | BinaryIO,
        card: Card,
        family: Family,
        coefficients: CoefficientValues,
        times: NDArray[np.float64],
        grid: Grid,
        count: int,
        boundary: BoundaryCondition | None = None,
    ) -> None:
        word = boundary_word(card, family, boundary)
        self.file = h5py.File(target, "w")
        self.card = card
        self.family = family
        self.times = times
        self.grid = grid
        self.count = count
        self.coefficients = {
            name: np.broadcast_to(np.asarray(value, dtype=np.float64), (count,)) for name, value in coefficients.items()
        }
        self.file.attrs[FAMILY] = family.id
        self.file.attrs[GENERATOR] = f"ups_server {__version__}"
        if word is not None:
            self.file.attrs[BOUNDARY] = word
        self._allocate()

    @abstractmethod
    def put(self, values: NDArray[np.floating[Any]], rows: slice, frames: slice) -> None:
        """Store values (n, T', X..., C) of `rows` at `frames`."""

    def put_static(self, static: NDArray[np.floating[Any]], rows: slice) -> None:
        """Store static fields (n, X..., S) of `rows`, for families that have them."""
        raise UserError("no_layout", f"files of {self.family.id} hold no static fields")

    @abstractmethod
    def _allocate(self) -> None:
        """Make the datasets."""

    def close(self) -> None:
        """Finish the file."""
        self.file.close()

    def _stored(self, values: NDArray[np.floating[Any]], leading: int) -> NDArray[np.floating[Any]]:
        """`values` with its spatial axes, after `leading` others, in the order of the file."""
        places = [leading + sorted(self.card.axes).index(name) for name in self.card.axes]
        return values.transpose(*range(leading), *places, *range(leading + len(places), values.ndim))

    def _axes(self) -> dict[str, NDArray[np.float32]]:
        """Coordinates by name."""
        return {
            name: axis.astype(np.float32) for name, axis in zip(sorted(self.card.axes), self.grid.axes, strict=True)
        }

    def _values(
        self, group: h5py.Group, name: str, leading: tuple[int, ...], trailing: tuple[int, ...]
    ) -> h5py.Dataset:
        points = dict(zip(sorted(self.card.axes), self.grid.n, strict=True))
        frame = (*(points[axis] for axis in self.card.axes), *trailing)
        frames = max(1, min(len(self.times), CHUNK_BYTES // (4 * int(np.prod(frame)))))
        shape = (*leading, len(self.times), *frame)
        return group.create_dataset(
            name, shape, "f4", chunks=(*(1 for _ in leading), frames, *frame), maxshape=shape, track_times=False
        )


class SingleLayout(LayoutFile):
    """One dataset a field."""

    def put(self, values: NDArray[np.floating[Any]], rows: slice, frames: slice) -> None:
        for channel, name in enumerate(self.card.datasets):
            self.file[name][rows, frames] = self._stored(values[..., channel], 2)

    def put_static(self, static: NDArray[np.floating[Any]], rows: slice) -> None:
        for channel, name in enumerate(self.card.static):
            self.file[name][rows] = self._stored(static[..., channel], 1)

    def _allocate(self) -> None:
        for name in self.card.datasets:
            self._values(self.file, name, (self.count,), ())
        for name in self.card.static:
            shape = (self.count, *self.file[self.card.datasets[0]].shape[2:])
            self.file.create_dataset(name, shape, "f4", chunks=(1, *shape[1:]), track_times=False)
        for name, axis in self._axes().items():
            self.file[f"{name}-coordinate"] = axis
        self._write_times(self.times)
        for name, values in self.coefficients.items():
            constant = (values == values[0]).all()
            self.file.attrs[self.card.attributes.get(name, name)] = values[0] if constant else values

    def _write_times(self, times: NDArray[np.float64]) -> None:
        """With one time too many, as in the published files."""
        if self.card.steady:
            return
        if "t-coordinate" in self.file:
            del self.file["t-coordinate"]
        step = times[-1] - times[-2] if len(times) > 1 else self.family.frame_dt
        self.file["t-coordinate"] = np.append(times, times[-1] + step).astype(np.float32)


class GroupedLayout(LayoutFile):
    """One group a trajectory."""

    def put(self, values: NDArray[np.floating[Any]], rows: slice, frames: slice) -> None:
        for row, trajectory in zip(range(self.count)[rows], values, strict=True):
            self.file[self._name(row)]["data"][frames] = self._stored(trajectory, 1)

    def _name(self, row: int) -> str:
        return f"{row:0{max(4, len(str(self.count - 1)))}d}"

    def _allocate(self) -> None:
        for row in range(self.count):
            group = self.file.create_group(self._name(row))
            self._values(group, "data", (), (len(self.family.fields),))
            for name, axis in self._axes().items():
                group[f"grid/{name}"] = axis
            group["grid/t"] = self.times.astype(np.float32)
            group.attrs[CONFIG] = self._config(row)

    def _config(self, row: int) -> str:
        numbers = {self.card.config.get(name, name): float(values[row]) for name, values in self.coefficients.items()}
        box: dict[str, float] = {}
        for name, points, (low, high) in zip(sorted(self.card.axes), self.grid.n, self.grid.extent, strict=True):
            sides = ("bottom", "top") if name == "y" else ("left", "right")
            box |= {f"{name}_{sides[0]}": low, f"{name}_{sides[1]}": high, f"{name}dim": points}
        span = {"t": float(self.times[-1]), "tdim": len(self.times)}
        sim = {**self.card.constants, **numbers, **box, **span, "seed": row}
        return str(yaml.safe_dump({"name": self.card.config_name, "sim": sim}))


class BatchedLayout(LayoutFile):
    """Vector datasets over a batch."""

    def put(self, values: NDArray[np.floating[Any]], rows: slice, frames: slice) -> None:
        stored, channel = self._stored(values, 2), 0
        for name in self.card.datasets:
            width = self.file[name].shape[-1]
            self.file[name][rows, frames] = stored[..., channel : channel + width]
            channel += width

    def put_static(self, static: NDArray[np.floating[Any]], rows: slice) -> None:
        self.file[self.card.static[0]][rows] = self._stored(static, 1)

    def _allocate(self) -> None:
        vectors, scalars = self.card.datasets
        self._values(self.file, vectors, (self.count,), (self.grid.ndim,))
        self._values(self.file, scalars, (self.count,), (len(self.family.fields) - self.grid.ndim,))
        shape = (self.count, *self.file[vectors].shape[2:-1], len(self.family.static_fields))
        self.file.create_dataset(self.card.static[0], shape, "f4", chunks=(1, *shape[1:]), track_times=False)
        if any(offset != 0.5 for offset in self.grid.offset):
            for name, axis in self._axes().items():
                self.file[f"{name}-coordinate"] = axis
        self._write_times(self.times)
        for name, values in self.coefficients.items():
            self.file.attrs[name] = values[0] if (values == values[0]).all() else values

    def _write_times(self, times: NDArray[np.float64]) -> None:
        self.file["t"] = np.broadcast_to(times.astype(np.float32), (self.count, len(times)))


WRITERS: dict[str, type[LayoutFile]] = {SINGLE: SingleLayout, GROUPED: GroupedLayout, BATCHED: BatchedLayout}


def layout_file(
    target: Path | BinaryIO,
    family: Family,
    coefficients: CoefficientValues,
    times: NDArray[np.float64],
    grid: Grid,
    count: int,
    boundary: BoundaryCondition | None = None,
) -> LayoutFile:
    """The file of `family`, in the layout PDEBench publishes it in.

    Raises:
        UserError: ``no_layout`` for a family PDEBench does not publish, or not with that boundary condition.
    """
    card = card_of(family.id)
    if card is None:
        raise UserError("no_layout", f"PDEBench has no layout for {family.id}")
    return WRITERS[card.layout](target, card, family, coefficients, times, grid, count, boundary)
