"""One interface for everything that advances a state: trained models, persistence, numerical methods."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ups_server.pde import BoundaryCondition, Grid

Frames = NDArray[np.float32]


@dataclass(frozen=True)
class Problem:
    """What is solved: one equation on one grid.

    Attributes:
        coefficients: every coefficient of the family: one number for the batch, or one per state.
        dt: the time between two states.
    """

    family: str
    coefficients: Mapping[str, float | Sequence[float]]
    grid: Grid
    boundary: BoundaryCondition
    dt: float

    def coefficient_arrays(self, count: int) -> dict[str, NDArray[np.float64]]:
        """One array (count,) per coefficient."""
        return {
            name: np.broadcast_to(np.asarray(value, dtype=np.float64), (count,))
            for name, value in self.coefficients.items()
        }


class Session(Protocol):
    """One rollout in progress."""

    def step(self) -> Frames:
        """The next state (B, X..., C) in physical units, dt later."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A session whose place can be kept, and taken again by another session of the same problem."""

    def saved(self) -> Frames:
        """What going on from here takes, bit for bit: numbers of any meaning, states along the first axis."""
        ...

    def restore(self, step: int, saved: Frames) -> None:
        """Goes to where a session stood after `step` steps, instead of a first step."""
        ...


@runtime_checkable
class Explained(Protocol):
    """A session that knows why some of its states are not finite."""

    def why_ended(self) -> Mapping[int, str]:
        """By state, in words that follow the name of a field; those without a known reason are left out."""
        ...


InFlight = Callable[[], list[Frames | None]]
"""Waits for a step that was launched. Each session's state (B, X..., C) where it was wanted or is not finite."""


class SessionBatch(Protocol):
    """Sessions that advance together."""

    def launch(self, wanted: Sequence[bool]) -> InFlight:
        """Begins one step of all; on an accelerator the next one may begin before its states have arrived."""
        ...

    def saved(self, wanted: Sequence[bool]) -> InFlight:
        """Begins to copy what `Resumable.saved` gives after the step launched last, for each session that wants it."""
        ...

    def release(self) -> None:
        """Gives the sessions their states back: they may join another batch."""
        ...


class BatchedSession(ABC):
    """A rollout in progress that can share its steps with others of the same bucket.

    Attributes:
        bucket: equal for sessions that can be in one batch.
        rows: states.
        row_bytes: estimated memory that a step takes per state, beyond the states themselves.
    """

    bucket: Hashable
    rows: int
    row_bytes: int

    @abstractmethod
    def step(self) -> Frames:
        """See `Session`."""

    @abstractmethod
    def restore(self, step: int, saved: Frames) -> None:
        """See `Resumable`."""

    @abstractmethod
    def split(self, rows: int) -> "list[BatchedSession]":
        """Sessions of at most so many states each, instead of this one; before the first step only."""

    @abstractmethod
    def batch(self, sessions: "Sequence[BatchedSession]") -> SessionBatch:
        """A batch of sessions of this bucket, this one among them."""


class Solver(Protocol):
    """Advances states of a problem."""

    name: str

    def dt(self, family: str) -> float:
        """The time step of this solver for a family.

        Raises:
            UserError: ``family_not_in_model``.
        """
        ...

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        """Starts a rollout of `initial` (B, X..., C), physical units; `static` (B, X..., S).

        Raises:
            UserError: ``family_not_in_model``, ``dt_mismatch``.
        """
        ...

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        """Teacher-forced predictions (B, T-1, X..., C) of truth[:, 1:] from truth[:, :-1]; (B, T, X..., C) given.

        What a solver reads once per rollout, it reads from truth[:, 0]. None where a visible state does not
        determine the next one.
        """
        ...


def why_ended(session: Session) -> Mapping[int, str]:
    """What a session knows of it."""
    return session.why_ended() if isinstance(session, Explained) else {}


def rollout(session: Session, n_steps: int) -> Iterator[Frames]:
    """The states after steps 1 … n_steps, one at a time."""
    for _ in range(n_steps):
        yield session.step()
