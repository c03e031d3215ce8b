"""A rollout in the engine: cut into parts that fit a batch, put together again frame by frame. Imports no torch."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ups_server.solve.engine import RolloutSpec
from ups_server.solve.solver import Batch, BatchedSession, Frames, Landing, Resumable, Session


@dataclass(eq=False)
class Part:
    """Some of a rollout's states, which advance together.

    Attributes:
        first: number of its first state in the rollout.
        bucket: parts with equal buckets can share a batch.
        rows, bytes: its states, and the working memory one step of them takes.
        step, landed: steps begun and finished.
        served: the turn it last took part in; at first, the one in which it came.
        newcomer: is it the first part of a rollout that has not made a step?
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
    landed: int = 0

    @property
    def ready(self) -> bool:
        """Is there a step to make, and room at the reader's for the frame it leads to?"""
        rollout = self.rollout
        return self.step < rollout.last and self.step // rollout.save_every < rollout.allowed


@dataclass(eq=False)
class Rollout:
    """A rollout between two steps.

    Attributes:
        allowed: frames that its reader has had room for so far.
        last: its last step; less than asked for once a state is not finite.
        seconds: how long the turns took in which it made a step.
    """

    id: int
    model: str
    last: int
    save_every: int
    allowed: int
    seconds: float = 0.0
    durable: bool = False
    parts: list[Part] = field(default_factory=list)
    _frames: dict[int, dict[int, tuple[Frames, ...]]] = field(default_factory=dict)
    _bad_fields: set[int] = field(default_factory=set)
    _bad_states: set[int] = field(default_factory=set)

    @classmethod
    def begin(cls, header: dict[str, Any], spec: RolloutSpec, session: Session, max_rows: int, memory: int, turn: int,
              rows: int) -> "Rollout":  # fmt: skip
        """Cuts a session into parts of at most `max_rows` states, and as many as fit into `memory` bytes."""
        rollout = cls(header["id"], spec.model, spec.n_steps, spec.save_every, header["window"], durable=spec.durable)
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
        return all(part.landed >= self.last for part in self.parts)

    def restore(self, step: int, saved: Frames) -> None:
        """Goes to where it stood after `step` steps, instead of a first one."""
        self.allowed += step // self.save_every
        for part in self.parts:
            if not isinstance(part.session, Resumable | BatchedSession):
                raise TypeError(f"{type(part.session).__name__} cannot go on from a saved place")
            part.session.restore(step, saved[part.first : part.first + part.rows])
            part.step = part.landed = step

    def land(self, part: Part, step: int, values: Frames | None, saved: Frames | None) -> tuple[Frames, ...] | None:
        """Takes a part's states after a step, and what going on from there takes, where it was wanted.

        Both of the whole rollout, (B, X..., C) and (B, ...), where this completes a frame that is kept.
        """
        part.landed = step
        if values is None or step > self.last:
            return None
        bad = ~np.isfinite(values)
        if bad.any():
            self._blow_up(part, step, bad)
            return None
        if step % self.save_every:
            return None
        pieces = self._frames.setdefault(step, {})
        pieces[part.first] = (values,) if saved is None else (values, saved)
        if len(pieces) < len(self.parts):
            return None
        del self._frames[step]
        if len(pieces) == 1:
            return pieces[part.first]
        ordered = [pieces[first] for first in sorted(pieces)]
        return tuple(np.concatenate(arrays) for arrays in zip(*ordered, strict=True))

    def end(self) -> dict[str, Any]:
        """The message that ends it: all steps made, or where it stopped being finite."""
        if not self._bad_states:
            return {"op": "end", "id": self.id, "seconds": self.seconds}
        found = {"fields": sorted(self._bad_fields), "states": sorted(self._bad_states)}
        return {"op": "blow_up", "id": self.id, "step": self.last, "seconds": self.seconds, **found}

    def _blow_up(self, part: Part, step: int, bad: np.ndarray) -> None:
        """Values (B, X..., C) are not finite after a step: the earliest such step of all parts is the last."""
        if step < self.last:
            self.last, self._bad_fields, self._bad_states = step, set(), set()
        self._bad_fields |= set(np.flatnonzero(bad.any(axis=tuple(range(bad.ndim - 1)))).tolist())
        states = np.flatnonzero(bad.any(axis=tuple(range(1, bad.ndim))))
        self._bad_states |= {part.first + int(state) for state in states}


def charge(parts: Sequence[Part], seconds: float) -> None:
    """Each rollout of a turn waited all of it."""
    for rollout in {part.rollout for part in parts}:
        rollout.seconds += seconds


@dataclass(eq=False)
class Running:
    """A batch of a bucket, and the turns its members still have before those that wait."""

    members: list[Part]
    batch: Batch
    turns: int


@dataclass(eq=False)
class Flight:
    """A step under way."""

    members: list[Part]
    steps: list[int]
    landing: Landing
    saved: Landing | None


class Single:
    """A session that shares its steps with nobody."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def launch(self, wanted: Sequence[bool]) -> Landing:
        frames = self._session.step()
        return lambda: [frames]

    def saved(self, wanted: Sequence[bool]) -> Landing:
        if not isinstance(self._session, Resumable):
            raise TypeError(f"the place of a {type(self._session).__name__} cannot be saved")
        saved = self._session.saved()
        return lambda: [saved]

    def release(self) -> None:
        pass


def batch_of(parts: Sequence[Part]) -> Batch:
    """A batch of parts of one bucket."""
    first = parts[0].session
    if not isinstance(first, BatchedSession):
        return Single(first)
    return first.batch([part.session for part in parts if isinstance(part.session, BatchedSession)])
