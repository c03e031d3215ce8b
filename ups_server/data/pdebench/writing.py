"""Writing PDEBench's layouts: space for all trajectories at once, filled in any order."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray

from ups_server import __version__
from ups_server.data.atomic import replacing
from ups_server.data.pdebench.card import SINGLE, Card, card_of
from ups_server.data.pdebench.grouped import CONFIG
from ups_server.data.pdebench.single import FAMILY
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import Grid

CHUNK_BYTES = 2**20
GENERATOR = "generator"

Coefficients = Mapping[str, "float | NDArray[np.float64]"]
"""By name: one number, or one a trajectory (N,)."""


class LayoutFile(ABC):
    """A file in one layout, being filled.

    Args:
        target: a path or a binary stream.
        count: trajectories to make space for.
    """

    def __init__(
        self,
        target: Path | BinaryIO,
        card: Card,
        family: Family,
        coefficients: Coefficients,
        times: NDArray[np.float64],
        grid: Grid,
        count: int,
    ) -> None:
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
        self._allocate()

    @abstractmethod
    def put(self, values: NDArray[np.floating[Any]], rows: slice, frames: slice) -> None:
        """Store values (n, T', X..., C) of `rows` at `frames`."""

    @abstractmethod
    def keep_frames(self, count: int) -> None:
        """Cut to the first `count` frames, where a solution ended early."""

    @abstractmethod
    def _allocate(self) -> None:
        """Make the datasets."""

    def close(self) -> None:
        """Finish the file."""
        self.file.close()

    def _values(
        self, group: h5py.Group, name: str, leading: tuple[int, ...], trailing: tuple[int, ...]
    ) -> h5py.Dataset:
        frame = (*self.grid.n, *trailing)
        frames = max(1, min(len(self.times), CHUNK_BYTES // (4 * int(np.prod(frame)))))
        shape = (*leading, len(self.times), *frame)
        return group.create_dataset(
            name, shape, "f4", chunks=(*(1 for _ in leading), frames, *frame), maxshape=shape, track_times=False
        )


class SingleLayout(LayoutFile):
    """One dataset a field."""

    def put(self, values: NDArray[np.floating[Any]], rows: slice, frames: slice) -> None:
        for channel, name in enumerate(self.card.datasets):
            self.file[name][rows, frames] = values[..., channel]

    def keep_frames(self, count: int) -> None:
        for name in self.card.datasets:
            self.file[name].resize(count, axis=1)
        self._write_times(self.times[:count])

    def _allocate(self) -> None:
        for name in self.card.datasets:
            self._values(self.file, name, (self.count,), ())
        for name, axis in zip(self.card.axes, self.grid.axes, strict=True):
            self.file[f"{name}-coordinate"] = axis.astype(np.float32)
        self._write_times(self.times)
        for name, values in self.coefficients.items():
            constant = (values == values[0]).all()
            self.file.attrs[self.card.attributes.get(name, name)] = values[0] if constant else values

    def _write_times(self, times: NDArray[np.float64]) -> None:
        """With one time too many, as in the published files."""
        if "t-coordinate" in self.file:
            del self.file["t-coordinate"]
        step = times[-1] - times[-2] if len(times) > 1 else self.family.frame_dt
        self.file["t-coordinate"] = np.append(times, times[-1] + step).astype(np.float32)


class GroupedLayout(LayoutFile):
    """One group a trajectory."""

    def put(self, values: NDArray[np.floating[Any]], rows: slice, frames: slice) -> None:
        for row, trajectory in zip(range(self.count)[rows], values, strict=True):
            self.file[self._name(row)]["data"][frames] = trajectory

    def keep_frames(self, count: int) -> None:
        for group in self.file.values():
            group["data"].resize(count, axis=0)
            del group["grid/t"]
            group["grid/t"] = self.times[:count].astype(np.float32)

    def _name(self, row: int) -> str:
        return f"{row:0{max(4, len(str(self.count - 1)))}d}"

    def _allocate(self) -> None:
        for row in range(self.count):
            group = self.file.create_group(self._name(row))
            self._values(group, "data", (), (len(self.family.fields),))
            for name, axis in zip(self.card.axes, self.grid.axes, strict=True):
                group[f"grid/{name}"] = axis.astype(np.float32)
            group["grid/t"] = self.times.astype(np.float32)
            group.attrs[CONFIG] = self._config(row)

    def _config(self, row: int) -> str:
        numbers = {self.card.config.get(name, name): float(values[row]) for name, values in self.coefficients.items()}
        box: dict[str, float] = {}
        for name, points, (low, high) in zip(self.card.axes, self.grid.n, self.grid.extent, strict=True):
            sides = ("bottom", "top") if name == "y" else ("left", "right")
            box |= {f"{name}_{sides[0]}": low, f"{name}_{sides[1]}": high, f"{name}dim": points}
        span = {"t": float(self.times[-1]), "tdim": len(self.times)}
        sim = {**self.card.constants, **numbers, **box, **span, "seed": row}
        return str(yaml.safe_dump({"name": self.card.config_name, "sim": sim}))


def layout_file(
    target: Path | BinaryIO,
    family: Family,
    coefficients: Coefficients,
    times: NDArray[np.float64],
    grid: Grid,
    count: int,
) -> LayoutFile:
    """The file of `family`, in the layout PDEBench publishes it in.

    Raises:
        UserError: ``no_layout`` for a family PDEBench does not publish.
    """
    card = card_of(family.id)
    if card is None:
        raise UserError("no_layout", f"PDEBench has no layout for {family.id}")
    kind = SingleLayout if card.layout == SINGLE else GroupedLayout
    return kind(target, card, family, coefficients, times, grid, count)


def write_pdebench(
    path: Path,
    family: Family,
    coefficients: Coefficients,
    batches: Iterable[NDArray[np.floating[Any]]],
    times: NDArray[np.float64],
    grid: Grid,
    count: int,
) -> None:
    """Write `count` trajectories that come in batches (n, T, X..., C). The file appears when it is whole.

    Raises:
        UserError: ``no_layout``, or ``wrong_shape`` where the batches are not `count` trajectories.
    """
    with replacing(path) as partial:
        file = layout_file(partial, family, coefficients, times, grid, count)
        try:
            done = 0
            for values in batches:
                expected = (len(values), len(times), *grid.n, len(family.fields))
                if values.shape != expected or done + len(values) > count:
                    raise UserError("wrong_shape", "a batch does not fit the file", got=values.shape, expected=expected)
                file.put(values, slice(done, done + len(values)), slice(None))
                done += len(values)
            if done != count:
                raise UserError("wrong_shape", "there are fewer trajectories than announced", got=done, expected=count)
        finally:
            file.close()
