"""Who may enter the engine: so many rollouts at a time with so much state, bounded queues, an express lane.

What the numerical solver would compute for too long is refused before (`check_cost`): every family states how fast its
signals are, and the number of steps of its solver follows from that.

Short rollouts and long ones wait in lines of their own. While both lines have somebody, neither kind takes more than
its half of the places and of the memory: a crowd of one kind never keeps the other out. What one does not need, the
other has. (Inside, the scheduler gives one of three turns to those that have made no step yet.)
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ups_server.engine.engine import RolloutSpec
from ups_server.errors import UserError
from ups_server.pde import family
from ups_server.settings import Settings

EXPRESS_STEPS = 8
"""Rollouts of so few steps have places of their own besides the others: they never wait for long ones to end."""

EXPRESS_SHARE = 4
"""One express place for so many ordinary ones, at least one."""
SOLVER = "numerical"
POINT_STEPS_PER_S = 1e6
"""Steps of a point that a core makes in a second; measured with compressible flow on 64 x 64 points."""
WORKING_COPIES = 30
"""Of one state in float64, while the solver makes a step."""


class Admission:
    """So many rollouts at a time; of each kind a bounded number waits in order of arrival.

    Args:
        places: ordinary rollouts at a time.
        queue: rollouts of each kind that may wait.
        timeout: longest wait in seconds.
        memory: bytes of all that are inside at a time, express ones apart.
    """

    def __init__(self, places: int, queue: int, timeout: float, memory: int) -> None:
        self._places, self._queue, self._timeout, self._memory = places, queue, timeout, memory
        self._express_places = max(1, places // EXPRESS_SHARE)
        self._changed = asyncio.Condition()
        self._short, self._long = _Kind(), _Kind()
        self._express = 0

    @property
    def active(self) -> int:
        return self._short.places + self._long.places + self._express

    @property
    def waiting(self) -> int:
        return len(self._short.line) + len(self._long.line)

    @asynccontextmanager
    async def place(self, n_steps: int, size: int) -> AsyncIterator[None]:
        """Holds a place for a rollout of `n_steps` steps whose states take `size` bytes.

        Raises:
            UserError: ``queue_full``; ``too_much_memory`` where even an empty engine has no room.
        """
        if size > self._memory:
            raise UserError(
                "too_much_memory",
                "the states of this rollout take more memory than all rollouts together may",
                got=size,
                expected=f"at most {self._memory} bytes",
                hint="send fewer states at a time, or a coarser grid",
            )
        kind = self._short if n_steps <= EXPRESS_STEPS else self._long
        express = self._is_express(kind, size)
        if express:
            self._express += 1
        else:
            await self._wait(kind, size)
            kind.places, kind.taken = kind.places + 1, kind.taken + size
        try:
            yield
        finally:
            if express:
                self._express -= 1
            else:
                kind.places, kind.taken = kind.places - 1, kind.taken - size
            # Never lost, even to a cancelled task: those that wait look at the counts, which are right already.
            asyncio.get_running_loop().create_task(self._tell())

    def _is_express(self, kind: "_Kind", size: int) -> bool:
        """Is there an express place, and need of it?"""
        small = kind is self._short and size <= self._memory // (4 * self._express_places)
        return small and self._express < self._express_places and not self._free(kind, size)

    def _free(self, kind: "_Kind", size: int) -> bool:
        return not kind.line and self._fits(kind, size)

    def _fits(self, kind: "_Kind", size: int) -> bool:
        """Is there room, which the other kind does not claim?"""
        other = self._long if kind is self._short else self._short
        return self._has_room(size) and (self._within_half(kind, size) or not self._claims(other))

    def _has_room(self, size: int) -> bool:
        kinds = (self._short, self._long)
        places, taken = sum(kind.places for kind in kinds), sum(kind.taken for kind in kinds)
        return places < self._places and taken + size <= self._memory

    def _within_half(self, kind: "_Kind", size: int) -> bool:
        return kind.places < max(1, self._places // 2) and kind.taken + size <= max(size, self._memory // 2)

    def _claims(self, kind: "_Kind") -> bool:
        """Does the first in its line fit into its half?"""
        size = next(iter(kind.line.values()), None)
        return size is not None and self._has_room(size) and self._within_half(kind, size)

    async def _wait(self, kind: "_Kind", size: int) -> None:
        """Until this rollout is the first of its kind in line and fits."""
        if self._free(kind, size):
            return
        waiting = sum(self._short.line.values()) + sum(self._long.line.values())
        if len(kind.line) >= self._queue or waiting + size > self._memory:
            raise self._full("every place is taken and the queue is full")
        ticket = object()
        kind.line[ticket] = size
        try:
            async with asyncio.timeout(self._timeout), self._changed:
                await self._changed.wait_for(lambda: next(iter(kind.line)) is ticket and self._fits(kind, size))
        except TimeoutError:
            raise self._full("no place became free in time") from None
        finally:
            del kind.line[ticket]
            asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _full(self, message: str) -> UserError:
        return UserError(
            "queue_full",
            message,
            expected=f"at most {self._places} rollouts at a time and {self._queue} waiting",
            hint="ask again later",
        )


@dataclass(eq=False)
class _Kind:
    """Short rollouts, or long ones.

    Attributes:
        places, taken: of those inside, how many they are and their bytes.
        line: the bytes of each that waits, the first one first.
    """

    places: int = 0
    taken: int = 0
    line: dict[object, int] = field(default_factory=dict)


def step_seconds(spec: RolloutSpec, rows: int) -> float:
    """Seconds, roughly, from one state of a rollout to the next, of all its `rows` trajectories."""
    problem = spec.problem
    steps = family(problem.family).signal_speed * max(problem.grid.n) * problem.dt
    return rows * math.prod(problem.grid.n) * max(1.0, steps) / POINT_STEPS_PER_S


def check_cost(spec: RolloutSpec, rows: int, settings: Settings, share: float = 1.0) -> None:
    """Refuses what would take the solver too long or too much memory.

    Args:
        share: of `max_solver_s` that it may take.

    Raises:
        UserError: ``too_much_work``, ``grid_too_large``.
    """
    if spec.model != SOLVER:
        return
    values = math.prod(spec.problem.grid.n) * len(family(spec.problem.family).fields)
    size = 8 * values * WORKING_COPIES
    if size > settings.step_memory_bytes:
        raise UserError(
            "grid_too_large",
            "the numerical solver takes more memory on this grid than the engine may use",
            got=f"about {size} bytes",
            expected=f"at most {settings.step_memory_bytes} bytes",
            hint="use a coarser grid, or raise UPS_STEP_MEMORY_BYTES",
        )
    seconds = spec.n_steps * step_seconds(spec, rows)
    allowed = share * settings.max_solver_s
    if seconds > allowed:
        raise UserError(
            "too_much_work",
            "the numerical solver would take too long for this rollout",
            got=f"about {seconds:.0f} s",
            expected=f"at most {allowed:.0f} s",
            hint="use a coarser grid, fewer states or fewer steps; asynchronous rollouts may take longer",
        )
