"""The three layouts in which PDEBench publishes files, as sources.

| | |
|---|---|
| single | one dataset a field over all trajectories, (N, T, X...), no channel axis; static fields (N, X...) |
| batched | vector datasets over a batch: `velocity` (B, T, X, Y, 2), `particles` (…, 1), `force` (B, X, Y, 2) |
| grouped | one group a trajectory: `data` (T, X..., C), `grid/x`, `grid/t` and a YAML configuration |
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats import hdf5
from ups_server.data.formats.base import Given
from ups_server.data.formats.description import (
    assumed_coefficients,
    coefficient_table,
    grid_of,
    merge_coefficients,
    times_of,
)
from ups_server.data.formats.pdebench.card import (
    BATCHED,
    CARDS,
    FAMILY,
    GROUPED,
    SINGLE,
    Card,
    Choice,
    attribute_coefficients,
    choose_card,
    config_coefficients,
    family_of,
    named_card,
    read_config,
)
from ups_server.data.formats.pdebench.reading import ChannelBlock, PdebenchSource, StackedSource
from ups_server.data.source import NEVER_WRITTEN
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import Grid

BOUNDARY = "boundary"
"""Attribute of files of our own whose boundary condition is not the family's."""
SINGLE_CARDS = [card for card in CARDS if card.layout == SINGLE]
VALUES = {name for card in SINGLE_CARDS for name in (*card.datasets, *card.static)}
TIMES = "t-coordinate"


def matches_single(file: h5py.File) -> bool:
    """Whether the file has coordinates beside it and no groups: the structure, whatever is missing inside."""
    names = set(file)
    return any(name.endswith("-coordinate") for name in names) or any(names >= set(c.datasets) for c in SINGLE_CARDS)


class SingleFile(StackedSource):
    """The layout of advection, Burgers, 1-D reaction-diffusion, compressible Navier-Stokes and Darcy.

    Coordinates are `x-coordinate`, `y-coordinate`, ... and `t-coordinate`, coefficients are attributes of the file. An
    attribute may also be a list (N,): one number a trajectory. Steady families have one frame and no times.
    """

    layout = "single file"

    def __init__(
        self,
        path: Path,
        file: h5py.File,
        given: Given,
        card: Card | None = None,
    ) -> None:
        choice = _single_card(path, file, given.family) if card is None else Choice(card)
        card = choice.card
        equation = family_of(card)
        names = [f"{axis}-coordinate" for axis in card.axes]
        coordinates = [hdf5.vector(file, name) for name in names]
        self._datasets = [hdf5.float_dataset(file, name, 2 + len(names)) for name in card.datasets]
        self._static = [hdf5.float_dataset(file, name, 1 + len(names)) for name in card.static]
        shape = self._datasets[0].shape
        for found in (*self._datasets, *self._static):
            expected = shape if found.ndim == len(shape) else (shape[0], *shape[2:])
            if found.shape != expected:
                raise UserError("ragged", f"{found.name} differs in shape", got=found.shape, expected=expected)
        if shape[2:] != tuple(map(len, coordinates)):
            raise UserError(
                "wrong_axis", "the coordinates do not fit the values", got=[len(c) for c in coordinates], expected=shape
            )
        if card.steady and shape[1] != 1:
            raise UserError("wrong_shape", f"{card.family} is steady: one frame", got=shape)
        times = np.zeros(1) if card.steady else times_of(hdf5.vector(file, TIMES), shape[1], TIMES)
        grid = grid_of(equation, [coordinates[i] for i in card.order], [names[i] for i in card.order])
        boundary = card.boundary(equation, path.name, hdf5.text(file.attrs, BOUNDARY))
        super().__init__(path, file, card, equation, boundary, grid, times, shape[0])
        self.guessed_from = choice.guessed_from
        claims = {"the user": given.coefficients, "the file's name": card.name_coefficients(path.name) or {}}
        stored = attribute_coefficients(equation, card, file.attrs)
        self._table = coefficient_table(equation, card.attributes, shape[0], stored, claims)

    def _blocks(self, start: int, stop: int, frames: slice) -> Iterator[ChannelBlock]:
        for channel, source in enumerate(self._datasets):
            yield slice(channel, channel + 1), hdf5.read(source, (slice(start, stop), frames))[..., None]

    def _static_blocks(self, row: int) -> Iterator[ChannelBlock]:
        for channel, source in enumerate(self._static):
            yield slice(channel, channel + 1), hdf5.read(source, row)[..., None]


def _single_card(path: Path, file: h5py.File, family: str | None) -> Choice:
    stored = {name for name in file if hdf5.has(file, name, h5py.Dataset)}
    space = {name.removesuffix("-coordinate") for name in stored if name.endswith("-coordinate")} - {"t"}
    values = {name for name in stored & VALUES if file[name].ndim > 1}
    claims = {"the user": family, "the attributes": hdf5.text(file.attrs, FAMILY)}
    candidates = [c for c in SINGLE_CARDS if values == {*c.datasets, *c.static} and space == set(c.axes)]
    if not candidates:
        named = named_card(path.name, claims, SINGLE_CARDS)
        likely = named or min(SINGLE_CARDS, key=lambda card: len({*stored, TIMES} ^ _needed(card)))
        missing, surplus = sorted(_needed(likely) - stored), sorted(values - _needed(likely))
        fault = f"lacks {', '.join(missing)}" if missing else f"holds {', '.join(surplus) or 'axes'} not"
        raise UserError(
            "missing_dataset",
            f"{path.name} {fault} of {likely.family}",
            got=sorted(stored)[:12],
            expected=sorted(_needed(likely)),
        )
    return choose_card(path.name, candidates, claims, {name.lower() for name, _ in hdf5.numbers(file.attrs)})


def _needed(card: Card) -> set[str]:
    axes = card.axes if card.steady else (*card.axes, "t")
    return {*card.datasets, *card.static, *(f"{axis}-coordinate" for axis in axes)}


BATCHED_CARDS = [card for card in CARDS if card.layout == BATCHED]
BATCH_TIMES = "t"


def matches_batched(file: h5py.File) -> bool:
    """Whether most of the layout's datasets are there."""
    return any(len({*card.datasets, *card.static, BATCH_TIMES} & set(file)) >= 2 for card in BATCHED_CARDS)


class BatchedFile(StackedSource):
    """The layout of incompressible Navier-Stokes, published as many files, a batch each; times are `t` (B, T).

    The file has no coordinates: the grid is cell-centred on the family's box. Files of ours whose grid is not carry
    `x-coordinate` and `y-coordinate`.
    """

    layout = "batch of vector fields"

    def __init__(
        self,
        path: Path,
        file: h5py.File,
        given: Given,
        card: Card | None = None,
    ) -> None:
        config = read_config(file)
        card = card or _batched_card(path, file, config.get("sim_name"), given.family)
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

    def _blocks(self, start: int, stop: int, frames: slice) -> Iterator[ChannelBlock]:
        channel = 0
        for source in self._datasets:
            yield slice(channel, channel + source.shape[-1]), hdf5.read(source, (slice(start, stop), frames))
            channel += source.shape[-1]

    def _static_blocks(self, row: int) -> Iterator[ChannelBlock]:
        channel = 0
        for source in self._static:
            yield slice(channel, channel + source.shape[-1]), hdf5.read(source, row)
            channel += source.shape[-1]


def _batched_card(path: Path, file: h5py.File, config_name: object, family: str | None) -> Card:
    stored = {name for name in file if hdf5.has(file, name, h5py.Dataset)}
    missing = [sorted({*card.datasets, *card.static, BATCH_TIMES} - stored) for card in BATCHED_CARDS]
    candidates = [card for card, lacks in zip(BATCHED_CARDS, missing, strict=True) if not lacks]
    if not candidates:
        card = BATCHED_CARDS[0]
        raise UserError(
            "missing_dataset",
            f"{path.name} lacks {', '.join(missing[0])} of {card.family}",
            got=sorted(stored)[:12],
            expected=[*card.datasets, *card.static, BATCH_TIMES],
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
    found = hdf5.float_dataset(file, BATCH_TIMES, 2)
    if found.shape[0] != count:
        raise UserError("wrong_axis", f"{found.name} has not one row a trajectory", got=found.shape, expected=count)
    if len(hdf5.unwritten(found)):
        raise UserError("never_written", f"{found.name} was never written")
    table = hdf5.read(found, ()).astype(np.float64)
    if not np.isfinite(table).all():
        raise UserError("wrong_axis", f"{found.name} holds values that are not finite")
    if not np.allclose(table, table[0], rtol=1e-5, atol=1e-7):
        raise UserError("ragged", "the trajectories are not given at the same times")
    return times_of(table[0], frames, BATCH_TIMES)


def matches_grouped(file: h5py.File) -> bool:
    """Whether everything in the file is a group."""
    return len(file) > 0 and all(hdf5.has(file, name, h5py.Group) for name in file)


class GroupedFile(PdebenchSource):
    """The layout of diffusion-sorption, shallow water and 2-D reaction-diffusion.

    Groups are named after their seed; the rows are in the order of their names. Some families store y before x: the
    card says so, and trajectories come out as (T, X, Y, C).
    """

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
        card = card or _grouped_card(path, file, first, given.family)
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

    def _blocks(self, start: int, stop: int, frames: slice) -> Iterator[ChannelBlock]:
        if stop - start == 1:
            yield slice(None), hdf5.read(self._data(start), frames)[None]
        else:
            yield slice(None), np.stack([hdf5.read(self._data(row), frames) for row in range(start, stop)])

    def _static_blocks(self, row: int) -> Iterator[ChannelBlock]:
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


def _grouped_card(path: Path, file: h5py.File, group: h5py.Group, family: str | None) -> Card:
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
