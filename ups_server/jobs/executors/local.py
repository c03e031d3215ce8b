"""Attempts in this process, one at a time."""

from typing import final

from ups_server.jobs.attempt import AttemptId, run_attempt
from ups_server.jobs.executors.base import Executor


@final
class LocalExecutor(Executor):
    """`submit` returns when the attempt has ended: then there is nothing left to follow or to cancel."""

    @property
    def slots(self) -> int:
        return 1

    def open(self) -> None:
        pass

    def submit(self, attempt: AttemptId) -> None:
        run_attempt(self.settings, attempt, self.stopping)

    def follow(self, attempt: AttemptId) -> bool:
        return False

    def cancel(self, attempt: AttemptId) -> None:
        pass

    def close(self) -> None:
        pass
