"""What a format of trajectory files is to the rest: how files are recognised and read, and how they are written."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from ups_server.data.source import FrameIndices, Readable, RowProgress, Rows, TrajectorySource
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition, Grid
from ups_server.pde.registry import known_family

FIRST_BYTES = 4096
ZARR_ROOT = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
"""What lies in the root of a Zarr hierarchy, of version 3 or 2."""


@dataclass(frozen=True)
class Given:
    """What the user says about a file.

    Attributes:
        family: its id, needed where the file does not say, and what the file must agree with where it does.
        coefficients: likewise.
    """

    family: str | None = None
    coefficients: Mapping[str, float] = field(default_factory=dict)

    def equation(self, path: Path, stored: object) -> Family:
        """The family that the user and the file (`stored`) name.

        Raises:
            UserError: ``family_unknown`` or ``family_mismatch``.
        """
        stored = stored if isinstance(stored, str) else None
        if stored is None and self.family is None:
            raise UserError("family_unknown", f"{path.name} does not say which family it holds", hint="name the family")
        if None not in (stored, self.family) and stored != self.family:
            raise UserError("family_mismatch", f"{path.name} holds another family", got=self.family, expected=stored)
        return known_family(self.family or stored or "")


class Format(ABC):
    """How files of one kind are read. Stateless; a plug-in's is registered under `ups_server.formats`.

    Attributes:
        name: of the format.
        hdf5: are its files HDF5? The structure of such an upload is examined before anything reads it.
        names_axes: do its files name their axes, so that a user cannot declare others?
    """

    name: ClassVar[str]
    hdf5: ClassVar[bool] = False
    names_axes: ClassVar[bool] = True

    @abstractmethod
    def matches(self, path: Path, first: bytes) -> bool:
        """Is it the format of this file or folder? `first`: the first bytes of a file, none of a folder.

        Raises nothing for files of other formats, however damaged they are.
        """

    @abstractmethod
    def open(self, path: Path, given: Given) -> TrajectorySource:
        """Open it; values are read when they are asked for.

        Raises:
            UserError: one clear sentence about what is missing, contradictory or broken.
        """


@contextmanager
def damage_named(path: Path, said: str = "is damaged or of another format") -> Iterator[None]:
    """What libraries raise in the block becomes a UserError ``unreadable``."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each library has its own for files that are damaged: SyntaxError of an npz's header
        raise UserError("unreadable", f"{path.name} {said}") from error


AXIS_NAMES = ("x", "y", "z")


LONGEST_ATTRIBUTE = 2**15
"""Bytes: HDF5 stores no attribute of 64 KiB or more; texts that are longer than this become variables."""


CoefficientValues = Mapping[str, "float | NDArray[np.float64]"]
"""By name: one number, or one a trajectory (B,)."""


@dataclass(frozen=True)
class Header:
    """Everything about trajectories but their values.

    Attributes:
        times: (T,)
        count: trajectories B.
        attributes: whatever else belongs to the result (model, flags, ...); JSON values.
        batched: whether the trajectory axis is kept; dropping it needs B = 1.
        boundary: where it is not the family's own.
    """

    family: Family
    grid: Grid
    times: NDArray[np.float64]
    coefficients: CoefficientValues
    count: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    batched: bool = True
    boundary: BoundaryCondition | None = None

    @property
    def sides(self) -> list[list[str]]:
        """The boundary condition by name."""
        return (self.boundary or self.family.boundary).as_names()

    @property
    def shape(self) -> tuple[int, ...]:
        """([B,] T, X..., C), as it is written."""
        shape = (self.count, len(self.times), *self.grid.n, len(self.family.fields))
        return shape if self.batched else shape[1:]

    def axes(self) -> dict[str, NDArray[np.float64]]:
        """Coordinates by axis name."""
        return dict(zip(AXIS_NAMES, self.grid.axes, strict=False))

    def document(self) -> dict[str, Any]:
        """The header as JSON; `attributes` are merged in."""
        return {
            "family": self.family.id,
            "equation": self.family.equation,
            "fields": [entry.name for entry in self.family.fields],
            "units": [entry.unit for entry in self.family.fields],
            "coefficients": {name: np.asarray(value).tolist() for name, value in self.coefficients.items()},
            "times": self.times.tolist(),
            "time_unit": self.family.time_unit,
            "length_unit": self.family.length_unit,
            "grid": self.grid.as_json(),
            "boundary": self.sides,
            **self.attributes,
        }


class Exporter(ABC):
    """How trajectories are written in one format. Stateless; a plug-in's is registered under `ups_server.exporters`.

    Attributes:
        format: its name.
        suffixes: of the files it writes.
        media_type: of the bytes it writes; None where it writes a folder.
    """

    format: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    media_type: ClassVar[str | None]

    @abstractmethod
    def write(
        self, target: Path | BinaryIO, header: Header, values: Readable, progress: RowProgress | None = None
    ) -> None:
        """Write all of `values`, read in `ups_server.data.source.pieces` where that may be more than memory holds.

        Args:
            target: a path where nothing is yet, or a binary stream that can be read and sought in too.

        Raises:
            UserError: ``no_layout`` where the format has no place for them.
        """


class InMemory:
    """Values (B, T, X..., C) in memory, and static fields (B, X..., S) if given, as something `Readable`.

    Raises:
        UserError: ``wrong_shape`` where they do not fit the header.
    """

    chunk_rows = chunk_frames = 1

    def __init__(
        self, header: Header, values: NDArray[np.floating[Any]], static: NDArray[np.floating[Any]] | None = None
    ) -> None:
        self.fields = tuple(entry.name for entry in header.family.fields)
        self.grid, self.times, self.n_trajectories = header.grid, header.times, header.count
        expected = (header.count, len(header.times), *header.grid.n, len(self.fields))
        if values.shape != expected:
            raise UserError("wrong_shape", "the values do not fit the grid", got=values.shape, expected=expected)
        self._values, self._static = values, static
        self.static_fields = () if static is None else tuple(entry.name for entry in header.family.static_fields)

    def read(self, rows: Rows, frames: FrameIndices = slice(None)) -> NDArray[np.float32]:
        return self._values[np.asarray(rows, np.int64)][:, frames].astype(np.float32, copy=False)

    def read_static(self, rows: Rows) -> NDArray[np.float32] | None:
        return None if self._static is None else self._static[np.asarray(rows, np.int64)].astype(np.float32, copy=False)
