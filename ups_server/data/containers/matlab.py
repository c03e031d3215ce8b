"""MATLAB's files of version 5 (save without -v7.3): numeric matrices by name.

They are compressed as a whole, and the library reads no part of a variable: it is read whole when its first part is
asked for, and the last one is kept. What would be too large for that is refused.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.containers.base import MOST_ARRAYS, Container, Index, StoredArray
from ups_server.errors import UserError

KINDS = {
    "double": "f8", "single": "f4", "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8",
    "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8",
}  # fmt: skip
MOST_BYTES = 2**28
"""Of a variable."""


class _Variables:
    """Reads variables; remembers those that were asked for last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, NDArray[Any]] = {}

    def read(self, name: str) -> NDArray[Any]:
        from scipy.io import loadmat

        if name not in self._kept:
            found = loadmat(self._path, variable_names=[name], squeeze_me=False)[name]
            if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiuc":
                raise UserError("wrong_dtype", f"{name} in {self._path.name} holds no numbers")
            for other in [other for other in self._kept if self._kept[other].nbytes > 2**20]:
                del self._kept[other]
            self._kept[name] = found
        return self._kept[name]

    def clear(self) -> None:
        self._kept.clear()


def open_matlab(path: Path) -> Container:
    """Raises what scipy raises for damaged files."""
    from scipy.io import whosmat

    variables = _Variables(path)
    arrays = {}
    for name, shape, kind in whosmat(path)[:MOST_ARRAYS]:
        if kind in KINDS:
            dtype, lengths = np.dtype(KINDS[kind]), tuple(map(int, shape))
            arrays[name] = StoredArray(
                name, lengths, dtype, _part(variables, name, math.prod(lengths) * dtype.itemsize)
            )
    return Container("a MATLAB 5 file", arrays, close=variables.clear)


def _part(variables: _Variables, name: str, size: int) -> Any:
    def part(index: Index) -> NDArray[Any]:
        if size > MOST_BYTES:
            raise UserError(
                "unsupported_storage",
                f"{name} is too large to be read from a MATLAB 5 file, of which no part can be read alone",
                got=f"{size / 2**20:.0f} MiB",
                expected=f"at most {MOST_BYTES // 2**20} MiB",
                hint="save it with -v7.3, of which parts are read",
            )
        found = variables.read(name)
        if found.dtype.kind == "c":
            raise UserError("wrong_dtype", f"{name} holds complex numbers", expected="real numbers")
        return np.asarray(found[index])

    return part
