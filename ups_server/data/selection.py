"""Which trajectories, frames and points of a source are wanted, as users write it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ups_server.data.composed import Subset, Thinned
from ups_server.data.source import TrajectorySource, place_of
from ups_server.errors import UserError

MOST_NUMBER = 2**31
"""Of a trajectory or frame that can be asked for."""


@dataclass(frozen=True)
class Selection:
    """A part of a source; None of each: all.

    Attributes:
        trajectories: ``FIRST:END``, a range without its end, or ``N,N``, by their numbers in the file.
        times: ``FROM:TO`` in the family's time unit, both included.
        steps: ``FIRST:END`` or ``N,N``: frames by their numbers, instead of `times`.
        resolution: points along the first axis or along each, which leaving points out evenly gives.
    """

    trajectories: str | None = None
    times: str | None = None
    steps: str | None = None
    resolution: int | Sequence[int] | None = None

    def of(self, source: TrajectorySource, name: str) -> TrajectorySource:
        """The part of `source`, a file called `name`; closing it closes the source.

        Raises:
            UserError: ``invalid_trajectories``, ``row_out_of_range``, ``unusable_row``, ``invalid_times``,
                ``invalid_steps``, ``resolution_mismatch``.
        """
        if self.times is not None and self.steps is not None:
            raise UserError("invalid_times", "give times or steps, not both", got=[self.times, self.steps])
        if self.trajectories is not None:
            source = chosen_rows(source, self.trajectories, name)
        frames = range(len(source.times))
        if self.times is not None:
            chosen = _frames_within(source, self.times)
        else:
            chosen = list(frames) if self.steps is None else _chosen_frames(self.steps, len(frames))
        stride = 1 if self.resolution is None else source.grid.stride_to(self.resolution)
        return source if chosen == list(frames) and stride == 1 else Thinned(source, chosen, stride)


def chosen_rows(source: TrajectorySource, text: str, name: str = "the file") -> Subset:
    """The trajectories ``FIRST:END`` or ``N,N`` of a source, by their numbers in the file.

    A range takes what there is of it; of a list each has to be usable. Reports say that the others are not asked for.

    Raises:
        UserError: ``invalid_trajectories``, and those of `place_of`.
    """
    known = source.row_numbers
    count = int(max([*known.numbers.tolist(), *known.left_out], default=-1)) + 1
    numbers = _numbers(text, count, "trajectories")
    if ":" in text:
        if numbers[-1] >= count:
            place_of(source, numbers[-1], name)
        within = (known.numbers >= numbers[0]) & (known.numbers <= numbers[-1])
        places = np.flatnonzero(within).tolist()
        if not places:
            place_of(source, numbers[0], name)
    else:
        places = sorted({place_of(source, number, name) for number in numbers})
    chosen = set(places)
    return Subset(source, places, {row: "not asked for" for row in range(places[-1]) if row not in chosen})


def ends_of(times: str) -> tuple[float, float]:
    """``FROM:TO`` as numbers, either of which may be left out. Raises UserError ``invalid_times``."""
    low, colon, high = times.partition(":")
    try:
        if not colon:
            raise ValueError
        return float(low or "-inf"), float(high or "inf")
    except ValueError:
        raise UserError("invalid_times", "times are given as FROM:TO", got=times, expected="0:0.5") from None


def _frames_within(source: TrajectorySource, text: str) -> list[int]:
    first, last = ends_of(text)
    slack = 1e-9 * max(1.0, float(np.abs(source.times).max()))
    frames = np.flatnonzero((source.times >= first - slack) & (source.times <= last + slack))
    if not len(frames):
        expected = f"within {source.times[0]:g} to {source.times[-1]:g}"
        raise UserError("invalid_times", "no frame lies within", got=text, expected=expected)
    return [int(frame) for frame in frames]


def _chosen_frames(text: str, count: int) -> list[int]:
    """The frames in order, each once."""
    frames = sorted(set(_numbers(text, count, "steps")))
    if frames[-1] >= count or frames[0] < 0:
        raise UserError("invalid_steps", "the file has no such frame", got=text, expected=f"0 to {count - 1}")
    return frames


def _numbers(text: str, count: int, what: str) -> list[int]:
    """Numbers from 0 on, as ``FIRST:END`` or ``N,N`` says. Raises UserError ``invalid_trajectories`` or ``_steps``."""
    try:
        if ":" in text:
            first, _, end = text.partition(":")
            low, high = int(first or 0), int(end or count)
            # One number beyond what there is shows that it was asked for; a range of billions is never made.
            possible = 0 <= low < high <= MOST_NUMBER
            numbers = list(range(low, max(low + 1, min(high, count + 1)))) if possible else []
        else:
            numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers:
        raise UserError(f"invalid_{what}", f"{what} are given as FIRST:END or N,N", got=text, expected="0:100")
    return numbers
