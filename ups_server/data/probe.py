"""Whether trajectories move as their family's reference solver moves them; where not, likely causes are tried out.

A few rows are stepped once, by the family's `dt`. The distance of the solver's answer from the file's is measured in
units of the step itself: 0 where they agree, about 1 where the solver is no better than leaving the state as it is.
"""

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

import numpy as np

from ups_server.data.source import TrajectorySource, coefficient_faults
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import Array, Grid
from ups_server.pde.registry import families, user_families

ROWS = 3
MOST_VALUES = 2**20
"""Of one state: larger ones would take long to step."""
DIFFERS = 0.3
"""A median distance from here on is no matter of resolution."""
EXPLAINS = 0.1
"""A cause explains the rows where the distance it leaves is below this, and a third of the first."""
SMALLEST_STEP = 1e-3
"""Relative to the state: less says nothing."""


@dataclass(frozen=True)
class RowSample:
    """Some rows as they stand in the file.

    Attributes:
        values: (R, 2 or all frames, X..., C); `step` frames make the step.
        times: (T,)
    """

    family: Family
    values: Array
    times: Array
    step: int
    grid: Grid
    coefficients: Mapping[str, Array]
    static: Array | None

    def distance(self) -> float:
        """Median over the rows of ||solved - stored|| / ||stored - initial|| after the step; NaN if nothing moves."""
        first, stored = self.values[:, 0], self.values[:, self.step]
        solved = self.family.solve(
            first, self.times[[0, self.step]] - self.times[0], self.grid, self.coefficients, self.static
        )[:, 1]
        return _distance(first, solved, stored)

    def possible(self) -> bool:
        """Whether the coefficients are in their domains."""
        columns = [self.coefficients[coefficient.name] for coefficient in self.family.coefficients]
        return not columns or not coefficient_faults(self.family, np.stack(columns, axis=1))


class _Overdue(Exception):
    pass


def probe(source: TrajectorySource, rows: Sequence[int], seconds: float) -> Iterator[str]:
    """One sentence where rows do not move as their family says, or why that was not looked at.

    Args:
        rows: those that can be used.
        seconds: CPU time the solvers may take; the main thread only.
    """
    family = families().get(source.family)
    if family is None or source.family in user_families() or family.steady or len(source.times) < 2 or not rows:
        return
    if int(np.prod(source.grid.n)) * len(source.fields) > MOST_VALUES:
        yield "not compared with the reference solver: the states are too large"
        return
    try:
        with _within(seconds), np.errstate(all="ignore"):
            yield from _findings(_sample(source, family, rows))
    except _Overdue:
        yield f"not compared with the reference solver: it takes more than {seconds:g} s"
    except (UserError, ArithmeticError, ValueError, RuntimeError, OSError, np.linalg.LinAlgError) as error:
        yield f"not compared with the reference solver, which cannot step these states ({type(error).__name__})"


def _findings(sample: RowSample) -> Iterator[str]:
    distance = sample.distance()
    if not distance >= DIFFERS:
        return
    said = (
        f"the trajectories do not move as {sample.family.id} does{_numbers(sample)}: after {_time(sample):g} they are "
    )
    said += f"{distance:.2g} of the step away from the reference solution"
    for cause, changed in _causes(sample):
        if not changed.possible():
            continue
        left = changed.distance()
        if left < EXPLAINS and left < distance / 3:
            yield f"{said}; {cause} (then {left:.1g})"
            return
    yield f"{said}; none of the likely causes explains it: look at family, coefficients, axes and times"


def _causes(sample: RowSample) -> Iterator[tuple[str, RowSample]]:
    """What the user may have stored in place of what the file says."""
    yield from _swapped(sample)
    for name in sample.coefficients:
        for factor, word in ((2.0, "twice"), (0.5, "half"), (-1.0, "minus")):
            changed = {**sample.coefficients, name: factor * sample.coefficients[name]}
            issue = " (as PDEBench's files before 9/2023, issue #46)" if sample.family.id == "advection" else ""
            yield (
                f"they move as with {word} the {name} that the file says{issue}",
                replace(sample, coefficients=changed),
            )
    if sample.family.id == "diffusion_reaction_1d":
        yield (
            "they tend to 0.5 in place of 1, as PDEBench's files do (issue #94)",
            replace(sample, values=2 * sample.values),
        )
    if sample.family.id == "burgers":
        half = {name: 2 * value for name, value in sample.coefficients.items()}
        yield (
            "they move at twice the speed, as PDEBench's files before 11/2023, whose x runs over (-1, 1) (issue #51)",
            replace(sample, values=2 * sample.values, coefficients=half),
        )
    yield from _other_equations(sample)


def _swapped(sample: RowSample) -> Iterator[tuple[str, RowSample]]:
    values, frames = sample.values, sample.values.shape[1]
    if sample.grid.ndim == 1 and frames == sample.grid.n[0]:
        yield "time and x are swapped in the stored array", replace(sample, values=values.swapaxes(1, 2))
    if sample.grid.ndim == 2 and len(set(sample.grid.n)) == 1 and len({*sample.grid.length}) == 1:
        static = None if sample.static is None else sample.static.swapaxes(1, 2)
        yield "x and y are swapped in the stored array", replace(sample, values=values.swapaxes(2, 3), static=static)


def _other_equations(sample: RowSample) -> Iterator[tuple[str, RowSample]]:
    own = sample.family
    if own.ndim == 1 and len(own.fields) == 1 and "nu" in sample.coefficients:
        yield "they move as the heat equation u_t = nu u_xx with the nu of the file", _Heat.of(sample)
    for other in families().values():
        alike = (other.ndim, len(other.fields), len(other.static_fields), other.boundary, other.extent)
        same = alike == (own.ndim, len(own.fields), len(own.static_fields), own.boundary, own.extent)
        if other.id != own.id and same and other.t_final > 0.0:
            count = len(sample.values)
            known = {c.name: np.full(count, c.default) for c in other.coefficients}
            shared = {name: value for name, value in sample.coefficients.items() if name in known}
            yield f"they move as {other.id}", replace(sample, family=other, coefficients={**known, **shared})


@dataclass(frozen=True)
class _Heat(RowSample):
    """The same rows under u_t = nu u_xx on a periodic axis, solved exactly in Fourier space."""

    @classmethod
    def of(cls, sample: RowSample) -> "_Heat":
        return cls(**vars(sample))

    def distance(self) -> float:
        first, stored = self.values[:, 0], self.values[:, self.step]
        k = 2 * np.pi * np.fft.rfftfreq(self.grid.n[0], self.grid.spacing[0])
        decay = np.exp(-self.coefficients["nu"][:, None] * k**2 * _time(self))[..., None]
        return _distance(first, np.fft.irfft(np.fft.rfft(first, axis=1) * decay, self.grid.n[0], axis=1), stored)


def _sample(source: TrajectorySource, family: Family, rows: Sequence[int]) -> RowSample:
    chosen = [rows[0], rows[len(rows) // 2], rows[-1]]
    chosen = list(dict.fromkeys(chosen))[:ROWS]
    reached = np.flatnonzero(source.times - source.times[0] >= family.dt * (1 - 1e-6))
    step = int(reached[0]) if len(reached) else len(source.times) - 1
    square = source.grid.ndim == 1 and len(source.times) == source.grid.n[0]
    frames = slice(0, len(source.times)) if square else slice(0, step + 1, step)
    static = source.read_static(chosen)
    table = source.coefficients[chosen]
    return RowSample(
        family,
        source.read(chosen, frames).astype(np.float64),
        source.times if square else source.times[frames],
        step if square else 1,
        source.grid,
        {name: table[:, column] for column, name in enumerate(source.coefficient_names)},
        None if static is None else static.astype(np.float64),
    )


def _distance(first: Array, solved: Array, stored: Array) -> float:
    """Median over the rows; a solver that fails is infinitely far, a row that hardly moves says nothing."""
    found = []
    for own, theirs, start in zip(stored, solved, first, strict=True):
        moved = float(np.linalg.norm(own - start))
        if moved > SMALLEST_STEP * float(np.linalg.norm(start)):
            away = float(np.linalg.norm(theirs - own))
            found.append(away / moved if np.isfinite(away) else np.inf)
    return float(np.median(found)) if found else np.nan


def _time(sample: RowSample) -> float:
    return float(sample.times[sample.step] - sample.times[0])


def _numbers(sample: RowSample) -> str:
    """`` with beta = 0.4``, of the first row."""
    named = ", ".join(f"{name} = {column[0]:g}" for name, column in sample.coefficients.items())
    return f" with {named}" if named else ""


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raises `_Overdue` in the block when its time is over; outside the main thread it takes what it takes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise _Overdue

    previous = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, previous)
