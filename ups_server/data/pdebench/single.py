"""One file, one dataset a field over all trajectories: (N, T, X...), no channel axis.

Coordinates are `x-coordinate`, `y-coordinate`, ... and `t-coordinate`, coefficients are attributes of the file. An
attribute may also be a list (N,): one number a trajectory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data import hdf5
from ups_server.data.pdebench.axes import grid_of, times_of
from ups_server.data.pdebench.card import CARDS, SINGLE, Card
from ups_server.data.pdebench.identify import canonical, choose_card, family_of, merge_coefficients
from ups_server.data.pdebench.reading import PdebenchSource, runs
from ups_server.data.store import Frames, Rows
from ups_server.errors import UserError

FAMILY = "family"
"""Attribute that files of our own carry: the family's id."""


def matches(file: h5py.File) -> bool:
    """Whether the file has coordinates beside it and no groups: the structure, whatever is missing inside."""
    names = set(file)
    return "t-coordinate" in names or any(card.datasets and names >= set(card.datasets) for card in CARDS)


class SingleFile(PdebenchSource):
    """The layout of advection, Burgers and 1-D reaction-diffusion."""

    layout = "single file"

    def __init__(self, path: Path, file: h5py.File, family: str | None, given: Mapping[str, float] | None) -> None:
        card = _choose(path, file, family)
        equation = family_of(card)
        axes = [f"{axis}-coordinate" for axis in card.axes]
        coordinates = [hdf5.vector(file, name) for name in axes]
        self._datasets = [hdf5.float_dataset(file, name, 2 + len(axes)) for name in card.datasets]
        shape = self._datasets[0].shape
        for found in self._datasets:
            if found.shape != shape:
                raise UserError("ragged", "the fields differ in shape", got=found.shape, expected=shape)
        if shape[2:] != tuple(map(len, coordinates)):
            raise UserError(
                "wrong_axis", "the coordinates do not fit the values", got=[len(c) for c in coordinates], expected=shape
            )
        times = times_of(hdf5.vector(file, "t-coordinate"), shape[1], "t-coordinate")
        super().__init__(path, file, equation, grid_of(equation, coordinates, axes), times, shape[0])
        self._card = card
        self._table = self._read_coefficients(given)

    @property
    def coefficients(self) -> NDArray[np.float64]:
        return self._table

    @property
    def chunk_rows(self) -> int:
        chunks = self._datasets[0].chunks
        return int(chunks[0]) if chunks else 1

    def datasets(self) -> list[h5py.Dataset]:
        return self._datasets

    def read(self, rows: Rows, frames: Frames = slice(None), stride: int = 1, first: int = 0) -> NDArray[np.float32]:
        chosen, out = self._buffer(rows, frames, stride, first)
        if not out.size:
            return out
        span = slice(int(chosen.min()), int(chosen.max()) + 1)
        space = (slice(first, None, stride),) * self.grid.ndim
        for target, start, stop in runs(rows, self._row_bytes(span)):
            for channel, source in enumerate(self._datasets):
                block = hdf5.read(source, (slice(start, stop), span))
                index: tuple[Any, ...] = (slice(None), chosen - span.start, *space)
                out[target, ..., channel] = block[index]
        return out

    def _read_coefficients(self, given: Mapping[str, float] | None) -> NDArray[np.float64]:
        equation, found = self.equation, hdf5.numbers(self.file.attrs)
        known = {alias.lower(): c.name for c in equation.coefficients for alias in (c.name, *c.aliases)}
        known |= {attribute.lower(): name for name, attribute in self._card.attributes.items()}
        attributes = {known[key]: value for key, value in found.items() if key in known and value.size}
        lists = {name: value.ravel() for name, value in attributes.items() if value.size > 1}
        told = {
            "the user": dict(given or {}),
            "the attributes": {name: float(value.ravel()[0]) for name, value in attributes.items()},
            "the file's name": self._card.name_coefficients(self.path.name) or {},
        }
        if lists:  # the first row stands for the others in the comparison
            told["the file's name"] = {k: v for k, v in told["the file's name"].items() if k not in lists}
            told["the user"] = {k: v for k, v in told["the user"].items() if canonical(equation, k) not in lists}
        merged = merge_coefficients(equation, self._card.attributes, told)
        table = np.tile(np.array(list(merged.values())), (self.n_trajectories, 1))
        for name, column in lists.items():
            if len(column) != self.n_trajectories:
                raise UserError(
                    "wrong_attribute",
                    f"{name} has not one value a trajectory",
                    got=len(column),
                    expected=self.n_trajectories,
                )
            for value in (column.min(), column.max()):
                equation.complete({name: float(value)})
            table[:, list(merged).index(name)] = column
        return table


def _choose(path: Path, file: h5py.File, family: str | None) -> Card:
    stored = {name for name in file if hdf5.has(file, name, h5py.Dataset)}
    space = {name.removesuffix("-coordinate") for name in stored if name.endswith("-coordinate")} - {"t"}
    cards = [card for card in CARDS if card.layout == SINGLE]
    candidates = [c for c in cards if stored >= set(c.datasets) and space == set(c.axes)]
    if not candidates:
        values = sorted(stored - {f"{axis}-coordinate" for axis in (*space, "t")})
        raise UserError(
            "missing_dataset",
            f"{path.name} lacks a dataset or an axis of every known family",
            got={"values": values, "axes": sorted(space)},
            expected={card.family: [*card.datasets, *(f"{axis}-coordinate" for axis in card.axes)] for card in cards},
        )
    told = {"the user": family, "the attributes": hdf5.text(file.attrs, FAMILY)}
    return choose_card(path.name, candidates, told, hdf5.numbers(file.attrs))
