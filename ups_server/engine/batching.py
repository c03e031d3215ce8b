"""A rollout in the engine: cut into parts that fit a batch, put together again frame by frame. Imports no torch."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ups_server.engine.engine import RolloutSpec
from ups_server.solvers.limits import Ended, Survivors
from ups_server.solvers.solver import BatchedSession, Frames, InFlight, Resumable, Session, SessionBatch, why_ended


@dataclass(eq=False)
class Part:
    """Some of a rollout's states, which advance together.

    Attributes:
        first: number of its first state in the rollout.
        bucket: parts with equal buckets can share a batch.
        rows, bytes: its states, and the working memory one step of them takes.
        step, finished: steps begun and finished.
        served: the turn it last took part in; at first, the one in which it came.
        newcomer: is it the first part of a rollout that has not made a step?
        over: have all its states ended?
    """

    rollout: "Rollout"
    first: int
    session: Session
    bucket: Hashable
    rows: int
    bytes: int
    served: int
    newcomer: bool
    step: int = 0
    finished: int = 0
    over: bool = False

    @property
    def ready(self) -> bool:
        """Is there a step to make, and room at the reader's for the frame it leads to?"""
        rollout = self.rollout
        return (
            not self.over and self.step < rollout.spec.n_steps and rollout.spec.frames_by(self.step) < rollout.allowed
        )


@dataclass(eq=False)
class Rollout:
    """A rollout between two steps.

    Attributes:
        allowed: frames that its reader has had room for so far.
        survivors: its states, as long as they last.
        watched: are all its states looked at after every step, for limits of their own?
        seconds: how long the turns took in which it made a step.
    """

    id: int
    spec: RolloutSpec
    allowed: int
    survivors: Survivors
    watched: bool
    seconds: float = 0.0
    parts: list[Part] = field(default_factory=list)
    _frames: dict[int, dict[int, tuple[Frames, ...]]] = field(default_factory=dict)

    @classmethod
    def begin(cls, header: dict[str, Any], spec: RolloutSpec, session: Session, max_rows: int, memory: int, turn: int,
              rows: int) -> "Rollout":  # fmt: skip
        """Cuts a session into parts of at most `max_rows` states, and as many as fit into `memory` bytes."""
        rollout = cls(header["id"], spec, header["window"], Survivors(spec.limits, rows), watched=bool(spec.limits))
        if not isinstance(session, BatchedSession):
            rollout.parts = [Part(rollout, 0, session, ("alone", rollout.id), rows, 0, turn, True)]
            return rollout
        most = max(1, min(max_rows, memory // session.row_bytes))
        pieces = [session] if session.rows <= most else session.split(most)
        for number, piece in enumerate(pieces):
            bucket = ("alone", rollout.id, number) if spec.deterministic else piece.bucket
            size = piece.rows * piece.row_bytes
            rollout.parts.append(
                Part(rollout, number * most, piece, bucket, piece.rows, size, turn, newcomer=number == 0)
            )
        return rollout

    @property
    def over(self) -> bool:
        return all(part.over or part.finished >= self.spec.n_steps for part in self.parts)

    def restore(self, step: int, saved: Frames, ended: Sequence[int]) -> None:
        """Goes to where it stood after `step` steps, instead of a first one; these states had ended by then."""
        self.allowed += self.spec.frames_by(step)
        self.survivors.end(ended)
        for part in self.parts:
            if not isinstance(part.session, Resumable | BatchedSession):
                raise TypeError(f"{type(part.session).__name__} cannot go on from a saved place")
            part.session.restore(step, saved[part.first : part.first + part.rows])
            part.step = part.finished = step
            part.over = self._has_ended(part)

    def take(self, part: Part, step: int, values: Frames | None, saved: Frames | None) -> list[Ended]:
        """Takes a part's states after a step, and what going on from there takes, where it was wanted.

        Returns:
            The states that ended here. `frames` has what this completes.
        """
        part.finished = step
        if values is None:
            return []
        ended = self.survivors.check(step, values, part.first, why_ended(part.session))
        part.over = self._has_ended(part)
        if self.spec.keeps(step):
            masked = self.survivors.masked(values, part.first)
            self._frames.setdefault(step, {})[part.first] = (masked,) if saved is None else (masked, saved)
        return ended

    def frames(self) -> Iterator[tuple[int, tuple[Frames, ...]]]:
        """Steps that are kept and complete, in order: states (B, X..., C) of the whole rollout, and what was saved.

        A frame waits for every part that has not ended; where all have, there is none.
        """
        for step in sorted(self._frames):
            pieces = self._frames[step]
            missing = [part for part in self.parts if part.first not in pieces]
            if any(not part.over for part in missing):
                return
            del self._frames[step]
            example = next(iter(pieces.values()))
            if not self.survivors.alive.all() and all(np.isnan(piece[0]).all() for piece in pieces.values()):
                continue
            for part in missing:
                pieces[part.first] = tuple(
                    np.full((part.rows, *array.shape[1:]), np.nan, dtype=np.float32) for array in example
                )
            ordered = [pieces[first] for first in sorted(pieces)]
            joined = zip(*ordered, strict=True)
            yield step, ordered[0] if len(ordered) == 1 else tuple(np.concatenate(arrays) for arrays in joined)

    def _has_ended(self, part: Part) -> bool:
        return not self.survivors.alive[part.first : part.first + part.rows].any()


def charge(parts: Sequence[Part], seconds: float) -> None:
    """Each rollout of a turn waited all of it."""
    for rollout in {part.rollout for part in parts}:
        rollout.seconds += seconds


@dataclass(eq=False)
class RunningBatch:
    """A batch of a bucket, and the turns its members still have before those that wait."""

    members: list[Part]
    batch: SessionBatch
    turns: int


@dataclass(eq=False)
class InFlightStep:
    """A step under way: `states` waits for its states, `saved` for what going on from them takes."""

    members: list[Part]
    steps: list[int]
    states: InFlight
    saved: InFlight | None


class Single:
    """A session that shares its steps with nobody."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def launch(self, wanted: Sequence[bool]) -> InFlight:
        frames = self._session.step()
        return lambda: [frames]

    def saved(self, wanted: Sequence[bool]) -> InFlight:
        if not isinstance(self._session, Resumable):
            raise TypeError(f"the place of a {type(self._session).__name__} cannot be saved")
        saved = self._session.saved()
        return lambda: [saved]

    def release(self) -> None:
        pass


def batch_of(parts: Sequence[Part]) -> SessionBatch:
    """A batch of parts of one bucket."""
    first = parts[0].session
    if not isinstance(first, BatchedSession):
        return Single(first)
    return first.batch([part.session for part in parts if isinstance(part.session, BatchedSession)])
