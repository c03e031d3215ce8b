"""Rows of a source: their numbers in the file, and one of them with all that is needed to read it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.state import Trajectory

if TYPE_CHECKING:
    from ups_server.data.source import TrajectorySource


class LeftOut(BaseModel):
    """Rows of a file that are not used, by their numbers in the file, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class RowNumbers:
    """The numbers that rows of a source have in their file, where some rows of the file are left out.

    Attributes:
        numbers: (N,) the number in the file of each row of the source.
        left_out: number in the file -> why that row is not in the source.
        unrecorded: rows that an earlier version left out without saying which, all behind the last of `left_out`:
            numbers from there on are not known.
    """

    numbers: NDArray[np.int64]
    left_out: Mapping[int, str] = field(default_factory=dict)
    unrecorded: int = 0

    @classmethod
    def without(cls, left_out: Mapping[int, str], count: int, unrecorded: int = 0) -> Self:
        """Those of `count` rows that are what a file holds beside `left_out`."""
        kept = np.ones(count + len(left_out), bool)
        kept[[row for row in left_out if row < len(kept)]] = False
        return cls(np.flatnonzero(kept).astype(np.int64), left_out, unrecorded)

    def chosen(self, places: NDArray[np.int64], left_out: Mapping[int, str] | None = None) -> "RowNumbers":
        """Those of some rows of the source; `left_out`, by place in the source, joins what was left out before."""
        more = {int(self.numbers[place]): reason for place, reason in (left_out or {}).items()}
        return RowNumbers(self.numbers[places], {**self.left_out, **more}, self.unrecorded)

    def place(self, number: int, name: str) -> int:
        """Where the row with this number stands in the source.

        Raises:
            UserError: ``unusable_row`` where it was left out, ``row_out_of_range``, or ``unknown_row``.
        """
        if number in self.left_out:
            raise unusable_row(number, name, self.left_out[number])
        if self.unrecorded and number > max(self.left_out, default=-1):
            raise UserError(
                "unknown_row",
                f"an earlier version left {self.unrecorded} trajectories of {name} out without recording which",
                got=number,
                hint="upload the file again",
            )
        found = np.flatnonzero(self.numbers == number)
        if not len(found):
            total = len(self.numbers) + len(self.left_out)
            raise UserError(
                "row_out_of_range", f"{name} has no trajectory {number}", got=number, expected=f"0 to {total - 1}"
            )
        return int(found[0])


def unusable_row(number: int, name: str, reason: str) -> UserError:
    return UserError(
        "unusable_row", f"trajectory {number} of {name} cannot be used: {reason}", got=number, hint="choose another one"
    )


def grouped(left_out: Mapping[int, str]) -> tuple[LeftOut, ...]:
    """The rows of each reason together, in order."""
    rows: dict[str, list[int]] = {}
    for number, reason in sorted(left_out.items()):
        rows.setdefault(reason, []).append(number)
    return tuple(LeftOut(reason=reason, rows=tuple(numbers)) for reason, numbers in rows.items())


def by_row(groups: Iterable[LeftOut]) -> dict[int, str]:
    """Number in the file -> reason."""
    return {row: group.reason for group in groups for row in group.rows}


def coefficient_faults(family: Family, table: NDArray[np.float64]) -> dict[int, str]:
    """Row -> what is wrong with its coefficients (N, K): not finite, or outside the physical domain."""
    faults: dict[int, str] = {}
    for coefficient, column in zip(family.coefficients, table.T, strict=True):
        low, high = coefficient.domain
        inside = np.isfinite(column) & ((column > low) if coefficient.low_open else (column >= low)) & (column <= high)
        for row in np.flatnonzero(~inside).tolist():
            faults.setdefault(row, f"its coefficient {coefficient.name} is {column[row]:g}, outside its domain")
    return faults


def place_of(source: "TrajectorySource", number: int, name: str) -> int:
    """Where the row that the file calls `number` stands in `source`.

    Raises:
        UserError: ``unusable_row`` or ``row_out_of_range``.
    """
    place = source.row_numbers.place(number, name)
    if place in source.row_faults:
        raise unusable_row(number, name, source.row_faults[place])
    return place


def trajectory_of(source: "TrajectorySource", index: int) -> Trajectory:
    """Row `index` of the source with all that is needed to read it."""
    static = source.read_static([index])
    return Trajectory(
        source.family,
        source.read([index])[0],
        source.times,
        source.grid,
        source.boundary,
        dict(zip(source.coefficient_names, source.coefficients[index].tolist(), strict=True)),
        None if static is None else static[0],
    )


def summary(left_out: Mapping[int, str]) -> list[dict[str, Any]]:
    """`grouped` as plain JSON values, for reports."""
    return [group.model_dump(mode="json") for group in grouped(left_out)]
