"""Reference solutions: how their coefficients are drawn, and how they are solved and kept, reproducible row by row.

`build_store` makes a store to train on, `generate` a file in PDEBench's layout.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ups_server import __version__
from ups_server.data.formats.pdebench.card import card_of
from ups_server.data.formats.pdebench.writing import boundary_word
from ups_server.data.parts import DataPart, provenance_of_part, write_pdebench
from ups_server.data.source import RowProgress
from ups_server.data.store import MANIFEST, VALUE, GridRecord, Store, StoreLayout
from ups_server.data.writer import SHARD_BYTES, StoreWriter
from ups_server.errors import UserError
from ups_server.pde.family import RAND, Family
from ups_server.pde.grid import BoundaryCondition, Grid


class CoefficientDraw(BaseModel):
    """A continuous range with gaps, and a share at given values.

    Attributes:
        scale: uniform in the value or in its logarithm.
        gaps: open intervals never drawn from, kept for tests of interpolation.
        also: values that get `also_share` of the trajectories, equally; PDEBench's own, for example.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float
    scale: Literal["log", "linear"] = "log"
    gaps: tuple[tuple[float, float], ...] = ()
    also: tuple[float, ...] = ()
    also_share: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.low <= self.high or (self.scale == "log" and self.low <= 0):
            raise ValueError("low must not exceed high, and be positive on a logarithmic scale")
        if any(low < value < high for low, high in self.gaps for value in self.also):
            raise ValueError("a value of `also` lies in a gap")
        if self.low < self.high and not self._intervals():
            raise ValueError("the gaps leave nothing to draw from")
        return self

    @classmethod
    def fixed(cls, value: float) -> "CoefficientDraw":
        """Always this value."""
        return cls(low=value, high=value, scale="linear")

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """(count,) values."""
        position, special = rng.random(count), rng.random(count)
        pick = rng.integers(0, max(len(self.also), 1), count)
        drawn = self._quantile(position)
        if self.also:
            drawn = np.where(special < self.also_share, np.asarray(self.also)[pick], drawn)
        return drawn

    def _intervals(self) -> list[tuple[float, float]]:
        """What the gaps leave of [low, high], on the scale drawn from."""
        intervals, start = [], self.low
        for gap_low, gap_high in sorted(self.gaps):
            if start < min(gap_low, self.high):
                intervals.append((start, min(gap_low, self.high)))
            start = max(start, gap_high)
        if start < self.high:
            intervals.append((start, self.high))
        if self.scale == "linear":
            return intervals
        return [(float(np.log(low)), float(np.log(high))) for low, high in intervals]

    def _quantile(self, position: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.low == self.high:
            return np.full(position.shape, self.low)
        intervals = np.asarray(self._intervals())
        lengths = intervals[:, 1] - intervals[:, 0]
        edges = np.concatenate([[0.0], np.cumsum(lengths)])
        along = position * edges[-1]
        which = np.clip(np.searchsorted(edges, along, side="right") - 1, 0, len(lengths) - 1)
        drawn: NDArray[np.float64] = intervals[which, 0] + along - edges[which]
        # exp(log(high)) may round past the end
        if self.scale == "log":
            drawn = np.exp(drawn)
        return np.clip(drawn, self.low, self.high)


class SameAs(BaseModel):
    """The value that another coefficient of the trajectory has drawn, as PDEBench's eta = zeta."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    same_as: str


Draw = CoefficientDraw | SameAs


def pick_kind(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    """One of the kinds, by their shares."""
    names, weights = list(shares), np.array(list(shares.values()))
    return names[int(np.searchsorted(np.cumsum(weights), rng.random() * weights.sum(), side="right"))]


INITIAL, COEFFICIENTS, STATIC, KIND = range(4)
"""Streams of random numbers: coefficients never change the initial states, which files share row by row."""


@dataclass(frozen=True)
class Solved:
    """Solved rows: values (n, T, X..., C), coefficients (n, K) in the family's order, static (n, X..., S) or None."""

    values: NDArray[np.float32]
    coefficients: NDArray[np.float64]
    static: NDArray[np.float32] | None


def generator(seed: int, stream: int, row: int) -> np.random.Generator:
    """The random numbers of one row: the same whatever the batch size or the number of rows."""
    return np.random.default_rng([seed, stream, row])


def complete_draws(family: Family, draws: Mapping[str, Draw | float]) -> dict[str, Draw]:
    """One draw a coefficient, in the family's order; those not given stay at their default.

    Raises:
        UserError: ``unknown_coefficient``, ``coefficient_out_of_domain``, or ``invalid_draw`` for one that is the same
            as no drawn one.
    """
    spelling = {alias.lower(): c.name for c in family.coefficients for alias in (c.name, *c.aliases)}
    drawn: dict[str, CoefficientDraw] = {}
    same: dict[str, SameAs] = {}
    for name, draw in zip(family.named(dict.fromkeys(draws, 0.0)), draws.values(), strict=True):
        if isinstance(draw, SameAs):
            same[name] = SameAs(same_as=spelling.get(draw.same_as.lower(), draw.same_as))
        else:
            drawn[name] = draw if isinstance(draw, CoefficientDraw) else CoefficientDraw.fixed(float(draw))
    for name, draw in same.items():
        if draw.same_as not in drawn:
            raise UserError("invalid_draw", f"{name} is to be the same as no drawn coefficient", got=draw.same_as)
    sources = drawn | {name: drawn[draw.same_as] for name, draw in same.items()}
    for name, source in sources.items():
        for value in (source.low, source.high, *source.also):
            family.complete({name: value})
    chosen: dict[str, Draw] = {c.name: CoefficientDraw.fixed(c.default) for c in family.coefficients}
    return chosen | drawn | same


def complete_kinds(family: Family, kinds: Mapping[str, float]) -> dict[str, float]:
    """The kinds of initial states that have a share, the usual one where none is given.

    Raises:
        UserError: ``invalid_draw`` for shares that are negative or add up to nothing, and those of
            `Family.initial_kind`.
    """
    for name in kinds:
        family.initial_kind(name)
    given = dict(kinds or {RAND: 1.0})
    if not (min(given.values()) >= 0.0 and 0.0 < sum(given.values()) < np.inf):
        raise UserError("invalid_draw", "the shares of kinds must be positive numbers", got=given)
    return {name: share for name, share in given.items() if share > 0.0}


def frame_times(family: Family, frame_dt: float | None = None, t_final: float | None = None) -> NDArray[np.float64]:
    """Times of the frames to keep; one for steady families.

    Raises:
        UserError: ``dt_mismatch`` where t_final is no multiple of frame_dt.
    """
    if family.steady:
        return np.zeros(1)
    step = family.frame_dt if frame_dt is None else frame_dt
    end = family.t_final if t_final is None else t_final
    steps = round(end / step) if step > 0 else 0
    if steps < 1 or abs(steps * step - end) > 1e-9 * end:
        raise UserError("dt_mismatch", "the final time must be a multiple of the frame spacing", got=(end, step))
    return np.arange(steps + 1, dtype=np.float64) * step


def solve_rows(
    family: Family,
    draws: Mapping[str, Draw],
    rows: Sequence[int],
    seed: int,
    grid: Grid,
    times: NDArray[np.float64],
    kinds: Mapping[str, float] = MappingProxyType({RAND: 1.0}),
) -> Solved:
    """Draw and solve the trajectories of `rows` together.

    Args:
        kinds: of initial states, with their shares.

    Raises:
        UserError: ``solver_diverged`` where a solution is not finite.
    """
    table = draw_table(draws, seed, rows)
    coefficients = {name: table[:, column] for column, name in enumerate(draws)}
    initial, fixed = [], []
    for index, row in enumerate(rows):
        kind = pick_kind(generator(seed, KIND, row), kinds)
        own = {name: column[index : index + 1] for name, column in coefficients.items()}
        initial.append(family.draw_initial(generator(seed, INITIAL, row), 1, grid, own, kind))
        fixed.append(family.draw_static(generator(seed, STATIC, row), 1, grid, kind))
    static = np.concatenate([part for part in fixed if part is not None]) if family.static_fields else None
    values = family.solve(np.concatenate(initial), times, grid, coefficients, static)
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise UserError(
            "solver_diverged",
            f"the reference solution of {family.id} is not finite in row {rows[bad]}",
            got={name: float(column[bad]) for name, column in coefficients.items()},
        )
    return Solved(values.astype(np.float32), table, None if static is None else static.astype(np.float32))


def draw_table(draws: Mapping[str, Draw], seed: int, rows: Sequence[int]) -> NDArray[np.float64]:
    """The coefficients (n, K) of `rows`."""
    table = []
    for row in rows:
        rng = generator(seed, COEFFICIENTS, row)
        drawn = {
            name: float(draw.sample(rng, 1)[0]) for name, draw in draws.items() if isinstance(draw, CoefficientDraw)
        }
        table.append([drawn[draw.same_as if isinstance(draw, SameAs) else name] for name, draw in draws.items()])
    return np.array(table, dtype=np.float64).reshape(len(rows), len(draws))


ATTEMPTS = 10
"""Draws of a row's coefficients until its solution stays within bounds."""
LARGEST = 50.0
"""Of the values of such a solution."""


def draws_together(family: Family, draw: Mapping[str, Draw | float]) -> bool:
    """Is no draw given, and does the family draw its coefficients together?"""
    return not draw and family.sample_coefficients(np.random.default_rng(0)) is not None


def solve_together(family: Family, rows: Sequence[int], seed: int, grid: Grid, times: NDArray[np.float64]) -> Solved:
    """The trajectories of `rows`, each with coefficients of `Family.sample_coefficients`.

    Raises:
        UserError: ``solver_diverged`` where `ATTEMPTS` draws of a row came to nothing.
    """
    found = [_row(family, row, seed, grid, 0) for row in rows]
    values = _bounded(family, found, grid, times)
    for attempt in range(1, ATTEMPTS):
        bad = np.flatnonzero(~(np.abs(values) < LARGEST).all(axis=tuple(range(1, values.ndim))))
        if not len(bad):
            break
        for index in bad.tolist():
            found[index] = _row(family, rows[index], seed, grid, attempt)
        values[bad] = _bounded(family, [found[index] for index in bad.tolist()], grid, times)
    if not np.isfinite(values).all():
        raise UserError("solver_diverged", f"no bounded solution of {family.id} was found", got=list(rows))
    statics = [static for _, _, static in found if static is not None]
    table = np.stack([coefficients for coefficients, _, _ in found])
    return Solved(values.astype(np.float32), table, np.concatenate(statics).astype(np.float32) if statics else None)


_Row = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]
"""Coefficients (K,), initial state (1, X..., C), static fields (1, X..., S)."""


def _row(family: Family, row: int, seed: int, grid: Grid, attempt: int) -> _Row:
    drawn = family.sample_coefficients(np.random.default_rng([seed, COEFFICIENTS, row, attempt])) or {}
    coefficients = np.array([drawn.get(entry.name, 0.0) for entry in family.coefficients])
    own = {entry.name: coefficients[[place]] for place, entry in enumerate(family.coefficients)}
    initial = family.draw_initial(generator(seed, INITIAL, row), 1, grid, own, RAND)
    return coefficients, initial, family.draw_static(generator(seed, STATIC, row), 1, grid, RAND)


def _bounded(family: Family, found: Sequence[_Row], grid: Grid, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, T, X..., C); not a number where the solver refuses, row by row if it has to be."""
    table = np.stack([coefficients for coefficients, _, _ in found])
    columns = {entry.name: table[:, place] for place, entry in enumerate(family.coefficients)}
    statics = [static for _, _, static in found if static is not None]
    initial = np.concatenate([state for _, state, _ in found])
    try:
        return family.solve(initial, times, grid, columns, np.concatenate(statics) if statics else None)
    except UserError as error:
        if error.code != "not_resolved":
            raise
    if len(found) > 1:
        return np.concatenate([_bounded(family, [one], grid, times) for one in found])
    return np.full((1, len(times), *initial.shape[1:]), np.nan)


def build_store(
    family: Family,
    draw: Mapping[str, Draw | float],
    count: int,
    resolution: int,
    seed: int,
    path: str | os.PathLike[str],
    batch: int = 64,
    progress: RowProgress | None = None,
    frame_dt: float | None = None,
    t_final: float | None = None,
    workers: int = 1,
    offset: float = Grid.CENTRE,
    kinds: Mapping[str, float] = MappingProxyType({}),
    part: DataPart | None = None,
) -> Store:
    """Solve `count` trajectories with coefficients drawn per trajectory and keep them as a store.

    The same settings always give the same bytes: a build that was interrupted resumes at its last whole shard, one
    that was finished is opened. Initial states depend on seed and row alone, so stores of families that share their
    initial states share them row by row.

    Args:
        family: `Family.under` a boundary condition where that is not the usual one, or `Family.in_single` precision.
        draw: how each coefficient is drawn; a number fixes it; those not given stay at their default. Where none is
            given, a family may draw them together (`Family.sample_coefficients`).
        resolution: points per axis.
        batch: trajectories solved together.
        frame_dt, t_final: default to the family's.
        workers: processes that solve; 1 solves in this one.
        offset: place of the first point along every axis, in spacings.
        kinds: shares of the kinds of initial states; default the usual one alone.
        part: solve that part of the rows alone, to be merged with the others (`data.parts`).

    Raises:
        UserError: ``dt_mismatch``, ``store_exists`` (the folder holds a store of other settings), ``solver_diverged``,
            ``invalid_part``, and those of `complete_draws` and `complete_kinds`.
    """
    if count < 1 or batch < 1 or workers < 1:
        raise UserError("invalid_count", "count, batch and workers must be positive", got=(count, batch, workers))
    draws, shares = complete_draws(family, draw), complete_kinds(family, kinds)
    grid = Grid((resolution,) * family.ndim, family.extent, (offset,) * family.ndim)
    times = frame_times(family, frame_dt, t_final)
    layout = family_layout(family, grid, times)
    together = draws_together(family, draw)
    provenance: dict[str, object] = {
        "generator": f"ups_server {__version__}",
        "count": count,
        "seed": seed,
        "batch": batch,
        "draw": "together" if together else {name: entry.model_dump(mode="json") for name, entry in draws.items()},
    }
    if list(shares) != [RAND]:
        provenance["kinds"] = shares
    if family.single:
        provenance["single"] = True
    row_bytes = int(np.prod(layout.row_shape)) * VALUE.itemsize
    per_shard = batch * max(1, SHARD_BYTES // (batch * row_bytes))
    rows = range(count)
    if part is not None:
        rows = part.rows(count, batch)
        provenance = provenance_of_part(provenance, rows, per_shard)
    if (Path(path) / MANIFEST).exists():
        return _finished(path, layout, provenance)
    solve = partial(solve_rows, family, draws, seed=seed, grid=grid, times=times, kinds=shares)
    if together:
        solve = partial(solve_together, family, seed=seed, grid=grid, times=times)
    with StoreWriter(path, layout, provenance, per_shard) as writer:
        done = writer.written
        starts = range(rows.start + done, rows.stop, batch)
        batches = [range(start, min(start + batch, rows.stop)) for start in starts]
        for solved in solved_in_order(solve, batches, workers):
            writer.append(solved.values, solved.coefficients, solved.static)
            done += len(solved.values)
            if progress is not None:
                progress(done, len(rows))
        return writer.close()


def family_layout(family: Family, grid: Grid, times: NDArray[np.float64]) -> StoreLayout:
    """The store layout of a family's trajectories."""
    return StoreLayout(
        family=family.id,
        fields=tuple(field.name for field in family.fields),
        grid=GridRecord.of(grid),
        times=tuple(times.tolist()),
        boundary=tuple((low, high) for low, high in family.boundary.as_names()),
        coefficients=tuple(coefficient.name for coefficient in family.coefficients),
        static_fields=tuple(field.name for field in family.static_fields),
    )


def _finished(path: str | os.PathLike[str], layout: StoreLayout, provenance: dict[str, object]) -> Store:
    store = Store.open(path)
    if store.manifest.layout != layout or store.manifest.provenance != StoreWriter.plain(provenance):
        raise UserError("store_exists", f"{path} holds a store of other settings", hint="choose another path")
    return store


def solved_in_order(solve: Callable[[range], Solved], batches: list[range], workers: int) -> Iterator[Solved]:
    """Solve the batches of rows and yield them in their order; at most one more pending than there are workers."""
    if workers == 1:
        yield from map(solve, batches)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending: deque[Future[Solved]] = deque()
        for rows in batches:
            pending.append(pool.submit(solve, rows))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


BATCH = 32
BATCH_BYTES = 64 * 2**20
"""Rows solved together: `BATCH`, or as many as fill this; an interruption loses little more."""


def generate(
    family: Family,
    coefficients: Mapping[str, float | Draw],
    count: int,
    resolution: int,
    out: str | os.PathLike[str],
    seed: int,
    progress: RowProgress | None = None,
    frame_dt: float | None = None,
    t_final: float | None = None,
    workers: int = 1,
    kinds: Mapping[str, float] = MappingProxyType({}),
    boundary: BoundaryCondition | None = None,
    part: DataPart | None = None,
) -> Path:
    """Solve `count` trajectories and write them in PDEBench's layout; returns the path.

    Of a `part` the store is returned that `merge_file` writes the file from, once all parts are there.

    Initial states are of the usual kind, or of `kinds` by their shares; the boundary condition is the family's, or
    another that its solver and its files know.

    Initial states depend on seed and row alone: files of several coefficients, and of families that share their
    initial states, share them row by row. Coefficients may also be drawn per trajectory, which the file then lists.

    A run that was interrupted, killed even, goes on after the last rows it had gathered in the folder `OUT.rows`; the
    file is the same as without the interruption.

    Raises:
        UserError: those of `build_store`, and ``no_layout`` for what PDEBench does not publish.
    """
    path = Path(out)
    if not path.parent.is_dir():
        raise UserError("not_found", f"there is no folder {path.parent}")
    card = card_of(family.id)
    if card is None:
        raise UserError("no_layout", f"PDEBench has no layout for {family.id}", hint="build a store instead")
    boundary_word(card, family, boundary)
    equation = family if boundary is None else family.under(boundary)
    grid, times = family.default_grid(resolution), frame_times(family, frame_dt, t_final)
    row_bytes = 4 * len(times) * int(np.prod(grid.n)) * len(family.fields)
    batch = max(1, min(BATCH, BATCH_BYTES // row_bytes))
    rows = path.with_name(f"{path.name}.rows") if part is None else part.folder(path)
    with build_store(
        equation, coefficients, count, resolution, seed, rows, batch, progress, frame_dt, t_final, workers,
        kinds=kinds, part=part,
    ) as store:  # fmt: skip
        if part is not None:
            return rows
        write_pdebench(path, store)
    shutil.rmtree(rows)
    return path
