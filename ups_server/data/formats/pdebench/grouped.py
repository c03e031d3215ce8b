"""One group a trajectory: `data` (T, X..., C), `grid/x`, `grid/t` and a YAML configuration as attribute `config`.

Groups are named after their seed; the rows are in the order of their names. Some families store y before x: the card
says so, and trajectories come out as (T, X, Y, C).
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats import hdf5
from ups_server.data.formats.base import Given
from ups_server.data.formats.description import assumed_coefficients, grid_of, merge_coefficients, times_of
from ups_server.data.formats.pdebench.card import (
    CARDS,
    FAMILY,
    GROUPED,
    Card,
    choose_card,
    config_coefficients,
    family_of,
    read_config,
)
from ups_server.data.formats.pdebench.reading import NEVER_WRITTEN, Block, PdebenchSource
from ups_server.errors import UserError


def matches(file: h5py.File) -> bool:
    """Whether everything in the file is a group."""
    return len(file) > 0 and all(hdf5.has(file, name, h5py.Group) for name in file)


class GroupedFile(PdebenchSource):
    """The layout of diffusion-sorption, shallow water and 2-D reaction-diffusion."""

    layout = "group per trajectory"

    def __init__(
        self,
        path: Path,
        file: h5py.File,
        given: Given,
        card: Card | None = None,
    ) -> None:
        self._names = sorted(file, key=lambda name: (len(name), name))
        first = self._group(file, self._names[0])
        card = card or _choose(path, file, first, given.family)
        equation = family_of(card)
        self._axes = [f"grid/{axis}" for axis in card.axes]
        coordinates = [hdf5.vector(first, name) for name in self._axes]
        data = hdf5.float_dataset(first, "data", 2 + len(coordinates))
        if data.shape[1:-1] != tuple(map(len, coordinates)):
            got = [len(axis) for axis in coordinates]
            raise UserError("wrong_axis", "the coordinates do not fit the values", got=got, expected=data.shape)
        if data.shape[-1] != len(equation.fields):
            raise UserError(
                "wrong_shape", "data has not one channel a field", got=data.shape[-1], expected=len(equation.fields)
            )
        stored_times = hdf5.vector(first, "grid/t")
        times = times_of(stored_times, data.shape[0], "grid/t")
        grid = grid_of(equation, [coordinates[i] for i in card.order], [self._axes[i] for i in card.order])
        super().__init__(path, file, card, equation, equation.boundary, grid, times, len(self._names))
        self._given = given.coefficients
        self._shape = data.shape
        self.chunk_frames = int(data.chunks[0]) if data.chunks else 1
        self._coordinates = dict(zip((*self._axes, "grid/t"), (*coordinates, stored_times), strict=True))
        self._alike: set[int] = set()
        self._row_coefficients(0)

    @property
    def coefficients(self) -> NDArray[np.float64]:
        return self._configured[0]

    @cached_property
    def row_faults(self) -> Mapping[int, str]:
        return self._configured[1]

    @cached_property
    def _configured(self) -> tuple[NDArray[np.float64], dict[int, str]]:
        """Coefficients (N, K), NaN where the configuration of a row cannot be used, and why it cannot."""
        table = np.full((self.n_trajectories, len(self.coefficient_names)), np.nan)
        faults: dict[int, str] = {}
        for row in range(self.n_trajectories):
            try:
                table[row] = self._row_coefficients(row)
            except UserError as error:
                faults[row] = str(error)
        return table, faults

    def _stored(self) -> list[h5py.Dataset]:
        return [self._data(0)]

    def _blocks(self, start: int, stop: int, frames: slice) -> Iterator[Block]:
        if stop - start == 1:
            yield slice(None), hdf5.read(self._data(start), frames)[None]
        else:
            yield slice(None), np.stack([hdf5.read(self._data(row), frames) for row in range(start, stop)])

    def _static_blocks(self, row: int) -> Iterator[Block]:
        yield from ()

    def _data(self, row: int) -> h5py.Dataset:
        group = self._group(self.file, self._names[row])
        found = hdf5.float_dataset(group, "data", len(self._shape))
        if found.shape != self._shape:
            raise UserError(
                "ragged",
                f"group {self._names[row]} differs in shape from the first",
                got=found.shape,
                expected=self._shape,
            )
        if row not in self._alike:
            if len(hdf5.unwritten(found)):
                raise UserError("never_written", f"{found.name} cannot be read: {NEVER_WRITTEN}")
            self._compare_axes(group)
            self._alike.add(row)
        return found

    def _compare_axes(self, group: h5py.Group) -> None:
        """Every group lies on the axes and times of the first; looked up once a group."""
        for name, expected in self._coordinates.items():
            found = hdf5.vector(group, name)
            if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-5, atol=1e-6):
                raise UserError("ragged", f"{name} of group {group.name} differs from the first")

    def _group(self, file: h5py.File, name: str) -> h5py.Group:
        if not hdf5.has(file, name, h5py.Group):
            raise UserError("missing_dataset", f"{name} is not a group of this file")
        return file[name]

    def _row_coefficients(self, row: int) -> list[float]:
        """Coefficients of one row; its configuration must describe the family's equation."""
        name = self._names[row]
        config = read_config(self._group(self.file, name))
        claims = {
            "the user": self._given,
            "the configuration": config_coefficients(config.get("sim", {}), self.card, f"group {name}"),
        }
        if row == 0:
            self.assumed = assumed_coefficients(self.equation, claims.values())
        return list(merge_coefficients(self.equation, (), claims).values())


def _choose(path: Path, file: h5py.File, group: h5py.Group, family: str | None) -> Card:
    if not hdf5.has(group, "data", h5py.Dataset) or not hdf5.has(group, "grid", h5py.Group):
        raise UserError("missing_dataset", f"group {group.name} of {path.name} lacks data or grid")
    axes = set(group["grid"]) - {"t"}
    cards = [card for card in CARDS if card.layout == GROUPED]
    candidates = [card for card in cards if set(card.axes) == axes]
    if not candidates:
        raise UserError(
            "wrong_axis",
            f"no known family of this layout has the axes of {path.name}",
            got=sorted(axes),
            expected={card.family: sorted(card.axes) for card in cards},
        )
    config = read_config(group)
    named = next((card.family for card in cards if card.config_name == config.get("name")), None)
    claims = {"the user": family, "the configuration": named, "the attributes": hdf5.text(file.attrs, FAMILY)}
    return choose_card(path.name, candidates, claims).card
