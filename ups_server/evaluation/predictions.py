"""The predictions file of an evaluation: what was predicted beside the truth, so that anyone can recompute the scores.

HDF5. With one input file the datasets lie at the root, with several each has a group of the file's name:
`truth` and `rollout` (N, T, X..., C), `one_step` (N, T-1, X..., C; absent where it is not defined), float32 in physical
units, and `rows` (N), the numbers of the trajectories in their file; `rollout[:, 0]` is the given state,
`one_step[:, t]` predicts `truth[:, t + 1]` from `truth[:, t]`. Attributes: `fields`, `dt`, `family`, `coefficients`
(JSON), `model`, `file`.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups_server.errors import UserError
from ups_server.solvers.solver import Frames

PARTIAL = ".part"


@dataclass(frozen=True)
class PredictionsGroup:
    """The datasets of one input file."""

    group: Any
    trajectories: int

    def describe(self, attributes: Mapping[str, Any], coefficients: Mapping[str, Any], rows: Sequence[int]) -> None:
        """Writes the attributes, and the numbers of the trajectories in their file."""
        self.group["rows"] = list(rows)
        self.group.attrs.update(attributes)
        self.group.attrs["coefficients"] = json.dumps(dict(coefficients))

    def write(self, start: int, truth: Frames, rollout: Frames, one_step: Frames | None) -> None:
        """Writes trajectories `start` … as far as the arrays (B, T, X..., C) go."""
        for name, values in (("truth", truth), ("rollout", rollout), ("one_step", one_step)):
            if values is not None:
                shape = (self.trajectories, *values.shape[1:])
                dataset = self.group.require_dataset(name, shape, "f4", exact=True)
                dataset[start : start + len(values)] = values


class PredictionsFile:
    """An open predictions file."""

    def __init__(self, file: Any, paths: Sequence[Path]) -> None:
        self._file = file
        self._names = _group_names(paths)

    def group(self, index: int, trajectories: int) -> PredictionsGroup:
        """The place of the index-th input file."""
        group = self._file if len(self._names) == 1 else self._file.require_group(self._names[index])
        return PredictionsGroup(group, trajectories)


@contextmanager
def predictions_file(path: Path | None, inputs: Sequence[Path]) -> Iterator[PredictionsFile | None]:
    """Opens `path` for writing; the file takes its name only when everything has been written.

    Raises:
        UserError: ``unwritable_file`` where the folder does not exist or cannot be written.
    """
    if path is None:
        yield None
        return
    import h5py

    partial = path.with_name(path.name + PARTIAL)
    try:
        file = h5py.File(partial, "w")
    except OSError as error:
        raise UserError("unwritable_file", f"cannot write {path}", got=str(error)) from error
    try:
        with file:
            yield PredictionsFile(file, inputs)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _group_names(paths: Sequence[Path]) -> list[str]:
    """One name a file: its own, numbered where several files share it."""
    names = [path.stem for path in paths]
    return [name if names.count(name) == 1 else f"{name}-{index}" for index, name in enumerate(names)]
