"""One file, one dataset a field over all trajectories: (N, T, X...), no channel axis; static fields (N, X...).

Coordinates are `x-coordinate`, `y-coordinate`, ... and `t-coordinate`, coefficients are attributes of the file. An
attribute may also be a list (N,): one number a trajectory. Steady families have one frame and no times.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from ups_server.data.formats import hdf5
from ups_server.data.formats.base import Given
from ups_server.data.formats.description import coefficient_table, grid_of, times_of
from ups_server.data.formats.pdebench.card import (
    CARDS,
    FAMILY,
    SINGLE,
    Card,
    Choice,
    attribute_coefficients,
    choose_card,
    family_of,
    named_card,
)
from ups_server.data.formats.pdebench.reading import Block, StackedSource
from ups_server.errors import UserError

BOUNDARY = "boundary"
"""Attribute of files of our own whose boundary condition is not the family's."""
SINGLE_CARDS = [card for card in CARDS if card.layout == SINGLE]
VALUES = {name for card in SINGLE_CARDS for name in (*card.datasets, *card.static)}
TIMES = "t-coordinate"


def matches(file: h5py.File) -> bool:
    """Whether the file has coordinates beside it and no groups: the structure, whatever is missing inside."""
    names = set(file)
    return any(name.endswith("-coordinate") for name in names) or any(names >= set(c.datasets) for c in SINGLE_CARDS)


class SingleFile(StackedSource):
    """The layout of advection, Burgers, 1-D reaction-diffusion, compressible Navier-Stokes and Darcy."""

    layout = "single file"

    def __init__(
        self,
        path: Path,
        file: h5py.File,
        given: Given,
        card: Card | None = None,
    ) -> None:
        choice = _choose(path, file, given.family) if card is None else Choice(card)
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

    def _blocks(self, start: int, stop: int, frames: slice) -> Iterator[Block]:
        for channel, source in enumerate(self._datasets):
            yield slice(channel, channel + 1), hdf5.read(source, (slice(start, stop), frames))[..., None]

    def _static_blocks(self, row: int) -> Iterator[Block]:
        for channel, source in enumerate(self._static):
            yield slice(channel, channel + 1), hdf5.read(source, row)[..., None]


def _choose(path: Path, file: h5py.File, family: str | None) -> Choice:
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
