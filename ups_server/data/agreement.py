"""Two stores that are to stand for one problem: some trajectories of it to train on, others held out."""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.source import TrajectorySource
from ups_server.data.store import Store
from ups_server.errors import UserError

TOLERANCE = 1e-4
"""Relative difference of extents and frame spacings that rounding in float32 files explains."""


def check_agreement(training: TrajectorySource, held_out: TrajectorySource) -> None:
    """The same equation, fields, grid, boundary and frame spacing; rows, frames and coefficients may differ.

    Raises:
        UserError: ``validation_file_mismatch``, with the property in which they differ.
    """
    expected, got = dict(_properties(training)), dict(_properties(held_out))
    for name, value in expected.items():
        if not _same(got[name], value):
            raise UserError(
                "validation_file_mismatch",
                f"the validation file differs from the training file in its {name}",
                got=got[name],
                expected=value,
                hint="give trajectories of the same problem, or none: a part of the training file is then held out",
            )


def check_disjoint(training: Store, rows: Iterable[int], held_out: Store) -> None:
    """No trajectory that is trained on (`rows`) may be held out: one first frame under the same coefficients tells.

    Raises:
        UserError: ``validation_file_overlaps``.
    """
    trained = set(_fingerprints(training, rows))
    shared = [row for row, found in enumerate(_fingerprints(held_out, range(len(held_out)))) if found in trained]
    if shared:
        first = int(held_out.row_numbers.numbers[shared[0]])
        raise UserError(
            "validation_file_overlaps",
            "the validation file holds trajectories that would be trained on",
            got=f"{len(shared)} of {len(held_out)}, the first is row {first}",
            expected="trajectories from other initial states",
        )


def _properties(source: TrajectorySource) -> Iterator[tuple[str, Any]]:
    yield "equation", source.family
    yield "fields", [*source.fields, *source.static_fields]
    yield "coefficients' names", list(source.coefficient_names)
    yield "number of points", list(source.grid.n)
    yield "extent", [list(sides) for sides in source.grid.extent]
    yield "place of the points in their cells", list(source.grid.offset)
    yield "boundary", source.boundary.as_names()
    yield "frame spacing", _spacing(source.times)


def _same(got: Any, expected: Any) -> bool:
    if got == expected:
        return True
    numbers = all(isinstance(value, float) for value in np.ravel(np.asarray(expected)).tolist())
    if not numbers or np.shape(got) != np.shape(expected):
        return False
    scale = float(np.abs(expected).max())
    return bool(np.allclose(got, expected, rtol=0, atol=TOLERANCE * scale))


def _spacing(times: NDArray[np.float64]) -> float:
    return float(times[-1] - times[0]) / max(len(times) - 1, 1)


def _fingerprints(store: Store, rows: Iterable[int]) -> Iterator[bytes]:
    for row in rows:
        (first,) = store.frames(int(row), [0])
        static = store.static_view(int(row))
        parts = (first, store.coefficients[int(row)], *(() if static is None else (static,)))
        yield sha256(b"".join(part.tobytes() for part in parts)).digest()
