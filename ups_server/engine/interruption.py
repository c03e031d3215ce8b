"""Ends the step in hand of a built-in solver: nobody waits for it any more, or it keeps others waiting.

Such a step is one call that may last minutes, of which every operation on arrays is short. A signal is handled between
two of them, and its handler raises: no solver has to look whether it is still wanted.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
