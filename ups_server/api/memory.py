"""How much memory the API process gives to requests, from first byte to place in the engine, and to their answers.

A request takes what its size, or the shape it asks for, says it needs, before anything is read, parsed, unpacked or
drawn; what does not fit waits. Once that is given back, its answer takes what its shape needs, of what there is for
answers, before anything of it is computed. Small bodies and answers are free: there are never more of them than open
connections.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ups_server.errors import UserError

COPIES = 3
"""Of a body, at most: its bytes, its arrays, and one more while either becomes the other."""
SMALL = 2**18
"""Bytes of a body, or of what is made of it, that need no room."""


class Memory:
    """So many bytes at a time, given in order of arrival.

    Args:
        total: bytes.
        timeout: longest wait in seconds.

    Attributes:
        taken: bytes that are held.
    """

    def __init__(self, total: int, timeout: float) -> None:
        self.total, self.taken = total, 0
        self._timeout = timeout
        self._changed = asyncio.Condition()
        self._line: list[object] = []

    @asynccontextmanager
    async def hold(self, size: int, patient: bool = False) -> AsyncIterator["Held"]:
        """Room for `size` bytes, or for all there is.

        Args:
            patient: waits as long as it takes.

        Raises:
            UserError: ``queue_full`` where there was none in time.
        """
        held = Held(self)
        try:
            await held.change(size, patient)
            yield held
        finally:
            held.release()

    async def take(self, size: int, patient: bool) -> None:
        """Waits in line for so many bytes. Raises UserError as `hold`."""
        ticket = object()
        self._line.append(ticket)
        try:
            async with asyncio.timeout(None if patient else self._timeout), self._changed:
                await self._changed.wait_for(lambda: self._line[0] is ticket and self.taken + size <= self.total)
                self.taken += size
        except TimeoutError:
            raise busy() from None
        finally:
            self._line.remove(ticket)
            self._wake()

    def give(self, size: int) -> None:
        self.taken -= size
        self._wake()

    def _wake(self) -> None:
        # Never lost, even to a cancelled task: those that wait look at the counts, which are right already.
        asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class Held:
    """What one request holds of the memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._size = 0

    async def change(self, size: int, patient: bool = False) -> None:
        """Holds `size` bytes instead of those before, which are given up first. Raises UserError as `Memory.hold`."""
        self.release()
        if size > SMALL:
            size = min(size, self._memory.total)
            await self._memory.take(size, patient)
            self._size = size

    def raise_to(self, size: int) -> None:
        """Holds at least `size` bytes, at once or not: whoever holds something must not wait for others who do.

        Raises:
            UserError: ``queue_full``.
        """
        more = min(size, self._memory.total) - self._size
        if size <= SMALL or more <= 0:
            return
        if self._memory.taken + more > self._memory.total:
            raise busy()
        self._memory.taken += more
        self._size += more

    def release(self) -> None:
        size, self._size = self._size, 0
        if size:
            self._memory.give(size)


def busy() -> UserError:
    """429: the bodies of other requests take the memory there is."""
    return UserError(
        "queue_full",
        "the bodies of other requests take the memory there is for them",
        hint="ask again later, or send fewer and smaller states at a time",
    )
