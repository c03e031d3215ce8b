"""Which trajectories are held out: decided by row number alone.

PDEBench's initial states are the same in every file of advection and Burgers, row by row. A split that depends on
anything but the row would train on one file's copy of a state and test on another's.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.data.source import TrajectorySource
from ups_server.data.store import Store
from ups_server.errors import UserError


class Split(StrEnum):
    """What a trajectory may be used for."""

    TRAIN = "train"
    VALIDATION = "validation"
    """Chooses the best checkpoint."""
    CALIBRATION = "calibration"
    """Sizes the error envelopes; chooses nothing."""
    TEST = "test"


FRACTIONS: dict[Split, float] = {
    Split.TRAIN: 0.8,
    Split.VALIDATION: 0.05,
    Split.CALIBRATION: 0.075,
    Split.TEST: 0.075,
}


def split_rows(count: int, split: Split, seed: int = 0) -> NDArray[np.int64]:
    """The rows of `split` among the first `count` rows, ascending.

    A row's split never depends on `count`: longer files only add rows.
    """
    position = _uniform(np.arange(count, dtype=np.uint64), seed)
    edges = np.cumsum([FRACTIONS[member] for member in Split])
    which = np.searchsorted(edges[:-1], position, side="right")
    return np.flatnonzero(which == list(Split).index(split)).astype(np.int64)


@dataclass(frozen=True)
class FewShotSplit:
    """Row numbers, each ascending; disjoint, or those of validation and test are of another file."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


MAX_VALIDATION = 32
"""Validation trajectories of an adaptation at most: they are rolled out many times."""


def few_shot_split(count: int, k: int, seed: int = 0) -> FewShotSplit:
    """`k` training rows of `count`; a quarter of the rest, at most `MAX_VALIDATION`, is validation, the others test.

    Rows are taken in the order of the number that divides the splits above, so that training rows are training rows
    there too as long as k allows, and the same in every file.

    Raises:
        UserError: ``too_few_trajectories``.
    """
    if count < k + 2:
        raise UserError(
            "too_few_trajectories",
            "besides those to train on, one trajectory for validation and one for the test are needed",
            got=count,
            expected=f"at least {k + 2} usable trajectories",
        )
    order = _order(count, seed)
    parts = np.split(order, [k, k + _validation(count - k)])
    return FewShotSplit(*(np.sort(part) for part in parts))


def held_out_split(count: int, k: int, held_out: int, seed: int = 0) -> FewShotSplit:
    """`k` training rows of `count`, in the same order; validation and test share the `held_out` rows of another file.

    Raises:
        UserError: ``too_few_trajectories``.
    """
    if count < k:
        raise UserError(
            "too_few_trajectories",
            "the training file holds fewer trajectories than are to be trained on",
            got=count,
            expected=f"at least {k} usable trajectories",
        )
    if held_out < 2:
        raise UserError(
            "too_few_trajectories",
            "the validation file needs one trajectory for validation and one for the test",
            got=held_out,
            expected="at least 2 usable trajectories",
        )
    validation, test = np.split(_order(held_out, seed), [_validation(held_out)])
    return FewShotSplit(np.sort(_order(count, seed)[:k]), np.sort(validation), np.sort(test))


def _order(count: int, seed: int) -> NDArray[np.int64]:
    return np.argsort(_uniform(np.arange(count, dtype=np.uint64), seed), kind="stable").astype(np.int64)


def _validation(held_out: int) -> int:
    return min(MAX_VALIDATION, max(1, held_out // 4))


def _uniform(rows: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """One number in [0, 1) a row: two rounds of the splitmix64 finaliser (Steele, Lea and Flood 2014)."""
    start = _splitmix64(np.array([seed], dtype=np.int64).view(np.uint64))
    mixed = _splitmix64(_splitmix64(rows) ^ start)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


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


def check_disjoint(training: Store, rows: Iterable[int], held_out: Store, most_bytes: int | None = None) -> None:
    """No trajectory that is trained on (`rows`) may be held out: one first frame under the same coefficients tells.

    Args:
        most_bytes: to read of each store, where not everything is to be compared.

    Raises:
        UserError: ``validation_file_overlaps``.
    """
    frame_bytes = 4 * math.prod(training.grid.n) * (len(training.fields) + len(training.static_fields))
    most = None if most_bytes is None else max(1, most_bytes // frame_bytes)
    trained = set(_fingerprints(training, islice(rows, most)))
    compared = _fingerprints(held_out, range(len(held_out))[:most])
    shared = [row for row, found in enumerate(compared) if found in trained]
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
