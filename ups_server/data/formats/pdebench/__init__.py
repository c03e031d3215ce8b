"""PDEBench's HDF5: three layouts, each with a reader and a writer."""

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py

from ups_server.data.formats import hdf5
from ups_server.data.formats.base import Format, Given
from ups_server.data.formats.pdebench.card import BATCHED, GROUPED, SINGLE, Card
from ups_server.data.formats.pdebench.layouts import (
    BatchedFile,
    GroupedFile,
    SingleFile,
    matches_batched,
    matches_grouped,
    matches_single,
)
from ups_server.data.formats.pdebench.reading import PdebenchSource
from ups_server.errors import UserError

LayoutReader = Callable[[Path, h5py.File, Given, Card | None], PdebenchSource]

RECOGNISED: tuple[tuple[Callable[[h5py.File], bool], LayoutReader], ...] = (
    (matches_batched, BatchedFile),
    (matches_single, SingleFile),
    (matches_grouped, GroupedFile),
)
"""How a layout is recognised, and its reader; the first that matches."""

READERS: Mapping[str, LayoutReader] = {
    SINGLE: SingleFile,
    GROUPED: GroupedFile,
    BATCHED: BatchedFile,
}


class PdebenchFormat(Format):
    """Any of the layouts. It takes every file that no other format takes: what is no HDF5 at all says so itself."""

    name = "pdebench"
    hdf5 = True
    names_axes = False

    def matches(self, path: Path, first: bytes) -> bool:
        return path.is_file()

    def open(self, path: Path, given: Given) -> PdebenchSource:
        return open_pdebench(path, given)


def open_pdebench(path: Path, given: Given, card: Card | None = None) -> PdebenchSource:
    """Open a file in any of PDEBench's layouts, recognised by structure.

    Args:
        card: how the file looks, where the user says so: nothing is guessed then.

    Raises:
        UserError: ``unknown_layout``, and whatever the layout's reader finds wrong.
    """
    file = hdf5.open_file(path)
    with hdf5.closed_on_error(file):
        reader = _reader(path, file) if card is None else READERS[card.layout]
        return reader(path, file, given, card)


def _reader(path: Path, file: h5py.File) -> LayoutReader:
    for matches, reader in RECOGNISED:
        if matches(file):
            return reader
    raise UserError(
        "unknown_layout",
        f"{path.name} is in no known layout",
        got=sorted(file)[:8],
        expected="datasets with t-coordinate beside them, one group a trajectory with data and grid, or velocity, "
        "particles, force and t",
    )
