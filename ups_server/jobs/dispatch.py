"""The process that has jobs run: looks at the table for what waits, and gives it to the executor of the settings.

Started as ``python -m ups_server.jobs.dispatch OWNER``; reads the settings as one line of JSON from standard input.
It ends when standard input closes or on SIGTERM: what runs in good order saves and goes back into the queue. Two of
them on one table, on one machine or on two, are fine: a job is claimed by the attempt at it, once.
"""

import logging
import signal
import sys
import threading
import time
import uuid
from dataclasses import dataclass

from ups_server.jobs.attempt import AttemptId, prepare_process, stop_with_input, stopped_by_signals
from ups_server.jobs.database import open_database
from ups_server.jobs.executors import executor_of
from ups_server.jobs.executors.base import Executor
from ups_server.jobs.leases import PART, Leases
from ups_server.jobs.spec import ROLLOUT, Job, JobState
from ups_server.settings import Settings

logger = logging.getLogger("ups_server.worker")


@dataclass
class Submitted:
    """An attempt that the executor has.

    Attributes:
        over: since when its job is not its own any more, by the monotonic clock.
    """

    attempt: AttemptId
    over: float | None = None

    def begun(self, job: Job | None) -> bool:
        """Has it, or another one, claimed the job?"""
        return job is not None and job.attempt > self.attempt.earlier


class Dispatcher:
    """Keeps an executor busy with the jobs that wait.

    Args:
        owner: the first part of its attempts' names, unless these outlive it.
    """

    def __init__(
        self, settings: Settings, leases: Leases, executor: Executor, owner: str, stopping: threading.Event
    ) -> None:
        self._settings, self._leases, self._executor, self._stopping = settings, leases, executor, stopping
        self._prefix = "" if executor.lasting else f"{owner}{PART}"
        self._submitted: list[Submitted] = []
        self._reclaim_at = self._submit_at = 0.0
        self._pause = settings.engine_restart_s

    def run(self) -> None:
        """Until `stopping`."""
        self._executor.open()
        self._submitted = [Submitted(attempt) for attempt in self._executor.reclaim()]
        try:
            while not self._stopping.is_set():
                if not self.turn():
                    self._stopping.wait(self._settings.job_poll_s)
        finally:
            self._executor.close()
            if not self._executor.lasting:
                for entry in self._submitted:
                    self._leases.abandon(entry.attempt.owner)

    def turn(self) -> bool:
        """One look at the table and the executor; was anything submitted?"""
        now = time.monotonic()
        if now >= self._reclaim_at:
            self._leases.reclaim()
            self._reclaim_at = now + self._leases.seconds / 3
        self._follow(now)
        return now >= self._submit_at and self._submit()

    def _follow(self, now: float) -> None:
        going = {entry.attempt: self._executor.follow(entry.attempt) for entry in self._submitted}
        if not going:
            return
        # The table is asked after the executor: what has ended has written its last word there.
        held = self._leases.held([attempt.job_id for attempt in going])
        for entry in [entry for entry in self._submitted if not going[entry.attempt]]:
            self._submitted.remove(entry)
            self._leases.abandon(entry.attempt.owner)  # of no effect where it has ended its job
            job, _ = held.get(entry.attempt.job_id, (None, None))
            self._count(entry.begun(job) or job is None or job.state is not JobState.QUEUED, now)
        for entry in list(self._submitted):
            job, owner = held.get(entry.attempt.job_id, (None, None))
            waits = job is not None and job.state is JobState.QUEUED and not entry.begun(job)
            if waits or owner == entry.attempt.owner:
                entry.over = None
                continue
            entry.over = now if entry.over is None else entry.over
            # One that has begun ends by itself, at its next step; the others have nothing to do any more.
            if not entry.begun(job) or now - entry.over > self._settings.worker_grace_s:
                self._executor.cancel(entry.attempt)
                self._submitted = [other for other in self._submitted if other is not entry]

    def _count(self, begun: bool, now: float) -> None:
        """Attempts that end before they have claimed their job are submitted again after pauses, each twice as long."""
        if begun:
            self._pause = self._settings.engine_restart_s
            return
        logger.warning("an attempt ended before it began; the next one in %.1f s", self._pause)
        self._submit_at = now + self._pause
        self._pause = min(2 * self._pause, self._settings.engine_restart_max_s)

    def _submit(self) -> bool:
        taken = {entry.attempt.job_id for entry in self._submitted}
        free = self._executor.slots - len(taken)
        if free <= 0:
            return False
        waiting = self._leases.waiting(free + len(taken), without=(ROLLOUT,))
        for job in [job for job in waiting if job.id not in taken][:free]:
            owner = f"{self._prefix}{self._settings.executor}-{uuid.uuid4().hex[:12]}"
            attempt = AttemptId(job.id, owner, job.attempt)
            self._submitted.append(Submitted(attempt))
            self._executor.submit(attempt)
            free -= 1
        return free < self._executor.slots - len(taken)


def dispatch(settings: Settings, owner: str, stopping: threading.Event) -> None:
    """Has the jobs of the settings' database run, until `stopping`.

    Raises:
        UserError: as `executor_of`, `open_database` and `Executor.open`.
    """
    prepare_process(settings)
    executor = executor_of(settings, stopping)
    database = open_database(settings.data_dir, settings.database)
    try:
        leases = Leases(database, settings.job_lease_s, settings.job_max_crashes)
        Dispatcher(settings, leases, executor, owner, stopping).run()
    finally:
        database.close()


def main() -> None:
    (owner,) = sys.argv[1:]
    settings = Settings.model_validate_json(sys.stdin.readline())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the API's; this process ends when its input does
    with stopped_by_signals(signal.SIGTERM) as stopping:
        stop_with_input(stopping)
        dispatch(settings, owner, stopping)


if __name__ == "__main__":
    main()
