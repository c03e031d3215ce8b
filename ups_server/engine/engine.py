"""The engine: whatever owns the device and advances rollouts. What stands above it assumes no process or machine."""

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from ups_server.errors import UserError
from ups_server.solvers.limits import Ended, StateLimit
from ups_server.solvers.solver import Frames, Problem


@dataclass(frozen=True)
class RolloutSpec:
    """One rollout as the engine sees it.

    Attributes:
        model: what the solver is loaded from (`ModelCard.source`).
        n_steps: steps of `problem.dt`.
        save_every: every so many steps become a frame.
        kept: those that do instead, ascending, the last one n_steps; none: as `save_every` says.
        deterministic: share no step with other rollouts: the same request then gives the same bits.
        durable: every frame comes with what is needed to go on from it.
        limits: where a state ends, beside values that are not finite.
    """

    model: str
    problem: Problem
    n_steps: int
    save_every: int = 1
    deterministic: bool = False
    durable: bool = False
    limits: tuple[StateLimit, ...] = ()
    kept: tuple[int, ...] = ()

    def keeps(self, step: int) -> bool:
        """Does this step become a frame?"""
        if not self.kept:
            return step % self.save_every == 0
        return self.kept[min(bisect_left(self.kept, step), len(self.kept) - 1)] == step

    def frames_by(self, step: int) -> int:
        """Frames of the first so many steps, without the initial state."""
        return bisect_right(self.kept, step) if self.kept else step // self.save_every

    def step_of(self, frame: int) -> int:
        """The step that becomes this frame; frame 0 is the initial state."""
        if frame == 0 or not self.kept:
            return frame * self.save_every
        return self.kept[frame - 1]

    def as_json(self) -> dict[str, Any]:
        document: dict[str, Any] = _SPEC.dump_python(self, mode="json")
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "RolloutSpec":
        """Reads what `as_json` wrote, after a way as JSON."""
        return _SPEC.validate_python(document)


_SPEC = TypeAdapter(RolloutSpec)


@dataclass(frozen=True)
class Started:
    """The engine accepted the rollout: model loaded, problem understood. Always the first event."""


@dataclass(frozen=True)
class Frame:
    """The states (B, X..., C) after `step` steps, NaN where they have ended; `saved` is what `Standing` takes."""

    step: int
    values: Frames
    saved: Frames | None = None


@dataclass(frozen=True)
class Standing:
    """Where a durable rollout had come to, `step` being that of a frame: from there it goes on bit for bit.

    Attributes:
        ended: which states had ended up to there.
    """

    step: int
    saved: Frames
    ended: tuple[Ended, ...] = ()


@dataclass(frozen=True)
class Finished:
    """There are no more steps, or states. `seconds` of computing went into those there were, waiting left out."""

    seconds: float


Event = Started | Frame | Ended | Finished
"""States end before the frame of their step comes; once all have ended, there are no more frames."""


@dataclass(frozen=True)
class Health:
    """What the engine is doing.

    Attributes:
        state: `starting`, `loading` (up, the default model is not), `ready`, `down`.
        reason: why it is not ready.
        process_id: of the engine process, where there is one.
        restarts: how often it was restarted.
        active, queued: rollouts being stepped, rollouts waiting.
        seconds_left: of computing that rollouts have still to come, where that is estimated.
        detail: by name of a process: `process_id`, and what it has computed: `steps`, `rows`, `seconds`.
        devices: of each of several engines; `device` is its name there.
    """

    state: str
    reason: str | None = None
    device: str | None = None
    models: tuple[str, ...] = ()
    process_id: int | None = None
    restarts: int = 0
    active: int = 0
    queued: int = 0
    seconds_left: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    devices: "tuple[Health, ...]" = ()


class EngineFailure(Exception):
    """Our fault: a solver raised something other than a UserError. The traceback is in the engine's log."""


class LateStep(Exception):
    """A step took longer than the process allows that it was made in."""


def engine_unavailable(message: str) -> UserError:
    """503: the engine is away; asking again later is worth it."""
    return UserError("engine_unavailable", message, hint="the engine restarts by itself: ask again")


def shutting_down() -> UserError:
    """503: the service ends, and with it what it computes for those who wait."""
    return UserError("engine_unavailable", "the service is shutting down", hint="ask again once it is there again")


class Engine(ABC):
    """Runs rollouts of many requests at once."""

    @abstractmethod
    async def start(self) -> None:
        """Begins to start; returns at once. `health` tells when it is ready."""

    @abstractmethod
    def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
    ) -> AsyncGenerator[Event]:
        """Started, each frame as it is computed, Finished; closing the generator frees the engine's place.

        Args:
            initial: (B, X..., C), finite, physical units.
            static: (B, X..., S).
            standing: where to go on; the frames up to there do not come again.

        Raises:
            UserError: ``queue_full``, ``engine_unavailable``, and what the solver objects to.
            EngineFailure: the solver failed.
        """

    @abstractmethod
    def beside(self, model: str) -> bool:
        """Is there another worker for the numerical solver, that a rollout of this model would share no step with?"""

    @abstractmethod
    def uses(self, model: str) -> bool:
        """Is a rollout of this model (`RolloutSpec.model`) waiting or in progress?"""

    @abstractmethod
    def health(self) -> Health: ...

    @abstractmethod
    async def close(self) -> None:
        """Ends the engine; rollouts under way raise ``engine_unavailable``."""
