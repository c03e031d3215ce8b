"""PDEBench's files: one reader a layout."""

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py

from ups_server.data import hdf5
from ups_server.data.pdebench import batched, grouped, single
from ups_server.data.pdebench.card import BATCHED, GROUPED, SINGLE, Card
from ups_server.data.pdebench.reading import PdebenchSource
from ups_server.errors import UserError

Reader = Callable[[Path, h5py.File, str | None, Mapping[str, float] | None, Card | None], PdebenchSource]

LAYOUTS: tuple[tuple[Callable[[h5py.File], bool], Reader], ...] = (
    (batched.matches, batched.BatchedFile),
    (single.matches, single.SingleFile),
    (grouped.matches, grouped.GroupedFile),
)
"""How a layout is recognised, and its reader; the first that matches."""

READERS: Mapping[str, Reader] = {
    SINGLE: single.SingleFile,
    GROUPED: grouped.GroupedFile,
    BATCHED: batched.BatchedFile,
}


def open_pdebench(
    path: Path, family: str | None, coefficients: Mapping[str, float] | None, card: Card | None = None
) -> PdebenchSource:
    """Open a file in any of PDEBench's layouts, recognised by structure.

    Args:
        card: how the file looks, where the user says so: nothing is guessed then.

    Raises:
        UserError: ``unknown_layout``, and whatever the layout's reader finds wrong.
    """
    file = hdf5.open_file(path)
    try:
        reader = _reader(path, file) if card is None else READERS[card.layout]
        return reader(path, file, family, coefficients, card)
    except BaseException:
        file.close()
        raise


def _reader(path: Path, file: h5py.File) -> Reader:
    for matches, reader in LAYOUTS:
        if matches(file):
            return reader
    raise UserError(
        "unknown_layout",
        f"{path.name} is in no known layout",
        got=sorted(file)[:8],
        expected="datasets with t-coordinate beside them, one group a trajectory with data and grid, or velocity, "
        "particles, force and t",
    )
