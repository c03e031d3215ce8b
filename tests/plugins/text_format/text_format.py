"""A format from another package: the values of a 1-D family as text, below a line with the header as JSON."""

import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats.base import Exporter, Format, Given, Header, damage_named
from ups_server.data.formats.description import ArraySource
from ups_server.data.source import Readable, RowProgress, TrajectorySource, pieces
from ups_server.errors import UserError

MARK, END = "# trajectories ", "# end"


class TextFormat(Format):
    name = "text"

    def matches(self, path: Path, first: bytes) -> bool:
        return first.startswith(MARK.encode())

    def open(self, path: Path, given: Given) -> TrajectorySource:
        with damage_named(path):
            return TextSource(path, given)


class TextExporter(Exporter):
    format = "text"
    suffixes = (".txt",)
    media_type = "text/plain"

    def write(
        self, target: Path | BinaryIO, header: Header, values: Readable, progress: RowProgress | None = None
    ) -> None:
        if header.grid.ndim > 1:
            raise UserError("no_layout", "text holds 1-D trajectories only")
        document = {**header.document(), "count": header.count, "x": header.grid.axes[0].tolist()}
        lines = [MARK + json.dumps(document)]
        for _, _, block in pieces(values, progress=progress):
            lines += [" ".join(map(repr, row)) for row in block.reshape(-1, len(values.fields)).tolist()]
        content = "\n".join([*lines, END]).encode()
        if isinstance(target, Path):
            target.write_bytes(content)
        else:
            target.write(content)


class TextSource(ArraySource):
    layout = "text"

    def __init__(self, path: Path, given: Given) -> None:
        first, *rest, last = path.read_text().splitlines()
        if last != END:
            raise UserError("truncated", f"{path.name} has no end")
        entries = json.loads(first.removeprefix(MARK))
        equation = given.equation(path, entries["family"])
        coefficients = {name: np.asarray(value, np.float64) for name, value in entries["coefficients"].items()}
        times, axes = np.asarray(entries["times"], np.float64), {"x": np.asarray(entries["x"], np.float64)}
        count = entries["count"]
        super().__init__(path, equation, entries, times, axes, coefficients, count, given.coefficients)
        table = np.array([line.split() for line in rest], np.float32)
        self._data = table.reshape(count, len(times), *self.grid.n, len(self.fields))

    def close(self) -> None:
        """Nothing stays open."""

    def _values(self, channel: int, row: int, frames: slice, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        where: tuple[Any, ...] = (row, frames, *space, channel)
        return np.asarray(self._data[where])

    def _static(self, channel: int, row: int, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        raise UserError("missing_dataset", "text holds no static fields")
