"""Continuous batching: rollouts join and leave between any two steps, and share the steps. Imports no torch.

A turn is one step of one batch. The batches of different buckets (model, grid, boundary) take turns; within a bucket,
parts that fit together (rows, memory) make `QUANTUM` steps before others that wait take their places.

Rollouts that have just come make their first step in a turn of their own, before the others', so that neither the first
frame nor a rollout of one step waits for those that came long ago; the batch that runs is not taken apart for it. After
such a turn those who have made a step before have `TURNS_BETWEEN` turns, if they want them: a crowd of short rollouts
leaves long ones two of three turns, and waits for two of theirs at most.
"""

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ups_server.engine import protocol
from ups_server.engine.batching import InFlightStep, Part, Rollout, RunningBatch, batch_of, charge
from ups_server.engine.engine import RolloutSpec
from ups_server.errors import UserError
from ups_server.solvers.registry import ModelCache
from ups_server.solvers.solver import BatchedSession, Frames, Session

logger = logging.getLogger("ups_server.engine")

QUANTUM = 8
"""Steps a full batch makes before those that wait take the places: membership is not changed at every step."""

TURNS_BETWEEN = 2
"""Turns of rollouts under way between two of newcomers."""

Send = Callable[[dict[str, Any], Sequence[Frames]], None]


@dataclass(frozen=True)
class StepLimits:
    """What one step may take.

    Attributes:
        rows: most states.
        memory: most bytes of working memory, as the sessions estimate it.
        ahead: steps that may be launched before an earlier one is finished: 1 on an accelerator, where the copy of a
            frame then overlaps the next step.
    """

    rows: int
    memory: int
    ahead: int = 0


@dataclass
class Work:
    """What has been done: steps of batches, states they advanced, seconds they took."""

    steps: int = 0
    rows: int = 0
    seconds: float = 0.0


class StepEnded(Exception):
    """The step in hand was ended. `late`: it took longer than it may here; else nobody waits for it."""

    def __init__(self, late: bool) -> None:
        super().__init__("late" if late else "cancelled")
        self.late = late


class Interruption:
    """Of the steps of one process, which are made in its main thread.

    Args:
        longest: seconds of a step; None: as long as it takes.
    """

    def __init__(self, longest: float | None) -> None:
        self._longest = longest
        self._lock = threading.Lock()
        self._current: int | None = None
        self._unwanted: set[int] = set()
        signal.signal(signal.SIGUSR1, self._cancelled)
        signal.signal(signal.SIGALRM, self._late)

    def cancel(self, rollout_id: int) -> None:
        """Nobody waits for this rollout any more; from any thread."""
        with self._lock:
            self._unwanted.add(rollout_id)
            if self._current == rollout_id:
                signal.raise_signal(signal.SIGUSR1)

    def forget(self, rollout_id: int) -> None:
        """There will be no more steps of this rollout."""
        self._unwanted.discard(rollout_id)

    @contextmanager
    def during(self, rollout_id: int) -> Iterator[None]:
        """A step of a rollout. Raises `StepEnded`."""
        try:
            self._current = rollout_id
            if rollout_id in self._unwanted:
                raise StepEnded(late=False)
            if self._longest is not None:
                signal.setitimer(signal.ITIMER_REAL, self._longest)
            yield
        finally:
            self._current = None
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _cancelled(self, number: int, frame: FrameType | None) -> None:
        if self._current in self._unwanted:
            raise StepEnded(late=False)

    def _late(self, number: int, frame: FrameType | None) -> None:
        if self._current is not None:
            raise StepEnded(late=True)


class Scheduler:
    """Advances all rollouts of an engine process.

    Attributes:
        work: since the start of the process.
    """

    def __init__(
        self, solvers: ModelCache, send: Send, limits: StepLimits, interruption: Interruption | None = None
    ) -> None:
        self._solvers = solvers
        self._send = send
        self._limits = limits
        self._interruption = interruption
        self._rollouts: dict[int, Rollout] = {}
        self._running: dict[Hashable, RunningBatch] = {}
        self._turn_of: dict[Hashable, int] = {}
        self._in_flight: deque[InFlightStep] = deque()
        self._turn = 0
        self.work = Work()
        self._favoured = False
        self._turns_since = TURNS_BETWEEN

    def handle(self, header: dict[str, Any], arrays: list[Frames]) -> None:
        """Takes in one message."""
        match header["op"]:
            case "load":
                self._preload(header["model"])
            case "rollout":
                self._join(header, arrays)
            case "more" if header["id"] in self._rollouts:
                self._rollouts[header["id"]].allowed += header["frames"]
            case "cancel":
                self._rollouts.pop(header["id"], None)
                if self._interruption is not None:
                    self._interruption.forget(header["id"])

    def step(self) -> bool:
        """One turn. False where there was nothing to do until the next message."""
        ready = [part for rollout in self._rollouts.values() for part in rollout.parts if part.ready]
        if not ready:
            return self._finish_all()
        began = time.monotonic()
        self._turn += 1
        bucket = self._next_bucket(ready)
        self._turn_of[bucket] = self._turn
        candidates = [part for part in ready if part.bucket == bucket and part.newcomer == self._favoured]
        step = self._launched(bucket, self._chosen(bucket, candidates))
        if step is not None:
            self._in_flight.append(step)
            self.work.steps += 1
            self.work.rows += sum(part.rows for part in step.members)
        while len(self._in_flight) > self._limits.ahead:
            self._finish(self._in_flight.popleft())
        self.work.seconds += time.monotonic() - began
        return True

    def _preload(self, model: str) -> None:
        try:
            self._solvers.get(model, self._in_use())
        except Exception as error:
            logger.exception("model %s cannot be loaded", model)
            self._send({"op": "load_failed", "model": model, "reason": str(error)}, ())

    def _in_use(self) -> set[str]:
        return {rollout.spec.model for rollout in self._rollouts.values()}

    def _join(self, header: dict[str, Any], arrays: list[Frames]) -> None:
        try:
            spec = RolloutSpec.from_json(header["spec"])
            step = header.get("step", 0)
            saved = arrays.pop() if step else None
            solver = self._solvers.get(spec.model, self._in_use())
            with self._ended_early(header["id"]):
                session = solver.session(spec.problem, *arrays)
            self._check_memory(session)
            limits = self._limits
            rollout = Rollout.begin(header, spec, session, limits.rows, limits.memory, self._turn, len(arrays[0]))
            if saved is not None:
                rollout.restore(step, saved, header["ended"])
        except Exception as error:
            self._fail(header["id"], error)
            return
        self._rollouts[rollout.id] = rollout
        self._send({"op": "started", "id": rollout.id}, ())

    def _ended_early(self, rollout_id: int) -> AbstractContextManager[None]:
        """Around what a built-in solver computes for a rollout."""
        return nullcontext() if self._interruption is None else self._interruption.during(rollout_id)

    def _check_memory(self, session: Session) -> None:
        if isinstance(session, BatchedSession) and session.row_bytes > self._limits.memory:
            raise UserError(
                "grid_too_large",
                "one step on this grid takes more memory than the engine may use",
                got=f"about {session.row_bytes} bytes",
                expected=f"at most {self._limits.memory} bytes",
                hint="use a coarser grid, or raise UPS_STEP_MEMORY_BYTES",
            )

    def _next_bucket(self, ready: Sequence[Part]) -> Hashable:
        """Of the newcomer that came first, unless it is the others' turn; else the one that waited longest."""
        newcomers = [part for part in ready if part.newcomer]
        others = [part for part in ready if not part.newcomer]
        self._favoured = bool(newcomers) and (self._turns_since >= TURNS_BETWEEN or not others)
        if self._favoured:
            self._turns_since = 0 if others else TURNS_BETWEEN
            return newcomers[0].bucket
        self._turns_since += 1
        return min(others, key=lambda part: self._turn_of.get(part.bucket, 0)).bucket

    def _chosen(self, bucket: Hashable, ready: list[Part]) -> list[Part]:
        """Members of the batch that have turns left first, then who waited longest; what fits."""
        running = self._running.get(bucket)
        members = set(running.members) if running and running.turns > 0 else set()

        def place(part: Part) -> tuple[bool, int]:
            return (part not in members, part.served)

        chosen: list[Part] = []
        rows = size = 0
        for part in sorted(ready, key=place):
            rows, size = rows + part.rows, size + part.bytes
            if chosen and (rows > self._limits.rows or size > self._limits.memory):
                break
            chosen.append(part)
        return chosen

    def _launched(self, bucket: Hashable, chosen: list[Part]) -> InFlightStep | None:
        """Begins a step of these parts. Where it fails for several, they go on alone: the guilty one fails then."""
        for part in chosen:
            part.step += 1
            part.served = self._turn
            part.newcomer = False
        began = time.perf_counter()
        try:
            running = self._batch(bucket, chosen)
            running.turns -= 1
            kept = [part.rollout.spec.keeps(part.step) for part in running.members]
            wanted = [due or part.rollout.watched for due, part in zip(kept, running.members, strict=True)]
            with self._ended_early(chosen[0].rollout.id):
                states = running.batch.launch(wanted)
            durable = [due and part.rollout.spec.durable for due, part in zip(kept, running.members, strict=True)]
            saved = running.batch.saved(durable) if any(durable) else None
            if running is not self._running.get(bucket):
                running.batch.release()
        except Exception as error:
            self._fall(bucket, chosen, error)
            return None
        charge(running.members, time.perf_counter() - began)
        return InFlightStep(running.members, [part.step for part in running.members], states, saved)

    def _batch(self, bucket: Hashable, chosen: list[Part]) -> RunningBatch:
        """The batch of these parts: the running one where they are its members, one beside it for newcomers."""
        running = self._running.get(bucket)
        if running is not None and set(chosen) == set(running.members):
            running.turns = running.turns or QUANTUM
            return running
        if running is not None and self._favoured:
            return RunningBatch(chosen, batch_of(chosen), 1)
        self._dissolve(bucket)
        self._running[bucket] = running = RunningBatch(chosen, batch_of(chosen), QUANTUM)
        return running

    def _dissolve(self, bucket: Hashable) -> None:
        if running := self._running.pop(bucket, None):
            running.batch.release()

    def _fall(self, bucket: Hashable, chosen: list[Part], error: Exception) -> None:
        if len(chosen) == 1:
            self._fail(chosen[0].rollout.id, error)
            self._running.pop(bucket, None)
            return
        logger.warning("a step of %d rollouts failed (%s); they go on one by one", len(chosen), error)
        self._finish_all()
        self._dissolve(bucket)
        for part in chosen:
            part.step -= 1
            part.bucket = ("alone", part.rollout.id, part.first)

    def _finish_all(self) -> bool:
        """Waits for every step under way. Was there one?"""
        some = bool(self._in_flight)
        while self._in_flight:
            self._finish(self._in_flight.popleft())
        return some

    def _finish(self, step: InFlightStep) -> None:
        began = time.perf_counter()
        try:
            frames = step.states()
            places = step.saved() if step.saved else [None] * len(frames)
        except Exception as error:
            for part in step.members:
                self._fail(part.rollout.id, error)
            return
        charge(step.members, time.perf_counter() - began)
        for part, number, values, saved in zip(step.members, step.steps, frames, places, strict=True):
            rollout = self._rollouts.get(part.rollout.id)
            if rollout is None:
                continue
            for ended in rollout.take(part, number, values, saved):
                self._send({"op": "ended", "id": rollout.id, "states_ended": ended.as_json()}, ())
            for kept, frame in rollout.frames():
                self._send({"op": "frame", "id": rollout.id, "step": kept}, frame)
            if rollout.over:
                self._leave(rollout)

    def _leave(self, rollout: Rollout) -> None:
        del self._rollouts[rollout.id]
        self._send({"op": "end", "id": rollout.id, "seconds": rollout.seconds}, ())
        self._forget_empty_buckets()

    def _forget_empty_buckets(self) -> None:
        """No batch outlives its rollouts."""
        alive = {part.bucket for rollout in self._rollouts.values() for part in rollout.parts}
        for bucket in [bucket for bucket in self._running if bucket not in alive]:
            del self._running[bucket]
        self._turn_of = {bucket: turn for bucket, turn in self._turn_of.items() if bucket in alive}

    def _fail(self, rollout_id: int, error: Exception) -> None:
        """Ends one request: the user's mistake, or ours."""
        self._rollouts.pop(rollout_id, None)
        if isinstance(error, StepEnded):
            if not error.late:
                return  # nobody is there to hear of it
            problem = {"code": protocol.LATE, "message": "a step took longer than this process allows"}
        elif isinstance(error, UserError):
            problem = protocol.problem_as_json(error)
        else:
            logger.error("rollout %d failed", rollout_id, exc_info=error)
            problem = {"code": "internal_error", "message": f"{type(error).__name__}: {error}"}
        self._send({"op": "problem", "id": rollout_id, "problem": problem}, ())
