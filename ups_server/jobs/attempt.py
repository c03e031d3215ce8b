"""One attempt at one job: what every executor runs, in a process of this machine or of another one.

``python -m ups_server.jobs.attempt JOB OWNER`` is one of the processes that `torchrun` starts for a job. The settings
are in the environment variable `SETTINGS`, as JSON; it ends, after the step in hand, when standard input closes or on
SIGTERM. Imports torch only when a task begins, or where there are several processes.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from ups_server.jobs.database import open_database
from ups_server.jobs.leases import Leases
from ups_server.jobs.spec import Job
from ups_server.jobs.tasks import assist
from ups_server.jobs.worker import Worker, job_folder
from ups_server.processes import configure_logs, leave_torchrun
from ups_server.settings import Settings
from ups_server.tracing import configure_traces

logger = logging.getLogger("ups_server.worker")

SETTINGS = "UPS_ATTEMPT_SETTINGS"


@dataclass(frozen=True)
class AttemptId:
    """One try at a job.

    Attributes:
        owner: by which it holds the lease; no other attempt has it.
        earlier: attempts that the job had had when this one was submitted.
    """

    job_id: str
    owner: str
    earlier: int = 0


def run_attempt(settings: Settings, attempt: AttemptId, stopping: threading.Event) -> None:
    """Claims the job and runs it, unless it is in other hands already.

    Args:
        stopping: set when it is to save and give the job back.

    Raises:
        UserError: as `open_database`.
    """
    database = open_database(settings.data_dir, settings.database)
    try:
        leases = Leases(database, settings.job_lease_s, settings.job_max_crashes)
        Worker(settings, leases, attempt.owner, stopping=stopping).run_next(attempt.job_id)
    finally:
        database.close()


def run_elsewhere(settings: Settings, attempt: AttemptId) -> None:
    """`run_attempt` in the main thread of a process that Ray or Slurm has, and ends by a signal."""
    prepare_process(settings)
    with stopped_by_signals(signal.SIGINT, signal.SIGTERM, signal.SIGUSR2) as stopping:
        run_attempt(settings, attempt, stopping)


def run_together(settings: Settings, attempt: AttemptId, stopping: threading.Event) -> None:
    """As `run_attempt`, in every one of the processes that `torchrun` started: the first one holds the lease."""
    from ups_server.train.parallel import joined

    device = None if settings.device == "auto" else settings.device
    with joined(device) as (processes, _):
        if not processes.first:
            if text := processes.text_of_first(""):
                job = Job.model_validate_json(text)
                processes.wait()  # until the first one has what the job needs
                assist(settings, job, job_folder(settings.data_dir, job.id), stopping, processes)
            return
        database = open_database(settings.data_dir, settings.database)
        leases = Leases(database, settings.job_lease_s, settings.job_max_crashes)
        worker = Worker(settings, leases, attempt.owner, stopping=stopping, processes=processes)
        lease = worker.claim(attempt.job_id)
        processes.text_of_first("" if lease is None else lease.job.model_dump_json())
        if lease is not None:
            worker.run(lease)
        database.close()


def prepare_process(settings: Settings) -> None:
    """Log, traces, and no network for the hub of models."""
    configure_logs(settings.log_level, settings.log_format, "worker")
    configure_traces("worker")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("WANDB_MODE", "disabled")


@contextmanager
def stopped_by_signals(*signals: signal.Signals) -> Iterator[threading.Event]:
    """An event that these signals set while the block lasts; in the main thread."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    before = {entry: signal.signal(entry, stop) for entry in signals}
    try:
        yield stopping
    finally:
        for entry, handler in before.items():
            signal.signal(entry, handler)


def stop_with_input(stopping: threading.Event) -> None:
    """Sets the event when standard input closes: whoever started this process is gone."""

    def wait() -> None:
        sys.stdin.read()
        stopping.set()

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    job_id, owner = sys.argv[1:]
    settings = Settings.model_validate_json(os.environ.pop(SETTINGS))
    prepare_process(settings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the API's
    with stopped_by_signals(signal.SIGTERM) as stopping:
        stop_with_input(stopping)
        run_together(settings, AttemptId(job_id, owner), stopping)
    leave_torchrun()


if __name__ == "__main__":
    main()
