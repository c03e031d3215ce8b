"""Several trajectories along axis 0 of vector datasets: `velocity` (B, T, X, Y, 2), `particles` (B, T, X, Y, 1),
`force` (B, X, Y, 2) and `t` (B, T); the layout of incompressible Navier-Stokes, published as many files, a batch each.

The file has no coordinates: the grid is cell-centred on the family's box. Files of ours whose grid is not carry
`x-coordinate` and `y-coordinate`.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats import hdf5
from ups_server.data.formats.base import Given
from ups_server.data.formats.description import assumed_coefficients, coefficient_table, grid_of, times_of
from ups_server.data.formats.pdebench.card import (
    BATCHED,
    CARDS,
    FAMILY,
    Card,
    attribute_coefficients,
    choose_card,
    config_coefficients,
    family_of,
    read_config,
)
from ups_server.data.formats.pdebench.reading import Block, StackedSource
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import Grid

BATCHED_CARDS = [card for card in CARDS if card.layout == BATCHED]
TIMES = "t"


def matches(file: h5py.File) -> bool:
    """Whether most of the layout's datasets are there."""
    return any(len({*card.datasets, *card.static, TIMES} & set(file)) >= 2 for card in BATCHED_CARDS)


class BatchedFile(StackedSource):
    """The layout of incompressible Navier-Stokes."""

    layout = "batch of vector fields"

    def __init__(
        self,
        path: Path,
        file: h5py.File,
        given: Given,
        card: Card | None = None,
    ) -> None:
        config = read_config(file)
        card = card or _choose(path, file, config.get("sim_name"), given.family)
        equation = family_of(card)
        ndim = len(card.axes)
        self._datasets = [hdf5.float_dataset(file, name, ndim + 3) for name in card.datasets]
        self._static = [hdf5.float_dataset(file, name, ndim + 2) for name in card.static]
        count, frames, *points = self._datasets[0].shape[:-1]
        for found in (*self._datasets, *self._static):
            expected = (count, frames, *points) if found.ndim == ndim + 3 else (count, *points)
            if found.shape[:-1] != expected:
                raise UserError("ragged", f"{found.name} differs in shape", got=found.shape, expected=(*expected, "C"))
        _check_channels(self._datasets, len(equation.fields))
        _check_channels(self._static, len(equation.static_fields))
        grid = _grid(file, card, equation, tuple(points))
        super().__init__(path, file, card, equation, equation.boundary, grid, _times(file, count, frames), count)
        claims = {"the user": given.coefficients, "the configuration": config_coefficients(config, card, path.name)}
        stored = attribute_coefficients(equation, card, file.attrs)
        self.assumed = assumed_coefficients(equation, (*claims.values(), stored))
        self._table = coefficient_table(equation, (), count, stored, claims)

    def _blocks(self, start: int, stop: int, frames: slice) -> Iterator[Block]:
        channel = 0
        for source in self._datasets:
            yield slice(channel, channel + source.shape[-1]), hdf5.read(source, (slice(start, stop), frames))
            channel += source.shape[-1]

    def _static_blocks(self, row: int) -> Iterator[Block]:
        channel = 0
        for source in self._static:
            yield slice(channel, channel + source.shape[-1]), hdf5.read(source, row)
            channel += source.shape[-1]


def _choose(path: Path, file: h5py.File, config_name: object, family: str | None) -> Card:
    stored = {name for name in file if hdf5.has(file, name, h5py.Dataset)}
    missing = [sorted({*card.datasets, *card.static, TIMES} - stored) for card in BATCHED_CARDS]
    candidates = [card for card, lacks in zip(BATCHED_CARDS, missing, strict=True) if not lacks]
    if not candidates:
        card = BATCHED_CARDS[0]
        raise UserError(
            "missing_dataset",
            f"{path.name} lacks {', '.join(missing[0])} of {card.family}",
            got=sorted(stored)[:12],
            expected=[*card.datasets, *card.static, TIMES],
        )
    named = next((card.family for card in candidates if card.config_name == config_name), None)
    claims = {"the user": family, "the configuration": named, "the attributes": hdf5.text(file.attrs, FAMILY)}
    return choose_card(path.name, candidates, claims).card


def _check_channels(datasets: list[h5py.Dataset], expected: int) -> None:
    got = [found.shape[-1] for found in datasets]
    if sum(got) != expected:
        names = " and ".join(found.name for found in datasets)
        raise UserError("wrong_shape", f"{names} have not one channel a field", got=got, expected=expected)


def _grid(file: h5py.File, card: Card, equation: Family, points: tuple[int, ...]) -> Grid:
    names = [f"{axis}-coordinate" for axis in sorted(card.axes)]
    own = tuple(points[i] for i in card.order)
    if not all(hdf5.has(file, name, h5py.Dataset) for name in names):
        return Grid(own, equation.extent)
    coordinates = [hdf5.vector(file, name) for name in names]
    if own != tuple(map(len, coordinates)):
        raise UserError("wrong_axis", "the coordinates do not fit the values", got=[len(c) for c in coordinates])
    return grid_of(equation, coordinates, names)


def _times(file: h5py.File, count: int, frames: int) -> NDArray[np.float64]:
    """The times of all trajectories, which must be the same."""
    found = hdf5.float_dataset(file, TIMES, 2)
    if found.shape[0] != count:
        raise UserError("wrong_axis", f"{found.name} has not one row a trajectory", got=found.shape, expected=count)
    if len(hdf5.unwritten(found)):
        raise UserError("never_written", f"{found.name} was never written")
    table = hdf5.read(found, ()).astype(np.float64)
    if not np.isfinite(table).all():
        raise UserError("wrong_axis", f"{found.name} holds values that are not finite")
    if not np.allclose(table, table[0], rtol=1e-5, atol=1e-7):
        raise UserError("ragged", "the trajectories are not given at the same times")
    return times_of(table[0], frames, TIMES)
