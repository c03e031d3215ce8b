"""Asynchronous rollouts: taken from the table of jobs, computed by the engine, kept frame by frame.

They run in the API process, which only brings frames from the engine to the disk, and share the engine's batches
with everybody else. When the engine dies, they go on from the last frame in its next life; when this process dies,
their leases run out, and the next process goes on.
"""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ups_server.data.formats.zarr import ZarrSteps
from ups_server.engine.engine import Engine, Event, Finished, Frame, RolloutSpec, Started
from ups_server.errors import UserError
from ups_server.files.uploads import is_full, storage_full
from ups_server.jobs.leases import Lease, LeaseLost, Leases
from ups_server.jobs.results import ROLLOUTS, RolloutFolder
from ups_server.jobs.spec import ROLLOUT, Job, RolloutJobSpec
from ups_server.jobs.store import JobStore
from ups_server.jobs.worker import plain
from ups_server.objects import shared_folders
from ups_server.rollout.observation import Observation
from ups_server.rollout.plan import Plan
from ups_server.settings import Settings
from ups_server.solvers.limits import Ended
from ups_server.solvers.solver import Frames
from ups_server.specs import Flag, RolloutRequest
from ups_server.tensors import Arrays

logger = logging.getLogger(__name__)

PROGRESS_S = 1.0
"""Seconds between two events about progress."""

Planner = Callable[[RolloutFolder], Awaitable[Plan]]


def order(
    request: RolloutRequest,
    arrays: Arrays | None,
    todo: Plan,
    store: JobStore,
    settings: Settings,
    key: str | None,
    job_id: str,
) -> tuple[Job, bool]:
    """Queues a rollout under an id; (job, True), or the job that the same key made before and False.

    Raises:
        UserError: ``not_kept``, ``too_many_points``, ``idempotency_conflict``.
    """
    if request.diagnostics or request.reference:
        check_observable(todo, settings)
    folder, shared = RolloutFolder(settings.data_dir, job_id), shared_folders(settings)
    created = False
    try:
        digest = folder.create(request, arrays, todo)
        shared.push(f"{ROLLOUTS}/{job_id}")
        spec = RolloutJobSpec(
            model=todo.card.id,
            family=todo.family.id,
            n_steps=todo.request.n_steps,
            save_every=todo.request.save_every,
            n_frames=todo.n_frames,
            file=request.initial_condition.file if request.initial_condition else None,
            request_sha256=digest,
        )
        job, created = store.create(spec, key, job_id)
        return job, created
    finally:
        if not created:
            shared.remove(f"{ROLLOUTS}/{job_id}")
            folder.remove()


def check_observable(todo: Plan, settings: Settings) -> None:
    """Diagnostics and reference look at what is stored, once it is whole, with all of it in memory.

    Raises:
        UserError: ``not_kept``, ``too_many_points``.
    """
    if todo.finer is not None:
        raise UserError(
            "not_kept",
            "an interpolated answer is kept without the model's own states, which diagnostics and reference look at",
            got=todo.request.method,
            expected="the method resolution-free, or a rollout that is waited for",
        )
    values = math.prod(todo.shape)
    if values > settings.max_points:
        raise UserError(
            "too_many_points",
            "diagnostics and reference are for answers that could be waited for",
            got=values,
            expected=f"at most {settings.max_points} values",
            hint="use a larger save_every, or leave both out",
        )


def without_waiting(settings: Settings) -> Settings:
    """The limits of rollouts whose frames go to the disk: nothing of them stays in memory."""
    return settings.model_copy(
        update={"max_steps": settings.max_async_steps, "max_points": settings.results_bytes // 4}
    )


@dataclass
class Attempt:
    """One lease of a rollout. `frames` are on disk; `seconds` of computing, where it made all of them itself."""

    lease: Lease
    folder: RolloutFolder
    frames: int = 0
    flags: tuple[Flag, ...] = ()
    ended: tuple[Ended, ...] = ()
    seconds: float | None = None
    reported: float = 0.0


class StoredFrames:
    """A rollout whose frames are stored, as a source of them; whatever else is asked for, the engine computes.

    Args:
        ended: the states that ended on the way.
        seconds: of computing, where one attempt made all of it.
    """

    def __init__(
        self, engine: Engine, todo: Plan, steps: ZarrSteps, frames: int, ended: Sequence[Ended], seconds: float | None
    ) -> None:
        self._engine, self._todo, self._steps = engine, todo, steps
        self._frames, self._ended, self._seconds = frames, ended, seconds

    def beside(self, model: str) -> bool:
        """False: all frames are there before the reference begins."""
        return False

    async def rollout(self, spec: RolloutSpec, initial: Frames, static: Frames | None = None) -> AsyncGenerator[Event]:
        """See `Engine.rollout`; of an ensemble the control alone."""
        if spec is not self._todo.spec:
            async with aclosing(self._engine.rollout(spec, initial, static)) as events:
                async for event in events:
                    yield event
            return
        yield Started()
        waiting = sorted(self._ended, key=lambda event: event.step)
        for frame in range(1, self._frames):
            step = self._todo.spec.step_of(frame)
            while waiting and waiting[0].step <= step:
                yield waiting.pop(0)
            yield Frame(step, await asyncio.to_thread(self._states, frame))
        for event in waiting:
            yield event
        if self._seconds is not None:
            yield Finished(self._seconds)

    def _states(self, frame: int) -> Frames:
        """(B, X..., C) as the engine had them."""
        rows = 1 if self._todo.ensemble is not None else self._todo.rows
        return np.stack([self._steps.row(frame, row) for row in range(rows)]) / self._todo.scale


class RolloutRunner:
    """Computes what is queued, `max_async_active` at a time and engine.

    Args:
        planner: makes the plan of the request in a folder, with the limits of `without_waiting`.
    """

    def __init__(self, settings: Settings, engine: Engine, planner: Planner) -> None:
        self._settings, self._engine, self._planner = settings, engine, planner
        self._shared = shared_folders(settings)
        self._owner = f"rollouts-{uuid.uuid4().hex[:12]}"
        self._wake, self._stopping = asyncio.Event(), asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._attempts: set[asyncio.Task[None]] = set()
        self._observing = asyncio.Lock()
        """One at a time: each has a whole result in memory."""

    def start(self, leases: Leases) -> None:
        self._working = asyncio.create_task(self._work(leases))

    def wake(self) -> None:
        """There is something new in the queue."""
        self._wake.set()

    async def close(self) -> None:
        """What is being computed goes back into the queue."""
        self._stopping.set()
        self._wake.set()
        if self._working is not None:
            await self._working

    async def _work(self, leases: Leases) -> None:
        reclaim_at = 0.0
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                if time.monotonic() >= reclaim_at:
                    await asyncio.to_thread(leases.reclaim)
                    reclaim_at = time.monotonic() + leases.seconds / 3
                await self._claim(leases)
            except Exception:
                logger.exception("the table of jobs does not answer")
            try:
                async with asyncio.timeout(self._settings.job_poll_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
        if self._attempts:
            await asyncio.wait(self._attempts)

    async def _claim(self, leases: Leases) -> None:
        """Begins as many attempts as there are places and jobs."""
        places = self._settings.max_async_active * self._settings.engines
        while len(self._attempts) < places:
            lease = await asyncio.to_thread(leases.claim, self._owner, (ROLLOUT,))
            if lease is None:
                return
            attempt = Attempt(lease, RolloutFolder(self._settings.data_dir, lease.job.id))
            task = asyncio.create_task(self._attempt(leases, attempt))
            self._attempts.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._attempts.discard(task)
        self._wake.set()

    async def _attempt(self, leases: Leases, attempt: Attempt) -> None:
        lease = attempt.lease
        logger.info("%s: attempt %d", lease.job.id, lease.job.attempt)
        computing = asyncio.create_task(self._traced(leases, attempt))
        try:
            end = await self._watched(leases, lease, computing)
            if end is None:
                await asyncio.to_thread(leases.succeed, lease, computing.result())
                return
            computing.cancel()
            await asyncio.wait([computing])
            if end == "cancelled" and attempt.frames:
                await asyncio.to_thread(self._finish, attempt)
            await asyncio.to_thread(leases.cancel if end == "cancelled" else leases.release, lease)
        except LeaseLost:
            logger.warning("%s: the lease was lost, this attempt ends", lease.job.id)
        except Exception as error:
            await self._failed(leases, attempt, error)
        finally:
            computing.cancel()

    async def _failed(self, leases: Leases, attempt: Attempt, error: Exception) -> None:
        """What was reached is kept; a problem of our own says nothing about our insides."""
        if is_full(error):
            error = storage_full()
        if isinstance(error, UserError):
            problem = plain(error.problem())
        else:
            logger.error("%s failed", attempt.lease.job.id, exc_info=error)
            detail = f"the rollout failed with {type(error).__name__}; the log says more"
            problem = {"title": "internal error", "status": 500, "detail": detail, "code": "internal_error"}
        try:
            if attempt.frames:
                await asyncio.to_thread(self._finish, attempt)
        except OSError as refused:
            logger.warning("%s: its last frame could not be written down: %s", attempt.lease.job.id, refused)
        try:
            await asyncio.to_thread(leases.fail, attempt.lease, problem)
        except Exception:
            logger.exception("%s: its failure could not be written down", attempt.lease.job.id)

    async def _watched(self, leases: Leases, lease: Lease, computing: "asyncio.Task[Any]") -> str | None:
        """None once it is computed, else why it has to stop: `cancelled`, `stopping`. Keeps the lease meanwhile."""
        stopping = asyncio.create_task(self._stopping.wait())
        beat_at = time.monotonic() + leases.seconds / 3
        try:
            while True:
                await asyncio.wait(
                    [computing, stopping], timeout=self._settings.job_poll_s, return_when=asyncio.FIRST_COMPLETED
                )
                if computing.done():
                    return None
                if await asyncio.to_thread(leases.cancelled, lease):
                    return "cancelled"
                if stopping.done():
                    return "stopping"
                if time.monotonic() >= beat_at:
                    await asyncio.to_thread(leases.heartbeat, lease)
                    beat_at = time.monotonic() + leases.seconds / 3
        finally:
            stopping.cancel()

    async def _traced(self, leases: Leases, attempt: Attempt) -> dict[str, Any]:
        with attempt.lease.span():
            return await self._compute(leases, attempt)

    async def _compute(self, leases: Leases, attempt: Attempt) -> dict[str, Any]:
        """The result of the job: what is on disk at the end."""
        folder = attempt.folder
        await asyncio.to_thread(self._shared.pull, f"{ROLLOUTS}/{folder.path.name}")
        todo = await self._planner(folder)
        await asyncio.to_thread(folder.begin, todo)
        attempt.flags = tuple(todo.flags)
        await asyncio.to_thread(leases.running, attempt.lease)
        failures = 0
        while True:
            before = attempt.frames
            try:
                await self._advance(leases, attempt, todo)
                break
            except UserError as error:
                if error.code not in ("engine_unavailable", "queue_full"):
                    raise
                if error.code == "engine_unavailable":
                    failures = 1 if attempt.frames > max(1, before) else failures + 1
                    if failures >= self._settings.job_max_crashes:
                        raise
                logger.warning("%s: %s; it goes on from frame %d", attempt.lease.job.id, error, attempt.frames)
                await asyncio.sleep(self._settings.engine_restart_s)
        found = await self._observed(leases, attempt, todo)
        await asyncio.to_thread(self._finish, attempt, found)
        return {
            "frames": attempt.frames,
            "n_frames": todo.n_frames,
            "flags": [flag.model_dump(mode="json") for flag in attempt.flags],
            "bytes": await asyncio.to_thread(folder.bytes),
        }

    def _finish(self, attempt: Attempt, found: dict[str, Any] | None = None) -> None:
        """What was reached is the result, for every machine."""
        attempt.folder.finish(attempt.frames, list(attempt.flags), found)
        self._shared.push(f"{ROLLOUTS}/{attempt.folder.path.name}")

    async def _advance(self, leases: Leases, attempt: Attempt, todo: Plan) -> None:
        """Runs from the last frame on disk until the end, or until the engine fails."""
        folder, steps = attempt.folder, ZarrSteps(attempt.folder.zarr, todo.header())
        standing = await asyncio.to_thread(folder.standing)
        attempt.frames = 1 + (todo.spec.frames_by(standing.step) if standing else 0)
        ended = list(standing.ended) if standing else []
        attempt.flags = (*todo.flags, *map(todo.ended_flag, ended))
        if attempt.frames < todo.n_frames:
            spec = replace(todo.spec, durable=True)
            async with aclosing(self._engine.rollout(spec, todo.initial, todo.static, standing)) as events:
                async for event in events:
                    if isinstance(event, Frame):
                        await asyncio.to_thread(folder.keep, steps, todo, event, ended)
                        attempt.frames += 1
                        if time.monotonic() >= attempt.reported + PROGRESS_S:
                            await self._report(leases, attempt, todo)
                    elif isinstance(event, Ended):
                        ended.append(event)
                        attempt.flags = (*attempt.flags, todo.ended_flag(event))
                    elif isinstance(event, Finished) and standing is None:
                        attempt.seconds = event.seconds
        attempt.ended = tuple(ended)
        await self._report(leases, attempt, todo)

    async def _observed(self, leases: Leases, attempt: Attempt, todo: Plan) -> dict[str, Any]:
        """Diagnostics and reference of what is stored, where they were asked for; begun anew after a kill."""
        if not (todo.request.diagnostics or todo.request.reference):
            return {}
        steps = ZarrSteps(attempt.folder.zarr, todo.header())
        stored = StoredFrames(self._engine, todo, steps, attempt.frames, attempt.ended, attempt.seconds)
        async with self._observing:
            data = {"done": 0, "total": todo.n_frames, "what": "diagnostics and reference"}
            await asyncio.to_thread(leases.event, attempt.lease, "progress", data, "observing")
            observation = Observation(todo, stored, self._settings.reference_timeout_s)
            await observation.start()
            async with aclosing(observation.events()) as events:
                async for _ in events:
                    pass
            found = await asyncio.to_thread(observation.attributes)
        attempt.flags = tuple(observation.flags)
        return {name: found[name] for name in ("diagnostics", "reference") if name in found}

    async def _report(self, leases: Leases, attempt: Attempt, todo: Plan) -> None:
        """An event about progress, from which nothing is lost any more."""
        attempt.reported = time.monotonic()
        frames = attempt.frames
        data = {"done": frames, "total": todo.n_frames, "what": "frames"}
        await asyncio.to_thread(leases.checkpoint, attempt.lease, data, f"frames:{frames}", "progress")
