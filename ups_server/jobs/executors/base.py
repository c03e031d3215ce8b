"""What runs attempts at jobs, behind one interface. Which job comes next, and what became of it, the table says.

An attempt is one process, or several, that claims its job from the table, keeps the lease, and writes every event, its
checkpoints and its end there itself (`jobs.worker`). An executor only has attempts started somewhere and ended; nothing
is known by it alone. Imports no torch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from threading import Event
from typing import ClassVar

from ups_server.jobs.attempt import AttemptId
from ups_server.settings import Settings


class Executor(ABC):
    """Runs attempts. Used by one thread.

    Attributes:
        lasting: do attempts go on when the process that submitted them ends?

    Args:
        stopping: set when what runs in this process is to save and give its job back; `close` follows.
    """

    lasting: ClassVar[bool] = False

    def __init__(self, settings: Settings, stopping: Event) -> None:
        # Attempts have other working folders.
        self.settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
        self.stopping = stopping

    @property
    def slots(self) -> int:
        """Attempts it takes at a time."""
        return self.settings.executor_jobs

    @abstractmethod
    def open(self) -> None:
        """Connects to what runs attempts. Raises UserError ``executor_unavailable``."""

    @abstractmethod
    def submit(self, attempt: AttemptId) -> None:
        """Has an attempt started, at once or when there is room for it."""

    @abstractmethod
    def follow(self, attempt: AttemptId) -> bool:
        """Does it still wait or run? False where nothing of it runs any more, whatever became of it."""

    @abstractmethod
    def cancel(self, attempt: AttemptId) -> None:
        """Ends it at once, wherever it stands, and forgets it. A job that is cancelled ends its attempts by itself."""

    def reclaim(self) -> Sequence[AttemptId]:
        """The attempts that a process before this one has submitted, as far as they go on."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Has every attempt save and give its job back, for `worker_grace_s` at most, unless they are `lasting`."""
