"""An array in a file, read a part at a time, and a file of such arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.composed import natural
from ups_server.errors import UserError

Index = tuple[int | slice, ...]
"""One entry an axis."""
MOST_ARRAYS = 4096
MOST_WHOLE = 2**24
"""Values of an array that is read whole, such as an axis."""


@dataclass(frozen=True)
class StoredArray:
    """An array of a file.

    Attributes:
        part: gives the values at an `Index`.
        axes: their names, where the file has names for them; else empty.
        attributes: small ones: numbers, texts, lists of them.
        unwritten: gives the indices along the first axis whose values are not all stored, where that can be.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    part: Callable[[Index], Any]
    axes: tuple[str, ...] = ()
    chunks: tuple[int, ...] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    unwritten: Callable[[], NDArray[np.int64]] | None = None

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=object))

    @property
    def numeric(self) -> bool:
        """Are these real numbers?"""
        return self.dtype.kind in "fiu"

    def read(self, index: Index) -> NDArray[Any]:
        """Raises UserError ``unreadable`` where the bytes are damaged."""
        try:
            return np.asarray(self.part(index))
        except (UserError, MemoryError):
            raise
        except Exception as error:  # each library has its own for data that are damaged
            raise UserError("unreadable", f"{self.name} cannot be read: its data are damaged") from error

    def whole(self) -> NDArray[np.float64]:
        """All values of a small array.

        Raises:
            UserError: ``wrong_dtype``, ``wrong_shape`` (too large), ``unreadable``.
        """
        if not self.numeric:
            raise UserError("wrong_dtype", f"{self.name} does not hold real numbers", got=str(self.dtype))
        if self.size > MOST_WHOLE:
            raise UserError("wrong_shape", f"{self.name} is too large for coordinates or numbers", got=self.shape)
        return self.read((slice(None),) * len(self.shape)).astype(np.float64)


@dataclass(frozen=True)
class Container:
    """An open file.

    Attributes:
        kind: what it is, as a sentence says it.
        arrays: by name; those in groups are called group/name.
        attributes: of the file: numbers, texts, lists of them.
        groups: attributes of its groups, by path, where it has groups.
    """

    kind: str
    arrays: Mapping[str, StoredArray]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def array(self, name: str) -> StoredArray:
        """An array; with `*` in its name those that fit it, such as `run_*/u`, one a trajectory along a first axis.

        Raises:
            UserError: ``missing_dataset``; ``ragged`` where they differ in shape or type.
        """
        if name not in self.arrays and "*" in name:
            return stacked(name, [self.arrays[each] for each in self.arrays if fnmatchcase(each, name)])
        if name not in self.arrays:
            raise UserError(
                "missing_dataset", f"the file has no array {name}", got=name, expected=list(self.arrays)[:32]
            )
        return self.arrays[name]


def stacked(name: str, members: Sequence[StoredArray]) -> StoredArray:
    """Arrays of one shape as one, with a first axis for them, in the order of the numbers in their names.

    Raises:
        UserError: ``missing_dataset``, ``ragged``.
    """
    if not members:
        raise UserError("missing_dataset", f"the file has no arrays {name}", got=name)
    members = sorted(members, key=lambda member: natural(member.name))
    first = members[0]
    for member in members:
        if (member.shape, member.dtype) != (first.shape, first.dtype):
            raise UserError(
                "ragged", f"the arrays {name} differ: {member.name} is not as {first.name}",
                got=[member.shape, str(member.dtype)], expected=[first.shape, str(first.dtype)],
            )  # fmt: skip

    def part(index: Index) -> NDArray[Any]:
        rows, rest = index[0], index[1:]
        if isinstance(rows, int):
            return members[rows].read(rest)
        return np.stack([member.read(rest) for member in members[rows]])

    def unwritten() -> NDArray[np.int64]:
        missing = [row for row, each in enumerate(members) if each.unwritten is not None and len(each.unwritten())]
        return np.array(missing, np.int64)

    axes = ("trajectory", *first.axes) if first.axes else ()
    shape = (len(members), *first.shape)
    chunks = None if first.chunks is None else (1, *first.chunks)
    return StoredArray(name, shape, first.dtype, part, axes, chunks, first.attributes, unwritten)


def plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that are numbers, texts or short lists of them, as plain values."""
    found = {}
    for name, value in attributes.items():
        value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        value = value.decode(errors="replace") if isinstance(value, bytes) else value
        if isinstance(value, list) and len(value) <= 64:
            value = [entry.decode(errors="replace") if isinstance(entry, bytes) else entry for entry in value]
        simple = value if isinstance(value, list) else [value]
        if len(simple) <= 64 and all(isinstance(entry, str | int | float) for entry in simple):
            found[str(name)] = value
    return found
