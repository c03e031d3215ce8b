"""One pass over the values of a source: what they are, and which rows can be used."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ups_server.data.composed import Subset
from ups_server.data.source import TrajectorySource, block_rows, frame_slices, rows_text
from ups_server.data.statistics import Moments
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.pde.family import Family, Field
from ups_server.pde.registry import known_family

PIECE = 2**20
STOPPED_FRAMES = 3
"""Equal frames at the end that are no coincidence."""
REPEATED, FAR = 3, 3.0
"""An extreme value at so many points, so many widths of the rest away from it, stands for something else."""
NEGATIVE = 1e-5
"""How far below zero, relative to its largest value, a positive field may round."""


def usable(source: TrajectorySource, at_most: int | None = None) -> Subset:
    """The rows of `source` that can be used, the first `at_most` of them; the others before the last are left out.

    A row can be used if it was written and can be read whole, holds finite values only, none negative where that is
    wrong, and its coefficients are in their domains.

    Raises:
        UserError: ``unusable_file`` where there is none.
    """
    if isinstance(source, Store):  # was checked when it was made
        return Subset(source, range(min(len(source), at_most or len(source))))
    scan = Scan(source, known_family(source.family), at_most)
    rows = [row for row in range(scan.seen) if row not in scan.unusable][:at_most]
    if not rows:
        reasons = "; ".join(dict.fromkeys(scan.unusable.values()))
        raise UserError("unusable_file", f"no trajectory can be used: {reasons}", got=f"0 of {scan.seen} usable")
    last = rows[-1] if at_most == len(rows) else scan.seen
    return Subset(source, rows, {row: reason for row, reason in scan.unusable.items() if row < last})


class ScannedValues:
    """What is known of the values of some fields after a pass over them."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = fields
        self.moments = [Moments(1) for _ in fields]
        self.not_finite = np.zeros(len(fields), np.int64)
        self.negative = np.zeros(len(fields), np.int64)
        self.ends = [_Ends() for _ in fields]

    def add(self, values: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Values (n, ..., C); yields what is wrong with some of the n rows, and which: not finite, or negative."""
        finite = np.isfinite(values)
        for channel, (field, moments) in enumerate(zip(self.fields, self.moments, strict=True)):
            good = values[..., channel][finite[..., channel]]
            missing = values[..., channel].size - good.size
            if missing:
                self.not_finite[channel] += missing
                yield f"{field.name} holds values that are not finite", ~_over_rows(finite[..., channel])
            if not good.size:
                continue
            for start in range(
                0, good.size, PIECE
            ):  # Moments work in float64: a whole block would need eight times it.
                moments.add(good[start : start + PIECE])
            self.ends[channel].add(good)
            low = -NEGATIVE * np.abs(good).max()
            if field.positive and good.min() < low:
                self.negative[channel] += int((good < low).sum())
                yield f"{field.name} must not be negative", ~_over_rows(~(values[..., channel] < low))

    def problems(self) -> Iterator[str]:
        for field, count in zip(self.fields, self.not_finite.tolist(), strict=True):
            if count:
                yield f"{field.name} holds {count} values that are not finite"
        for field, count in zip(self.fields, self.negative.tolist(), strict=True):
            if field.positive and count:
                yield f"{field.name} must not be negative and is at {count} points"

    def warnings(self) -> Iterator[str]:
        for field, ends in zip(self.fields, self.ends, strict=True):
            for value, count in ends.far_repeated():
                yield (
                    f"{field.name} is exactly {value:g} at {count} points, far away from all its other values: where "
                    "that stands for missing values, store NaN in their place"
                )


class _Ends:
    """The smallest and the largest of some values, how often each occurs, and the values next to them."""

    def __init__(self) -> None:
        self.low = self.high = (np.inf, 0, np.inf)
        """(value, count, next one); of the negated values where it is the largest."""

    def add(self, values: NDArray[np.float32]) -> None:
        self.low, self.high = _joined(self.low, _end(values)), _joined(self.high, _end(-values))

    def far_repeated(self) -> Iterator[tuple[float, int]]:
        """(value, count) of an end that several points share, farther from the rest than the rest is wide."""
        (low, low_count, above), (minus_high, high_count, minus_below) = self.low, self.high
        high, below = -minus_high, -minus_below
        bottom, top = (above if low_count >= REPEATED else low), (below if high_count >= REPEATED else high)
        for value, count, gap, width in (
            (low, low_count, above - low, top - above),
            (high, high_count, high - below, below - bottom),
        ):
            if count >= REPEATED and 0.0 < FAR * width < gap < np.inf:
                yield value, count


def _end(values: NDArray[np.float32]) -> tuple[float, int, float]:
    low = values.min()
    others = values[values != low]
    return float(low), int(values.size - others.size), float(others.min()) if others.size else np.inf


def _joined(one: tuple[float, int, float], two: tuple[float, int, float]) -> tuple[float, int, float]:
    if one[0] == two[0]:
        return one[0], one[1] + two[1], min(one[2], two[2])
    first, second = sorted((one, two))
    return first[0], first[1], min(first[2], second[0])


class Scan:
    """One pass over the values of a source, in pieces of bounded size.

    Args:
        at_most: the pass ends with the block in which so many rows have been found that can be used.

    Attributes:
        unusable: row -> why it cannot be used.
        seen: rows that were looked at.
        still: rows that do not change in time.
        stopped: row -> the frame from which on it does not change, where it did before.
        equal: rows that hold the values of an earlier one -> that one.
    """

    def __init__(self, source: TrajectorySource, family: Family, at_most: int | None = None) -> None:
        self.source = source
        self.values = ScannedValues(family.fields)
        self.static = ScannedValues(family.static_fields)
        self.unusable: dict[int, str] = {}
        self.seen = 0
        self.still: list[int] = []
        self.stopped: dict[int, int] = {}
        self.equal: dict[int, int] = {}
        self._seen_values: dict[bytes, int] = {}
        self.failures: dict[int, str] = {}
        for rows in block_rows(source):
            self._read(rows)
            self.seen = rows.stop
            if at_most is not None and self.seen - len(self.unusable) >= at_most:
                break

    def _read(self, rows: range) -> None:
        """Add a block; where it cannot be read, find the rows that can."""
        faults = {row: self.source.row_faults[row] for row in rows if row in self.source.row_faults}
        if faults and len(rows) > 1:
            for row in rows:
                self._read(range(row, row + 1))
        elif faults:
            self._leave_out(faults)
        else:
            self._read_values(rows)

    def _read_values(self, rows: range) -> None:
        course = _Course(len(rows))
        try:
            static = self.source.read_static(rows)
            for values in self._parts(rows):
                course.add(values)
                self._note(rows, self.values.add(values))
        except UserError as error:
            if len(rows) > 1:
                for row in rows:
                    self._read_values(range(row, row + 1))
                return
            self._leave_out({rows.start: str(error)})
            return
        if static is not None:
            self._note(rows, self.static.add(static))
        self._note_course(rows, course, static)

    def _note_course(self, rows: range, course: "_Course", static: NDArray[np.float32] | None) -> None:
        for index, row in enumerate(rows):
            since, digest = int(course.since[index]), course.digests[index]
            if row in self.unusable:
                continue
            if since == 0 and course.frames > 1:
                self.still.append(row)
            elif 0 < since <= course.frames - STOPPED_FRAMES:
                self.stopped[row] = since
            digest.update(self.source.coefficients[row].tobytes())
            if static is not None:
                digest.update(static[index].tobytes())
            first = self._seen_values.setdefault(digest.digest(), row)
            if first != row:
                self.equal[row] = first

    def _note(self, rows: range, faults: Iterator[tuple[str, NDArray[np.bool_]]]) -> None:
        for reason, bad in faults:
            for index in np.flatnonzero(bad).tolist():
                self.unusable.setdefault(rows[index], reason)

    def _leave_out(self, faults: dict[int, str]) -> None:
        self.failures |= faults
        self.unusable |= faults

    def _parts(self, rows: range) -> Iterator[NDArray[np.float32]]:
        if len(rows) > 1:  # Whole rows of several are read at once: a failure adds nothing.
            yield self.source.read(rows)
        else:
            yield from (self.source.read(rows, frames) for frames in frame_slices(self.source))

    def problems(self) -> Iterator[str]:
        if self.failures:
            first = min(self.failures)
            yield f"{_counted(len(self.failures))} cannot be used, the first, {first}, because {self.failures[first]}"
        yield from self.values.problems()
        yield from self.static.problems()

    def warnings(self) -> Iterator[str]:
        numbers = self.source.row_numbers.numbers
        if self.still:
            yield f"{len(self.still)} trajectories do not change in time"
        if self.stopped:
            rows = rows_text(numbers[list(self.stopped)].tolist())
            yield f"{rows}: nothing changes any more from a frame on, the earliest {min(self.stopped.values())}"
        if self.equal:
            row, first = next(iter(self.equal.items()))
            yield (
                f"{_counted(len(self.equal))} with exactly the values of another: "
                f"row {numbers[row]} is row {numbers[first]}"
            )
        yield from self.values.warnings()


class _Course:
    """How some rows go on in time, from their frames in pieces.

    Attributes:
        since: (n,) the last frame that differs from the one before; 0 where none does.
        digests: one a row, of all its values.
    """

    def __init__(self, count: int) -> None:
        self.since = np.zeros(count, np.int64)
        self.digests = [blake2b(digest_size=16) for _ in range(count)]
        self.frames = 0
        self._last: NDArray[np.float32] | None = None

    def add(self, values: NDArray[np.float32]) -> None:
        """The next frames (n, F, X..., C)."""
        for place in range(values.shape[1]):
            frame = values[:, place]
            if self._last is not None:
                changed = ~_over_rows(np.equal(frame, self._last))
                self.since[changed] = self.frames
            self.frames += 1
            self._last = frame
        for digest, row in zip(self.digests, values, strict=True):
            digest.update(np.ascontiguousarray(row).data)


def _over_rows(truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether all is true, a row."""
    return np.asarray(truth.reshape(len(truth), -1).all(axis=1))


def _counted(count: int) -> str:
    return "1 trajectory" if count == 1 else f"{count} trajectories"
