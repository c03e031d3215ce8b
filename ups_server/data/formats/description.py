"""From what a file, its name and the user say to coefficients, grid and times, which all must agree.

`ArraySource` is the source of files whose arrays and axes have names.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats.base import AXIS_NAMES, damage_named
from ups_server.data.source import FileSource, FrameIndices, Rows, coefficient_faults
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition, BoundaryKind, Grid

Stored = Mapping[str, NDArray[np.float64]]
"""Coefficient -> one number, or one a trajectory."""


def by_coefficient(found: Iterable[tuple[str, NDArray[np.float64]]]) -> Stored:
    """One entry a coefficient: two spellings of it in one file must say the same.

    Raises:
        UserError: ``coefficient_mismatch``.
    """
    stored: dict[str, NDArray[np.float64]] = {}
    for name, column in found:
        before = stored.setdefault(name, column)
        if before.shape != column.shape or not np.allclose(before, column, rtol=1e-5, atol=0, equal_nan=True):
            raise UserError(
                "coefficient_mismatch",
                f"the file says {name} twice, in two spellings, and not the same",
                got=[before.ravel()[:4].tolist(), column.ravel()[:4].tolist()],
            )
    return stored


def coefficient_table(
    equation: Family, required: Iterable[str], count: int, stored: Stored, claims: Mapping[str, Mapping[str, float]]
) -> NDArray[np.float64]:
    """(N, K): the file gives one number, or a list of one a trajectory; what everybody says must agree.

    A list may hold numbers that are not finite or outside the domain: those rows cannot be used.

    Args:
        required: coefficients that must be known; the others default.
        claims: who else says so -> coefficients.

    Raises:
        UserError: ``wrong_attribute``, ``coefficient_mismatch``, and those of `merge_coefficients`.
    """
    lists = {name: column for name, column in stored.items() if column.size != 1}
    for name, column in lists.items():
        if len(column) != count or not count:
            raise UserError(
                "wrong_attribute", f"{name} has not one value a trajectory", got=len(column), expected=count
            )
        _check_lists(equation, name, column, claims)
    said = {
        who: {key: value for key, value in values.items() if canonical(equation, key, key) not in lists}
        for who, values in claims.items()
    }
    # The first number of a list that can be used stands for the others.
    said["the file"] = {name: _first_usable(equation, name, column) for name, column in stored.items()}
    merged = merge_coefficients(equation, required, said)
    table = np.tile(np.array(list(merged.values())), (count, 1))
    for name, column in lists.items():
        table[:, list(merged).index(name)] = column
    return table


def _check_lists(
    equation: Family, name: str, column: NDArray[np.float64], claims: Mapping[str, Mapping[str, float]]
) -> None:
    """Who gives one number for what the file lists must mean each of them."""
    for who, values in claims.items():
        for key, value in values.items():
            differs = [row for row, own in enumerate(column.tolist()) if not same_number(own, value)]
            if canonical(equation, key, key) == name and differs:
                raise UserError(
                    "coefficient_mismatch",
                    f"{who} and the file disagree about {name} of trajectory {differs[0]}",
                    got=value,
                    expected=float(column[differs[0]]),
                )


def _first_usable(equation: Family, name: str, column: NDArray[np.float64]) -> float:
    place = [coefficient.name for coefficient in equation.coefficients].index(name)
    table = np.tile([coefficient.default for coefficient in equation.coefficients], (len(column), 1))
    table[:, place] = column
    faults = coefficient_faults(equation, table)
    return float(next((column[row] for row in range(len(column)) if row not in faults), column[0]))


def same_number(first: float, second: float) -> bool:
    """Equal as far as file names and float32 attributes tell."""
    return abs(first - second) <= 1e-5 * max(abs(first), abs(second))


def merge_coefficients(
    family: Family, required: Iterable[str], claims: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """All coefficients of the family, from several that must agree.

    Args:
        required: those the file or the user must tell; the others default.
        claims: who says so -> coefficients.

    Raises:
        UserError: ``coefficient_mismatch``, ``coefficient_missing`` and those of `Family.complete`.
    """
    known: dict[str, float] = {}
    for who, values in claims.items():
        complete = family.complete(values)
        for name in {canonical(family, key) for key in values}:
            if name in known and not same_number(known[name], complete[name]):
                raise UserError(
                    "coefficient_mismatch",
                    f"{who} and the rest disagree about {name}",
                    got=complete[name],
                    expected=known[name],
                )
            known.setdefault(name, complete[name])
    missing = [name for name in required if canonical(family, name) not in known]
    if missing:
        raise UserError(
            "coefficient_missing", f"the file does not say {' and '.join(missing)}", hint="give the coefficients"
        )
    return family.complete(known)


def canonical(family: Family, key: str, unknown: str = "") -> str:
    """The coefficient's own name for one of its spellings."""
    spelt = (c.name for c in family.coefficients if key.lower() in {alias.lower() for alias in (c.name, *c.aliases)})
    return next(spelt, unknown)


def assumed_coefficients(family: Family, claims: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """The coefficients that nobody names."""
    named = {canonical(family, key, key) for names in claims for key in names}
    return tuple(coefficient.name for coefficient in family.coefficients if coefficient.name not in named)


SPACING_TOLERANCE = 0.02
"""How far a coordinate may lie from its place on the uniform axis, in spacings: float32 rounds coordinates."""
OFFSET_TOLERANCE = 1e-3
MAX_STRIDE = 512


def grid_of(family: Family, axes: list[NDArray[np.float64]], names: list[str]) -> Grid:
    """The grid with the given coordinates per axis; its extent is the family's.

    A file may be an integer-stride subsample of a cell-centred grid: its first point then lies closer to the edge
    than half its own spacing, and the grid's offset says so.

    Raises:
        UserError: ``wrong_axis``: not uniform, or not over the family's extent.
    """
    offsets = [
        _offset(axis, low, high, name, sides)
        for axis, (low, high), name, sides in zip(axes, family.extent, names, family.boundary.sides, strict=True)
    ]
    return Grid(tuple(len(axis) for axis in axes), family.extent, tuple(offsets))


def times_of(coordinates: NDArray[np.float64], frames: int, name: str) -> NDArray[np.float64]:
    """The times of `frames` frames; published files carry one time too many.

    Raises:
        UserError: ``wrong_axis``.
    """
    if len(coordinates) not in (frames, frames + 1):
        raise UserError(
            "wrong_axis", f"{name} does not fit the frames", got=len(coordinates), expected=f"{frames} or {frames + 1}"
        )
    times = coordinates[:frames]
    if frames > 1 and (np.diff(times) <= 0).any():
        raise UserError("wrong_axis", f"{name} does not increase")
    return _unrounded(times)


def _unrounded(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equally spaced times as they were before a file rounded them to float32."""
    if len(times) < 2:
        return times
    spacing = float(f"{(times[-1] - times[0]) / (len(times) - 1):.6g}")
    uniform = times[0] + spacing * np.arange(len(times), dtype=np.float64)
    return uniform if np.allclose(times, uniform, rtol=1e-6, atol=1e-4 * spacing) else times


def _offset(
    axis: NDArray[np.float64], low: float, high: float, name: str, sides: tuple[BoundaryKind, BoundaryKind]
) -> float:
    """Position of the first point in units of the spacing."""
    if len(axis) < 2:
        raise UserError("wrong_axis", f"{name} has fewer than two points", got=len(axis))
    spacing = (high - low) / len(axis)
    offset = (axis[0] - low) / spacing
    uniform = axis[0] + spacing * np.arange(len(axis))
    if np.abs(axis - uniform).max() > SPACING_TOLERANCE * spacing or not -OFFSET_TOLERANCE < offset < 1:
        _refuse_nodes(axis, low, high, name, sides)
        raise UserError(
            "wrong_axis",
            f"{name} is not a uniform axis over the family's extent",
            got=f"{len(axis)} points from {axis[0]:g} to {axis[-1]:g}",
            expected=f"spacing {spacing:g} on [{low:g}, {high:g}]",
            hint="one of the two ends is to be left out" if np.allclose(axis[[0, -1]], [low, high]) else None,
        )
    return _snapped(float(offset))


def _refuse_nodes(
    axis: NDArray[np.float64], low: float, high: float, name: str, sides: tuple[BoundaryKind, BoundaryKind]
) -> None:
    """Raises UserError ``wrong_axis`` where the points are nodes from one end of the extent to the other."""
    nodes = np.linspace(low, high, len(axis))
    if np.abs(axis - nodes).max() > SPACING_TOLERANCE * (nodes[1] - nodes[0]):
        return
    got = f"{len(axis)} points from {axis[0]:g} to {axis[-1]:g}"
    if BoundaryKind.PERIODIC in sides:
        raise UserError(
            "wrong_axis",
            f"{name} holds both ends of a periodic axis: its last point repeats the first",
            got=got,
            expected=f"{len(axis) - 1} points, the last one left out",
            hint="leave the last point out of the coordinates and of the values",
        )
    raise UserError(
        "wrong_axis",
        f"{name} holds both ends of the axis",
        got=got,
        expected=f"{len(axis) - 1} cell centres",
        hint="interpolate the values to the middle between neighbours",
    )


def _snapped(offset: float) -> float:
    """The offset (first + 1/2) / stride of an integer-stride subsample nearest to a rounded one."""
    fraction = Fraction(offset).limit_denominator(2 * MAX_STRIDE)
    return float(fraction) if abs(float(fraction) - offset) < OFFSET_TOLERANCE / MAX_STRIDE else max(offset, 0.0)


class ArraySource(FileSource):
    """Trajectories as arrays with names.

    Args:
        equation: the family of the file.
        entries: the file's description of itself.
        axes: coordinates by axis name.
        coefficients: by name, one number or one a trajectory.
        given: coefficients that the user gives: together all must be known.
    """

    def __init__(
        self,
        path: Path,
        equation: Family,
        entries: Mapping[str, Any],
        times: NDArray[np.float64],
        axes: Mapping[str, NDArray[np.float64]],
        coefficients: Mapping[str, NDArray[np.float64]],
        count: int,
        given: Mapping[str, float],
    ) -> None:
        names = list(AXIS_NAMES[: equation.ndim])
        missing = [name for name in names if name not in axes]
        if missing or not np.isfinite(times).all() or times.ndim != 1:
            raise UserError("wrong_axis", f"{path.name} lacks {', '.join(missing) or 'finite times'}")
        grid = grid_of(equation, [axes[name] for name in names], names)
        sides = entries.get("boundary")
        boundary = equation.boundary if sides is None else BoundaryCondition.from_names(sides)
        super().__init__(path, equation, boundary, grid, times, count)
        named = ((canonical(equation, name, name), np.ravel(column)) for name, column in coefficients.items())
        stored = by_coefficient(named)
        unknown = sorted(set(stored) - set(self.coefficient_names))
        if unknown:
            raise UserError(
                "unknown_coefficient", f"{self.family} has no coefficient {unknown[0]}", expected=self.coefficient_names
            )
        self._table = coefficient_table(equation, self.coefficient_names, count, stored, {"the user": given})

    @property
    @final
    def coefficients(self) -> NDArray[np.float64]:
        return self._table

    @final
    def read(
        self, rows: Rows, frames: FrameIndices = slice(None), stride: int = 1, first: int = 0
    ) -> NDArray[np.float32]:
        chosen, out = self._room(rows, frames, stride, first)
        if not out.size:
            return out
        span = slice(int(chosen.min()), int(chosen.max()) + 1)
        for target, row in zip(out, rows, strict=True):
            for channel in range(len(self.fields)):
                block = self._whole(self._values, channel, int(row), span, self._space(stride, first))
                target[..., channel] = block[chosen - span.start]
        return out

    @final
    def _static_parts(self, row: int, stride: int, first: int) -> Iterator[tuple[int, NDArray[Any]]]:
        for channel in range(len(self.static_fields)):
            yield channel, self._whole(self._static, channel, row, self._space(stride, first))

    @abstractmethod
    def _values(self, channel: int, row: int, frames: slice, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        """(F, X...) of one field."""

    @abstractmethod
    def _static(self, channel: int, row: int, space: tuple[slice, ...]) -> NDArray[np.floating[Any]]:
        """(X...) of one static field."""

    def _whole(self, read: Any, *where: Any) -> NDArray[np.floating[Any]]:
        with damage_named(self.path, "cannot be read: its data are damaged"):
            return np.asarray(read(*where))
