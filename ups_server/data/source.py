"""Trajectories, wherever they come from."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats import Container, container_of
from ups_server.data.rows import RowNumbers
from ups_server.data.store import Frames, Rows, Store
from ups_server.errors import UserError
from ups_server.pde.grid import BoundaryCondition, Grid
from ups_server.pde.state import Trajectory

if TYPE_CHECKING:
    from ups_server.data.arrays import ArraySource
    from ups_server.data.pdebench.reading import PdebenchSource

BLOCK_BYTES = 64 * 2**20
"""What one streaming read aims to hold at most."""
STORE_FILES = ("manifest.json", "writing.json")
"""What a folder that is a store, or is becoming one, holds."""


class TrajectorySource(Protocol):
    """Trajectories of one family on one grid, read lazily. Files and our own `Store` look alike through it."""

    @property
    def layout(self) -> str:
        """How it is stored, for reports."""
        ...

    @property
    def family(self) -> str: ...
    @property
    def fields(self) -> tuple[str, ...]: ...
    @property
    def static_fields(self) -> tuple[str, ...]: ...
    @property
    def coefficient_names(self) -> tuple[str, ...]: ...
    @property
    def coefficients(self) -> NDArray[np.float64]:
        """(N, K), columns in the order of `coefficient_names`, which is the family's."""
        ...

    @property
    def grid(self) -> Grid: ...
    @property
    def times(self) -> NDArray[np.float64]: ...
    @property
    def boundary(self) -> BoundaryCondition: ...
    @property
    def n_trajectories(self) -> int: ...
    @property
    def row_numbers(self) -> RowNumbers:
        """The numbers that the rows have in their file; `read` and `trajectory` take places in the source."""
        ...

    @property
    def row_faults(self) -> Mapping[int, str]:
        """Row -> why it cannot be used, as far as coefficients and storage tell before a value is read."""
        ...

    @property
    def chunk_rows(self) -> int:
        """Rows that are stored together: streams read multiples of it."""
        ...

    @property
    def chunk_frames(self) -> int:
        """Frames that are stored together."""
        ...

    def read(self, rows: Rows, frames: Frames = slice(None), stride: int = 1, first: int = 0) -> NDArray[np.float32]:
        """(len(rows), len(frames), X..., C) in physical units, every `stride`-th point from point `first` on."""
        ...

    def read_static(self, rows: Rows, stride: int = 1, first: int = 0) -> NDArray[np.float32] | None:
        """(len(rows), X..., S) fields that do not change in time, None for families without."""
        ...

    def trajectory(self, index: int) -> Trajectory:
        """One row with all that is needed to read it."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def open_source(
    path: str | os.PathLike[str], family: str | None = None, coefficients: Mapping[str, float] | None = None
) -> TrajectorySource:
    """Open a file or store of trajectories, or several files as one by a pattern such as `ns_incom_*.h5`.

    The layout is recognised by its structure; the family is what the user, the file's attributes and its name say,
    which must agree with one another and with the structure.

    Args:
        family: its id, needed where the file does not say.
        coefficients: needed where the file does not say.

    Raises:
        UserError: one clear sentence about what is missing, contradictory or broken.
    """
    file = Path(path)
    if not file.exists():
        found = matching(file)
        if not found:
            raise UserError("not_found", f"there is no file {file}")
        from ups_server.data.chain import ChainedSource

        return ChainedSource([partial(open_source, part, family, coefficients) for part in found])
    if not file.is_dir():
        return open_content(file, family, coefficients)
    if file.suffix.lower() == ".zarr" or (file / "zarr.json").is_file():
        from ups_server.data.arrays import open_zarr

        return open_zarr(file, family, coefficients)
    if not any((file / name).is_file() for name in STORE_FILES):
        raise UserError(
            "unknown_layout",
            f"{file.name} is a folder, but neither a store nor Zarr",
            hint=f'its files are read as one by a pattern, such as "{file.name}/*.h5"',
        )
    store = Store.open(file)
    if family is not None and family != store.family:
        raise UserError("family_mismatch", f"{file.name} holds another family", got=family, expected=store.family)
    return store


def open_content(
    path: Path, family: str | None = None, coefficients: Mapping[str, float] | None = None
) -> "PdebenchSource | ArraySource":
    """Open one file: its content, not its suffix, says how it is read.

    Raises:
        UserError: as `open_source`.
    """
    from ups_server.data import arrays, pdebench

    if container_of(path) is Container.NPZ:
        return arrays.open_npz(path, family, coefficients)
    if is_named_arrays(path):
        return arrays.open_netcdf(path, family, coefficients)
    return pdebench.open_pdebench(path, family, coefficients)


def is_named_arrays(path: Path) -> bool:
    """Whether the file is NetCDF or npz, which name their variables and axes."""
    from ups_server.data import hdf5

    if container_of(path) is Container.NPZ:
        return True
    with hdf5.open_file(path) as file:
        return hdf5.is_netcdf(file)


def matching(pattern: Path) -> list[Path]:
    """The files whose name fits a pattern with `*`, in the order of the numbers in their names."""
    if "*" not in pattern.name or not pattern.parent.is_dir():
        return []
    return sorted(pattern.parent.glob(pattern.name), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for text, part in re.findall(r"([^0-9]*)([0-9]*)", path.name)]


def pieces(
    source: TrajectorySource, bytes_at_most: int = BLOCK_BYTES
) -> Iterator[tuple[range, slice, NDArray[np.float32]]]:
    """All values in order, as (rows, frames, values (n, F, X..., C)) of bounded size, however large a row is.

    Rows whole where they fit, else one row in several pieces; both aligned with the file's chunks.
    """
    for rows in block_rows(source, bytes_at_most):
        for frames in frame_slices(source, bytes_at_most) if len(rows) == 1 else (slice(0, len(source.times)),):
            yield rows, frames, source.read(rows, frames)


def frame_slices(source: TrajectorySource, bytes_at_most: int = BLOCK_BYTES) -> Iterator[slice]:
    """The frames of one row in slices of bounded size."""
    count = max(1, bytes_at_most // (4 * int(np.prod(source.grid.n)) * len(source.fields)))
    if count > source.chunk_frames:
        count -= count % source.chunk_frames
    for start in range(0, len(source.times), count):
        yield slice(start, min(start + count, len(source.times)))


def blocks(source: TrajectorySource, bytes_at_most: int = BLOCK_BYTES) -> Iterator[tuple[range, NDArray[np.float32]]]:
    """All rows in order, in blocks (rows, values (n, T, X..., C)) of bounded size, aligned with the file's chunks."""
    for rows in block_rows(source, bytes_at_most):
        yield rows, source.read(rows)


def block_rows(source: TrajectorySource, bytes_at_most: int = BLOCK_BYTES) -> Iterator[range]:
    """The rows of each block."""
    row_bytes = 4 * len(source.times) * int(np.prod(source.grid.n)) * len(source.fields)
    count = max(1, bytes_at_most // row_bytes)
    if count > source.chunk_rows:
        count -= count % source.chunk_rows
    for start in range(0, source.n_trajectories, count):
        yield range(start, min(start + count, source.n_trajectories))
