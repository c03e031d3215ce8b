"""A file read through a mapping: the trajectories that its arrays hold, a part at a time."""

from collections.abc import Callable, Iterator
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ups_server.data.containers import Container, StoredArray, open_container
from ups_server.data.formats.description import SPACING_TOLERANCE, coefficient_table, times_of
from ups_server.data.mapping import (
    MappedAxis,
    MappedField,
    Mapping,
    boundary_of,
    check_increasing,
    equal_steps,
    line_of,
)
from ups_server.data.source import FileSource, FrameIndices, Rows, StoredDataset
from ups_server.data.written import Written, written
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition, BoundaryKind, Grid
from ups_server.pde.registry import add_user_family, known_family

OFFSETS = {"cells": Grid.CENTRE, "nodes": 0.0, "ends": 0.0}
TIME = "time"


def open_mapped(
    path: Path, mapping: Mapping, family: str | None = None, coefficients: MappingOf[str, float] | None = None
) -> "MappedSource":
    """Open a file whose arrays a mapping gives a meaning to; an equation of its own is made known to this process.

    Args:
        family: what the user says besides; must be the mapping's.
        coefficients: likewise.

    Raises:
        UserError: one clear sentence about what does not fit.
    """
    if mapping.symbols is None and family not in (None, mapping.family_id):
        raise UserError("family_mismatch", "the mapping is of another family", got=family, expected=mapping.family_id)
    container = open_container(path)
    try:
        return MappedSource(path, container, mapping, coefficients or {})
    except BaseException:
        container.close()
        raise


@dataclass(frozen=True)
class _Placed:
    """A field's array, and what its axes mean; those in `turned` are stored from the upper end on."""

    array: StoredArray
    order: tuple[str, ...]
    component: int
    turned: frozenset[str] = frozenset()

    @classmethod
    def of(cls, container: Container, entry: MappedField, order: tuple[str, ...]) -> "_Placed":
        """Raises UserError ``missing_dataset``, ``wrong_dtype``, ``wrong_shape``."""
        array = container.array(entry.array)
        if not array.numeric:
            raise UserError("wrong_dtype", f"{entry.array} does not hold real numbers", got=str(array.dtype))
        if len(array.shape) != len(order):
            raise UserError(
                "wrong_shape", f"{entry.array} has {len(array.shape)} axes", got=array.shape, expected=list(order)
            )
        if 0 in array.shape:
            raise UserError("empty_file", f"{entry.array} holds no values", got=array.shape)
        for name, n in zip(order, array.shape, strict=True):
            if name == "-" and n != 1:
                raise UserError("wrong_shape", f"{entry.array} has {n} entries along an axis `-`", got=array.shape)
            if name == "component" and not (entry.component or 0) < n:
                raise UserError("wrong_shape", f"{entry.array} has {n} components", got=entry.component)
        return cls(array, order, entry.component or 0)

    def size(self, axis: str) -> int | None:
        return self.array.shape[self.order.index(axis)] if axis in self.order else None

    def read(self, row: int, kept: MappingOf[str, slice]) -> NDArray[Any]:
        """The values along the axes `kept`, in their order."""
        index: dict[str, int | slice] = {"trajectory": row, "component": self.component, "-": 0, **kept}
        for name in self.turned:
            index[name] = _from_the_end(kept[name], self.size(name) or 0)
        values = self.array.read(tuple(index[name] for name in self.order))
        left = [name for name in self.order if name in kept]
        values = np.flip(values, tuple(left.index(name) for name in self.turned))
        return values.transpose([left.index(name) for name in kept])


def _from_the_end(wanted: slice, n: int) -> slice:
    """Where the points `wanted` of an axis of `n` lie, counted from its other end, in the opposite order."""
    places = range(*wanted.indices(n))
    return slice(n - 1 - places[-1], n - places[0], places.step) if places else slice(0)


@dataclass(frozen=True)
class _Interpolated:
    """Frames between those of the file, each made of four that follow one another.

    Attributes:
        first: (T,) of the four.
        weights: (T, 4)
    """

    first: NDArray[np.int64]
    weights: NDArray[np.float64]

    @classmethod
    def between(cls, stored: NDArray[np.float64], wanted: NDArray[np.float64]) -> "_Interpolated":
        """By the polynomial of third degree through the four frames around each wanted time."""
        first = np.clip(np.searchsorted(stored, wanted, side="right") - 2, 0, len(stored) - 4)
        nodes = stored[first[:, None] + np.arange(4)]
        weights = np.ones_like(nodes)
        for one in range(4):
            for other in set(range(4)) - {one}:
                weights[:, one] *= (wanted - nodes[:, other]) / (nodes[:, one] - nodes[:, other])
        return cls(first, weights)

    def read(self, wanted: slice, stored: Callable[[slice], NDArray[Any]]) -> NDArray[np.float64]:
        first, weights = self.first[wanted], self.weights[wanted]
        block = stored(slice(int(first[0]), int(first[-1]) + 4)).astype(np.float64)
        parts = (
            weights[:, place].reshape(-1, *[1] * (block.ndim - 1)) * block[first - first[0] + place]
            for place in range(4)
        )
        return np.asarray(sum(parts))


class MappedSource(FileSource):
    """Trajectories in arrays that a mapping names."""

    def __init__(self, path: Path, container: Container, mapping: Mapping, coefficients: MappingOf[str, float]) -> None:
        self.layout = f"{container.kind}, mapped"
        self._container = container
        self._fields = [_Placed.of(container, entry, mapping.order(entry)) for entry in mapping.fields]
        self._fixed = [_Placed.of(container, entry, mapping.order(entry, True)) for entry in mapping.static_fields]
        placed = [*self._fields, *self._fixed]
        count = _common(placed, "trajectory") or 1
        stored = _common(self._fields, TIME) or 1
        times, self._interpolated = _times(container, mapping, stored, count)
        if self._interpolated is not None:
            self.layout += f", {stored} frames interpolated to {len(times)} at equal steps"
        frames = len(times)
        self._segments, self._length = mapping.segments, frames // mapping.segments
        if self._length < min(2, frames):
            raise UserError("wrong_shape", f"{frames} frames make no {mapping.segments} segments")
        known = None if mapping.equation is not None else known_family(mapping.family_id)
        if known is not None and (len(mapping.space) != known.ndim):
            raise UserError("wrong_axis", f"{known.id} has {known.ndim} spatial axes", got=list(mapping.space))
        boundary = boundary_of(mapping, known.boundary if known is not None else BoundaryCondition(()))
        grid = _grid(container, mapping, boundary, [_common(placed, name) or 1 for name in mapping.names], count)
        found: Written | None = None
        self._forcing: NDArray[np.float64] | None = None
        if mapping.symbols is not None:
            named = _named(container, mapping, coefficients, count)
            found = written(mapping.symbols, named, count, grid.length[0])
            known = found.family
            if known.static_fields:
                (x,) = grid.axes
                self._forcing = np.zeros(len(x)) if found.forcing is None else found.forcing.at(x)
            grid = replace(grid, extent=known.extent)
        elif known is not None:
            _check_box(known, grid)
            grid = replace(grid, extent=known.extent)
        turned = frozenset(name for name in mapping.names if _descends(container, mapping, name, count))
        self._fields = [replace(placed, turned=turned) for placed in self._fields]
        self._fixed = [replace(placed, turned=turned) for placed in self._fixed]
        equation = known or _own(mapping, grid, times)
        _check_names(equation, mapping)
        order = [entry.name for entry in mapping.fields]
        self._fields = [self._fields[order.index(entry.name)] for entry in equation.fields]
        order = [entry.name for entry in mapping.static_fields]
        static = equation.static_fields if found is None else ()
        self._fixed = [self._fixed[order.index(entry.name)] for entry in static]
        super().__init__(path, equation, boundary, grid, times[: self._length], count * self._segments)
        table = found.coefficients if found else _coefficients(container, mapping, equation, count, coefficients)
        self._moved = [mapping.space[name].onto is not None for name in mapping.names]  # type: ignore[index]
        self._table = np.repeat(table, self._segments, axis=0)
        self._missing = {row * self._segments + part for row in _unwritten(placed) for part in range(self._segments)}
        first = self._fields[0]
        if first.array.chunks:
            by_axis = dict(zip(first.order, first.array.chunks, strict=True))
            self.chunk_rows, self.chunk_frames = by_axis.get("trajectory", 1), by_axis.get(TIME, 1)

    @property
    @final
    def coefficients(self) -> NDArray[np.float64]:
        return self._table

    @final
    def read(
        self, rows: Rows, frames: FrameIndices = slice(None), stride: int = 1, first: int = 0
    ) -> NDArray[np.float32]:
        chosen, out = self._room(rows, frames, stride, first)
        space = dict(zip("xyz", self._spans(stride, first), strict=False))
        for places, span in _spans(chosen):
            for target, row in zip(out, rows, strict=True):
                stored, part = divmod(int(row), self._segments)
                moved = slice(span.start + part * self._length, span.stop + part * self._length)
                for channel, placed in enumerate(self._fields):
                    block = self._on_cells(self._frames(placed, stored, moved, space), 1, stride, first)
                    target[places, ..., channel] = block[chosen[places] - span.start]
        return out

    def _frames(self, placed: _Placed, row: int, frames: slice, space: MappingOf[str, slice]) -> NDArray[Any]:
        if self._interpolated is None:
            return placed.read(row, {TIME: frames, **space})
        return self._interpolated.read(frames, lambda stored: placed.read(row, {TIME: stored, **space}))

    @final
    def _static_parts(self, row: int, stride: int, first: int) -> Iterator[tuple[int, NDArray[Any]]]:
        space = dict(zip("xyz", self._spans(stride, first), strict=False))
        if self._forcing is not None:
            yield 0, self._forcing[space["x"]] if not self._moved[0] else self._forcing[first::stride]
        for channel, placed in enumerate(self._fixed):
            yield channel, self._on_cells(placed.read(row // self._segments, space), 0, stride, first)

    @final
    def close(self) -> None:
        self._container.close()

    @final
    def datasets(self) -> list[StoredDataset]:
        found = {placed.array.name: placed.array for placed in (*self._fields, *self._fixed)}
        return [StoredDataset(a.name, a.shape, str(a.dtype), a.chunks) for a in found.values()]

    def _spans(self, stride: int, first: int) -> tuple[slice, ...]:
        """What is read along each spatial axis: all of it where values are moved."""
        return tuple(
            slice(None) if moved else slice(first, n, stride) for n, moved in zip(self.grid.n, self._moved, strict=True)
        )

    def _on_cells(self, block: NDArray[Any], leading: int, stride: int, first: int) -> NDArray[Any]:
        """The block, its spatial axes after `leading` others, where values are moved from nodes onto cells."""
        for axis, moved in enumerate(self._moved, start=leading):
            if moved:
                block = onto_cells(block, axis, self.grid.n[axis - leading])
                block = block[(slice(None),) * axis + (slice(first, None, stride),)]
        return block

    @final
    def _never_written(self) -> set[int]:
        return self._missing


def onto_cells(values: NDArray[Any], axis: int, cells: int) -> NDArray[np.float64]:
    """Values on four nodes or more, both ends among them, at the centres of cells of the same box.

    Exact for polynomials of third degree: each value is that of the one through the four nodes around it.
    """
    along = np.moveaxis(np.asarray(values, np.float64), axis, -1)
    nodes = along.shape[-1]
    places = (np.arange(cells) + 0.5) * (nodes - 1) / cells
    first = np.clip(np.floor(places).astype(np.int64) - 1, 0, nodes - 4)
    s = places - first
    weights = (
        -(s - 1) * (s - 2) * (s - 3) / 6,
        s * (s - 2) * (s - 3) / 2,
        -s * (s - 1) * (s - 3) / 2,
        s * (s - 1) * (s - 2) / 6,
    )
    moved = np.zeros((*along.shape[:-1], cells))
    for offset, weight in enumerate(weights):
        moved += along[..., first + offset] * weight
    return np.moveaxis(moved, -1, axis)


def _spans(chosen: NDArray[np.int64]) -> Iterator[tuple[slice, slice]]:
    """Frames read at once: (their places in `chosen`, frames of the file); one by one where they lie far apart."""
    begin = 0
    for end in range(1, len(chosen) + 1):
        if end == len(chosen) or not 0 < chosen[end] - chosen[end - 1] <= 2:
            yield slice(begin, end), slice(int(chosen[begin]), int(chosen[end - 1]) + 1)
            begin = end


def _common(placed: list[_Placed], axis: str) -> int | None:
    """The length of an axis, which all arrays share."""
    found = {entry.array.name: size for entry in placed if (size := entry.size(axis)) is not None}
    if len(set(found.values())) > 1:
        raise UserError("ragged", f"the arrays differ in their length along {axis}", got=found)
    return next(iter(found.values()), None)


def _listed(container: Container, name: str, count: int) -> NDArray[np.float64]:
    """The numbers of a list; of a mesh, or one list a trajectory, where they change along one axis only.

    Raises:
        UserError: ``wrong_axis``, ``ragged``.
    """
    stored = container.array(name).whole()
    values = line_of(stored)
    if values is None:
        if stored.ndim == 2 and len(stored) == count:
            raise UserError("ragged", f"{name} differs between trajectories", expected="the same for all")
        raise UserError("wrong_axis", f"{name} is no list of numbers", got=stored.shape)
    return values


INTERPOLATE = "`onto: N` in `time` of the mapping has the frames interpolated to N equally spaced times"


def _times(
    container: Container, mapping: Mapping, frames: int, count: int
) -> tuple[NDArray[np.float64], _Interpolated | None]:
    """The times of the frames, and how these are made of the file's where the mapping asks for equal steps."""
    given = mapping.time
    if given.array is None:
        return given.start + (given.step or 1.0) * np.arange(frames, dtype=np.float64), None
    values = _listed(container, given.array, count)
    if len(values) not in (frames, frames + 1):
        raise UserError("wrong_axis", f"{given.array} does not fit the frames", got=len(values), expected=frames)
    if given.onto is not None:
        if frames < 4:
            raise UserError("wrong_axis", f"{given.array} has too few times to interpolate", got=frames, expected=4)
        check_increasing(values[:frames], given.array)
        wanted = np.linspace(values[0], values[frames - 1], given.onto)
        return wanted, _Interpolated.between(values[:frames], wanted)
    if frames > 1:
        equal_steps(values[:frames], given.array, INTERPOLATE)
    return times_of(values, frames, given.array), None


def _grid(container: Container, mapping: Mapping, boundary: BoundaryCondition, points: list[int], count: int) -> Grid:
    axes = [
        _axis(container, name, mapping.space[name], n, low is BoundaryKind.PERIODIC, count)  # type: ignore[index]
        for name, n, (low, _) in zip(mapping.names, points, boundary.sides, strict=True)
    ]
    n, extent, offset, closed = zip(*axes, strict=True)
    return Grid(n, extent, offset, closed)


def _descends(container: Container, mapping: Mapping, name: str, count: int) -> bool:
    """Are the coordinates of an axis stored from the upper end on?"""
    given = mapping.space[name].array  # type: ignore[index]
    if given is None:
        return False
    values = _listed(container, given, count)
    return bool(values[0] > values[-1])


def _axis(
    container: Container, name: str, axis: MappedAxis, n: int, periodic: bool, count: int
) -> tuple[int, tuple[float, float], float, bool]:
    """(points, extent, offset, closed) of an axis of `n` stored points."""
    ends = axis.points == "ends" and axis.offset is None
    offset = OFFSETS[axis.points] if axis.offset is None else axis.offset
    spacings = n - 1 if ends else n
    if n < 2:
        raise UserError("wrong_axis", f"{name} has fewer than two points", got=n)
    low, high = axis.low, axis.high
    if axis.array is not None:
        values = _listed(container, axis.array, count)
        if len(values) != n:
            raise UserError("wrong_axis", f"{axis.array} does not fit the values", got=len(values), expected=n)
        values = values if values[0] < values[-1] else values[::-1]
        step = equal_steps(values, axis.array)
        found = (
            _neat(float(values[0]) - offset * step, step),
            _neat(float(values[0]) + (spacings - offset) * step, step),
        )
        for given, other, word in ((low, found[0], "low"), (high, found[1], "high")):
            if given is not None and abs(given - other) > SPACING_TOLERANCE * step:
                raise UserError(
                    "wrong_axis",
                    f"{axis.array} does not agree with {word} of {name}, its points being {axis.points}",
                    got=other,
                    expected=given,
                )
        low, high = found[0] if low is None else low, found[1] if high is None else high
    if low is None or high is None:
        raise UserError("wrong_axis", f"{name} needs an array or low and high")
    if ends and periodic and axis.onto is None:
        return n - 1, (low, high), 0.0, False
    if axis.onto is not None:
        if n < 4:
            raise UserError("wrong_axis", f"{name} has too few points for an interpolation", got=n, expected=4)
        return axis.onto, (low, high), Grid.CENTRE, False
    return n, (low, high), offset, ends


def _neat(value: float, step: float) -> float:
    """The end of a box, without what rounding of the coordinates left of it."""
    neat = float(f"{value:.6g}") if abs(value) > 1e-3 * step else 0.0
    return neat if abs(neat - value) < 1e-3 * step else value


def _own(mapping: Mapping, grid: Grid, times: NDArray[np.float64]) -> Family:
    dt = float(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
    family = mapping.equation_spec(grid.extent, dt).family()
    add_user_family(family)
    return family


def _check_box(family: Family, grid: Grid) -> None:
    for name, own, (low, high), spacing in zip("xyz", family.extent, grid.extent, grid.spacing, strict=False):
        if abs(own[0] - low) > SPACING_TOLERANCE * spacing or abs(own[1] - high) > SPACING_TOLERANCE * spacing:
            raise UserError(
                "wrong_axis",
                f"{name} does not run over the box of {family.id}",
                got=[low, high],
                expected=list(own),
                hint="map it as an equation of your own, whose box is the file's",
            )


def _check_names(equation: Family, mapping: Mapping) -> None:
    static = equation.static_fields if mapping.symbols is None else ()
    for group, own in ((mapping.fields, equation.fields), (mapping.static_fields, static)):
        given, expected = [entry.name for entry in group], [entry.name for entry in own]
        if sorted(given) != sorted(expected):
            raise UserError("missing_dataset", f"the fields of {equation.id} are others", got=given, expected=expected)


def _coefficients(
    container: Container, mapping: Mapping, equation: Family, count: int, given: MappingOf[str, float]
) -> NDArray[np.float64]:
    stored: dict[str, NDArray[np.float64]] = {}
    claims = {"the user": given}
    fixed: dict[str, float] = {}
    names = {coefficient.name for coefficient in equation.coefficients}
    for name, entry in mapping.coefficients.items():
        if name not in names:
            raise UserError("unknown_coefficient", f"{equation.id} has no coefficient {name}", expected=sorted(names))
        if entry.value is not None:
            fixed[name] = entry.value
        elif entry.array is not None:
            stored[name] = container.array(entry.array).whole().ravel()
        elif entry.attribute is not None:
            stored[name] = _attribute(container, entry.attribute)
    return coefficient_table(equation, sorted(names), count, stored, {**claims, "the mapping": fixed})


def _named(
    container: Container, mapping: Mapping, given: MappingOf[str, float], count: int
) -> dict[str, NDArray[np.float64]]:
    """(N,) values of every coefficient that an equation in symbols names, by the mapping and by the user."""
    found = {name: np.full(count, value) for name, value in given.items()}
    for name, entry in mapping.coefficients.items():
        if name in given:
            raise UserError("coefficient_mismatch", f"{name} is said twice", got=given[name], expected="the mapping's")
        if entry.value is not None:
            found[name] = np.full(count, entry.value)
        elif entry.array is not None:
            found[name] = container.array(entry.array).whole().ravel().astype(np.float64)
        elif entry.attribute is not None:
            found[name] = _attribute(container, entry.attribute)
        values = found[name]
        if values.size not in (1, count):
            raise UserError(
                "wrong_attribute", f"{name} has not one value a trajectory", got=values.size, expected=count
            )
        found[name] = np.broadcast_to(values, count)
    return found


def _attribute(container: Container, name: str) -> NDArray[np.float64]:
    array, mark, own = name.rpartition("@")
    attributes = container.array(array).attributes if mark else container.attributes
    if own not in attributes:
        raise UserError("wrong_attribute", f"the file has no attribute {name}", expected=sorted(attributes)[:32])
    try:
        return np.atleast_1d(np.asarray(attributes[own], np.float64))
    except (TypeError, ValueError):
        raise UserError("wrong_attribute", f"the attribute {name} is no number", got=attributes[own]) from None


def _unwritten(placed: list[_Placed]) -> frozenset[int]:
    """Rows whose values are not all in the file.

    Raises:
        UserError: ``never_written`` where it is not known which.
    """
    rows: set[int] = set()
    for entry in placed:
        missing = [] if entry.array.unwritten is None else entry.array.unwritten().tolist()
        if missing and entry.order[0] != "trajectory":
            raise UserError("never_written", f"{entry.array.name} declares values that were never written")
        rows |= set(missing)
    return frozenset(rows)
