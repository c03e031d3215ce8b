"""What a format of trajectory files is to the rest: how its files are recognised and read."""

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ups_server.data.source import TrajectorySource
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.registry import known_family


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


UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    TypeError,
    IndexError,
    AttributeError,
    zipfile.BadZipFile,
)
"""What libraries raise on files that are damaged or of another format."""


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """What libraries raise in the block becomes a UserError ``unreadable``."""
    try:
        yield
    except UNREADABLE as error:
        raise UserError("unreadable", f"{path.name} is damaged or of another format") from error
