"""Who may enter the engine: so many rollouts at a time with so much state, a bounded queue, an express lane."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ups_server.errors import UserError

EXPRESS_STEPS = 8
"""Rollouts of so few steps have places of their own besides the others: they never wait for long ones to end."""

EXPRESS_SHARE = 4
"""One express place for so many ordinary ones, at least one."""


class Admission:
    """So many rollouts at a time; a bounded number waits in order of arrival.

    Args:
        places: ordinary rollouts at a time.
        queue: rollouts that may wait.
        timeout: longest wait in seconds.
        memory: bytes of all that are inside at a time, express ones apart.
    """

    def __init__(self, places: int, queue: int, timeout: float, memory: int) -> None:
        self._places, self._queue, self._timeout, self._memory = places, queue, timeout, memory
        self._express_places = max(1, places // EXPRESS_SHARE)
        self._changed = asyncio.Condition()
        self._line: list[object] = []
        self._taken = 0
        self._ordinary = 0
        self._express = 0

    @property
    def active(self) -> int:
        return self._ordinary + self._express

    @property
    def waiting(self) -> int:
        return len(self._line)

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
        express = self._is_express(n_steps, size)
        if not express:
            await self._wait(size)
        if express:
            self._express += 1
        else:
            self._ordinary, self._taken = self._ordinary + 1, self._taken + size
        try:
            yield
        finally:
            if express:
                self._express -= 1
            else:
                self._ordinary, self._taken = self._ordinary - 1, self._taken - size
            # Never lost, even to a cancelled task: those that wait look at the counts, which are right already.
            asyncio.get_running_loop().create_task(self._tell())

    def _is_express(self, n_steps: int, size: int) -> bool:
        """Is there an express place, and need of it?"""
        small = n_steps <= EXPRESS_STEPS and size <= self._memory // (4 * self._express_places)
        return small and self._express < self._express_places and not self._free(size)

    def _free(self, size: int) -> bool:
        return not self._line and self._fits(size)

    def _fits(self, size: int) -> bool:
        return self._ordinary < self._places and self._taken + size <= self._memory

    async def _wait(self, size: int) -> None:
        """Until this rollout is the first in line and fits."""
        if self._free(size):
            return
        if len(self._line) >= self._queue:
            raise self._full("every place is taken and the queue is full")
        ticket = object()
        self._line.append(ticket)
        try:
            async with asyncio.timeout(self._timeout), self._changed:
                await self._changed.wait_for(lambda: self._line[0] is ticket and self._fits(size))
        except TimeoutError:
            raise self._full("no place became free in time") from None
        finally:
            self._line.remove(ticket)
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
