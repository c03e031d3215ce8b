"""What is trained on, cut from a store under the equation's exact symmetries: windows of steps, or of lead times."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from ups_server.data.source import Rows
from ups_server.data.splits import Split, split_rows
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.pde import registry
from ups_server.pde.family import Family
from ups_server.pde.grid import Grid

UNIFORM_TOLERANCE = 1e-3
"""How far a frame may lie from its place on the uniform time axis, in frame spacings (float32 files round)."""


@dataclass(frozen=True)
class WindowBatch:
    """W windows of each of R trajectories.

    Attributes:
        frames: (R, W, unroll + 1, X..., C), consecutive at dt.
        context: (R, X..., C), the first frame of the trajectory under the same augmentation as its windows.
        coefficients: (R, K).
        static: (R, X..., S) under the same augmentation, or None.
        grid: the nominal grid of n points; a subsample offset by an augmentation keeps it.
    """

    family: str
    frames: NDArray[np.float32]
    context: NDArray[np.float32]
    coefficients: NDArray[np.float64]
    static: NDArray[np.float32] | None
    grid: Grid


Slices = tuple[slice, ...]


@dataclass(frozen=True)
class _Symmetry:
    """One exact symmetry, drawn per trajectory: subsample offset, circular shift, mirrored and exchanged axes, sign.

    Attributes:
        blocks: pairs (to, from) of slices: what lies together before and after.
        mirrored: axes.
        exchanged: do the two axes change places?
        negated: is it -u?
    """

    blocks: tuple[tuple[Slices, Slices], ...]
    mirrored: tuple[int, ...]
    exchanged: bool
    negated: bool

    @classmethod
    def of(
        cls,
        n: tuple[int, ...],
        stride: int,
        first: tuple[int, ...],
        shift: tuple[int, ...],
        mirrored: tuple[int, ...],
        exchanged: bool = False,
        negated: bool = False,
    ) -> Self:
        """Every `stride`-th point from `first` on, shifted, then mirrored, then exchanged, then negated."""
        axes = [
            _axis_blocks(points, stride, first[axis], shift[axis], axis in mirrored) for axis, points in enumerate(n)
        ]
        blocks = (tuple(zip(*block, strict=True)) for block in product(*axes))
        return cls(tuple((to, start) for to, start in blocks), mirrored, exchanged, negated)

    def place(self, given: NDArray[np.float32], target: NDArray[np.float32]) -> None:
        """Fill `target` (n..., C) from `given` (X..., C); `turn` does the rest."""
        for to, start in self.blocks:
            target[to] = given[start]

    def turn(self, placed: NDArray[np.float32], turning: "_Turning") -> None:
        """Gives the fields of `placed` (..., n..., C), in place, the signs and places that they take."""
        for axis in self.mirrored:
            placed *= turning.signs[axis]
        if self.exchanged:
            placed[...] = placed.swapaxes(-3, -2)[..., turning.exchange]
        if self.negated:
            np.negative(placed, out=placed)


@dataclass(frozen=True)
class _Turning:
    """How fields behave under the symmetries of their equation.

    Attributes:
        signs: by axis that can be mirrored, (C,).
        exchange: which field stands in the place of each where the axes are exchanged; empty where they cannot be.
    """

    signs: dict[int, NDArray[np.float32]]
    exchange: tuple[int, ...]


def _axis_blocks(n: int, stride: int, first: int, shift: int, mirrored: bool) -> list[tuple[slice, slice]]:
    """(to, from) along one axis: at most two, before and after the point that the shift takes to the beginning."""
    blocks = []
    for low, high, to in ((0, n - shift, shift), (n - shift, n, 0)):
        if low == high:
            continue
        start, end = first + low * stride, first + (high - 1) * stride
        if mirrored:
            begin = n - to - (high - low)
            stop = start - 1 if start else None
            blocks.append((slice(begin, begin + high - low), slice(end, stop, -stride)))
        else:
            blocks.append((slice(to, to + high - low), slice(start, end + 1, stride)))
    return blocks


def frame_stride(times: NDArray[np.float64], dt: float) -> int:
    """How many frames make one dt.

    Raises:
        UserError: ``dt_mismatch`` where the frames are not equally spaced or dt is no multiple of their spacing.
    """
    if len(times) < 2:
        raise UserError(
            "dt_mismatch",
            "one frame has no time step",
            got=len(times),
            expected="at least 2 frames",
            hint="of a steady family, the horizon `final` leads from what is given to the solution",
        )
    spacing = float(times[-1] - times[0]) / (len(times) - 1)
    uniform = times[0] + spacing * np.arange(len(times))
    if spacing <= 0 or np.abs(times - uniform).max() > UNIFORM_TOLERANCE * spacing:
        raise UserError("dt_mismatch", "the frames are not equally spaced in time")
    stride = round(dt / spacing)
    if stride < 1 or abs(stride * spacing - dt) > UNIFORM_TOLERANCE * spacing:
        raise UserError(
            "dt_mismatch", "dt is no multiple of the frame spacing", got=dt, expected=f"a multiple of {spacing:.6g}"
        )
    return stride


def not_learnable(times: NDArray[np.float64], family: Family) -> str | None:
    """Why frames at these times cannot be learned from or scored on; None where they can."""
    if family.steady:
        return None
    if len(times) < 2:
        return "there is one frame only: no time step to learn"
    spacing = np.diff(times)
    if np.abs(spacing - spacing.mean()).max() > UNIFORM_TOLERANCE * spacing.mean():
        return f"the frames are not equally spaced in time, but {spacing.min():g} to {spacing.max():g} apart"
    return None


class AugmentedRows:
    """Rows of a store at `n` points along the first axis, each under a symmetry of its equation drawn for it.

    Args:
        augment: draw subsample offsets and circular shifts on periodic axes, the family's reflections, its exchange of
            axes, and -u where it is odd; else the rows are as they are.

    Raises:
        UserError: ``resolution_mismatch``.
    """

    def __init__(self, store: Store, n: int, augment: bool = True) -> None:
        self.store = store
        self.augment = augment
        self.stride = store.grid.stride_to(n)
        self.grid = store.grid.subsample(self.stride)
        self._periodic = store.boundary.periodic
        self.turning, self.static_turning = self._symmetries() if augment else (_Turning({}, ()), _Turning({}, ()))

    def draw(self, rng: np.random.Generator) -> _Symmetry:
        if not self.augment:
            zeros = (0,) * self.grid.ndim
            return _Symmetry.of(self.grid.n, self.stride, zeros, zeros, ())
        bounds = [(self.stride, n) if wraps else (1, 1) for wraps, n in zip(self._periodic, self.grid.n, strict=True)]
        first = tuple(int(rng.integers(stride)) for stride, _ in bounds)
        shift = tuple(int(rng.integers(points)) for _, points in bounds)
        mirrored = tuple(axis for axis in self.turning.signs if rng.random() < 0.5)
        exchanged = bool(self.turning.exchange) and rng.random() < 0.5
        negated = registry.family(self.store.family).odd and rng.random() < 0.5
        return _Symmetry.of(self.grid.n, self.stride, first, shift, mirrored, exchanged, negated)

    def fill(
        self, row: int, frames: Sequence[int], targets: Iterable[NDArray[np.float32]], symmetry: _Symmetry
    ) -> None:
        """Frames of a row under the symmetry, each into its target (n..., C)."""
        for frame, target in zip(self.store.frames(row, frames), targets, strict=True):
            symmetry.place(frame, target)
            symmetry.turn(target, self.turning)

    def fill_static(self, row: int, target: NDArray[np.float32], symmetry: _Symmetry) -> None:
        """The static fields of a row under the symmetry, into (n..., S)."""
        fixed = self.store.static_view(row)
        if fixed is not None:
            symmetry.place(fixed, target)
            symmetry.turn(target, self.static_turning)

    def empty(self, *leading: int) -> NDArray[np.float32]:
        """(leading..., n..., C)"""
        return np.empty((*leading, *self.grid.n, len(self.store.fields)), np.float32)

    def empty_static(self, *leading: int) -> NDArray[np.float32] | None:
        """(leading..., n..., S), None for families without."""
        names = self.store.static_fields
        return np.empty((*leading, *self.grid.n, len(names)), np.float32) if names else None

    def _symmetries(self) -> tuple[_Turning, _Turning]:
        """Of the fields and of the static fields: the family's symmetries, as far as this grid has them.

        Off-centre points of a bounded axis do not map onto themselves when it is mirrored; axes of different grids do
        not map onto each other.
        """
        family, fixed = registry.family(self.store.family), bool(self.store.static_fields)
        grid = self.grid
        centred = [wraps or np.isclose(grid.offset[axis], 0.5) for axis, wraps in enumerate(self._periodic)]
        mirrors = range(len(family.static_reflections if fixed else family.reflections))
        sides = self.store.boundary.sides
        alike = len({*zip(grid.n, grid.offset, grid.length, sides, strict=True)}) == 1
        exchange = family.exchange if alike and bool(family.static_exchange) == fixed else ()

        def signs(reflections: tuple[tuple[int, ...], ...]) -> dict[int, NDArray[np.float32]]:
            usable = [axis for axis in mirrors if centred[axis] and reflections[axis]]
            return {axis: np.asarray(reflections[axis], np.float32) for axis in usable}

        turning = _Turning(signs(family.reflections), exchange)
        return turning, _Turning(signs(family.static_reflections) if fixed else {}, family.static_exchange)


class Windows:
    """The windows of one split of one store.

    Args:
        dt: time between two frames of a window.
        n: points along the first axis; the others follow by the same stride.
        augment: see `AugmentedRows`.

    Raises:
        UserError: ``dt_mismatch`` or ``resolution_mismatch``.
    """

    def __init__(
        self,
        store: Store,
        dt: float,
        n: int,
        split: Split | None = Split.TRAIN,
        augment: bool = True,
        seed_of_split: int = 0,
    ) -> None:
        self.store = store
        self.dt = dt
        self.frame_stride = frame_stride(store.times, dt)
        self.augmented = AugmentedRows(store, n, augment)
        self.grid = self.augmented.grid
        self.rows: NDArray[np.int64] = (
            np.arange(len(store), dtype=np.int64) if split is None else split_rows(len(store), split, seed_of_split)
        )

    @property
    def n_trajectories(self) -> int:
        return len(self.rows)

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """(N, K) of the rows of this split."""
        return self.store.coefficients[self.rows]

    def sample(
        self,
        rng: np.random.Generator,
        trajectories: int,
        windows: int,
        unroll: int = 1,
        early: float = 1.0,
        kept: slice = slice(None),
    ) -> WindowBatch:
        """`windows` random windows of each of `trajectories` random trajectories (without repetition if enough).

        A window starts at U(0, 1) ** early of what the trajectory allows. All are drawn, those that are `kept` read.

        Raises:
            UserError: ``empty_split``, or ``too_few_frames`` where no window of `unroll` steps fits.
        """
        starts = self._starts(unroll)
        picked = rng.choice(self.rows, trajectories, replace=trajectories > len(self.rows))
        offsets = np.arange(unroll + 1) * self.frame_stride
        begin = (starts * rng.random((trajectories, windows)) ** early).astype(np.int64)
        symmetries = [self.augmented.draw(rng) for _ in range(trajectories)][kept]
        picked, times = picked[kept], begin[kept][..., None] + offsets
        frames = self.augmented.empty(len(picked), windows * (unroll + 1))
        context, static = self.augmented.empty(len(picked)), self.augmented.empty_static(len(picked))
        for index, (row, symmetry) in enumerate(zip(picked.tolist(), symmetries, strict=True)):
            wanted = [0, *times[index].ravel().tolist()]
            self.augmented.fill(row, wanted, [context[index], *frames[index]], symmetry)
            if static is not None:
                self.augmented.fill_static(row, static[index], symmetry)
        return WindowBatch(
            self.store.family,
            frames.reshape(len(picked), windows, unroll + 1, *frames.shape[2:]),
            context,
            self.store.coefficients[picked],
            static,
            self.grid,
        )

    def trajectories(self, rows: Rows | None = None) -> NDArray[np.float32]:
        """(N, T', X..., C): the frames at multiples of dt from frame 0 on, not augmented."""
        chosen = self.rows if rows is None else rows
        return self.store.read(chosen, slice(0, None, self.frame_stride), self.augmented.stride)

    def static(self, rows: Rows | None = None) -> NDArray[np.float32] | None:
        """(N, X..., S) static fields of the same rows, None for families without."""
        return self.store.read_static(self.rows if rows is None else rows, self.augmented.stride)

    def _starts(self, unroll: int) -> int:
        starts = len(self.store.times) - unroll * self.frame_stride
        if starts < 1:
            raise UserError(
                "too_few_frames",
                "the trajectories are shorter than the window",
                got=len(self.store.times),
                expected=f"at least {unroll * self.frame_stride + 1} frames",
            )
        if not len(self.rows):
            raise UserError("empty_split", f"no trajectory of {self.store.path.name} is in this split")
        return starts


Points = Literal["strided", "cells"]
"""Where the points of a coarser grid lie: on every so many-th point of the store, or in the centres of its cells."""


@dataclass(frozen=True)
class Triples:
    """R triples.

    Attributes:
        states: (R, 3, X..., C). times: (R, 3).
        coefficients: (R, K). static: (R, X..., S), or None.
        grid: of the points.
    """

    family: str
    states: NDArray[np.float32]
    times: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    static: NDArray[np.float32] | None
    grid: Grid


class LeadTimes:
    """Draws triples of frames of some trajectories.

    Args:
        longest, shortest: of the lead times, as far as the frames allow.
        rows: of the trajectories.
        initial: share of the triples that begin with the first frame.
        early: exponent of the other starts, U(0, 1) ** early of what the trajectory allows.
    """

    def __init__(
        self, store: Store, longest: float, rows: NDArray[np.int64], initial: float = 0.3, early: float = 1.5,
        shortest: float = 0.0,
    ) -> None:  # fmt: skip
        self.store, self.longest, self.rows, self.initial, self.early = store, longest, rows, initial, early
        self.times = store.times - store.times[0]
        self.shortest = max(shortest, float(self.times[1]))
        self._augmented = dict[int, AugmentedRows]()

    def _at(self, n: int) -> AugmentedRows:
        if n not in self._augmented:
            self._augmented[n] = AugmentedRows(self.store, n)
        return self._augmented[n]

    def draw(self, rng: np.random.Generator, count: int, n: int, points: Points = "strided") -> Triples:
        """`count` triples of different trajectories at n points along the first axis."""
        coarse = self._at(n)
        strided = points == "strided"
        drawn = coarse if strided else self._at(self.store.grid.n[0])
        rows = rng.choice(self.rows, count, replace=count > len(self.rows))
        picked = np.stack([self._frames(rng) for _ in range(count)])
        states, static = coarse.empty(count, 3), coarse.empty_static(count)
        for index, row in enumerate(rows.tolist()):
            symmetry = drawn.draw(rng)
            given = drawn.empty(3)
            drawn.fill(row, picked[index].tolist(), given, symmetry)
            states[index] = given if strided else [averaged(state, coarse.stride) for state in given]
            if static is not None and (fixed := drawn.empty_static()) is not None:
                drawn.fill_static(row, fixed, symmetry)
                static[index] = fixed if strided else averaged(fixed, coarse.stride)
        grid = coarse.grid if strided else Grid(coarse.grid.n, coarse.grid.extent)
        return Triples(self.store.family, states, self.times[picked], self.store.coefficients[rows], static, grid)

    def _frames(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Three frames: lead times are uniform in their logarithm."""
        times, last = self.times, len(self.times) - 1
        first = 0 if rng.random() < self.initial else int(rng.random() ** self.early * (last - 1))
        steps = []
        start = first
        for _ in range(2):
            most = max(min(self.longest, times[last] - times[start]), self.shortest)
            lead = self.shortest * (most / self.shortest) ** rng.random()
            end = int(np.clip(np.searchsorted(times, times[start] + lead * 0.999), start + 1, last))
            steps.append(end)
            start = min(end, last - 1)
        return np.array([first, *steps])


def averaged(values: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """Means over `stride` cells along each axis of values (X..., C): what a coarser grid of cells holds."""
    for axis in range(values.ndim - 1):
        shape = values.shape
        parts = values.reshape(*shape[:axis], shape[axis] // stride, stride, *shape[axis + 1 :])
        values = parts.mean(axis + 1)
    return values
