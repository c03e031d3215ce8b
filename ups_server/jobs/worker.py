"""The worker process: takes jobs from the table one at a time and runs their tasks. Rollouts are the engine's.

Started as ``python -m ups_server.jobs.worker OWNER``; reads the settings as one line of JSON from standard input.
It ends, after the step in hand, when standard input closes or on SIGTERM; its job goes back into the queue.
"""

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ups_server.errors import UserError
from ups_server.jobs.database import open_database
from ups_server.jobs.leases import Lease, LeaseLost, Leases
from ups_server.jobs.spec import ROLLOUT
from ups_server.jobs.tasks import JobContext, Task, TaskStopped, heartbeats, task
from ups_server.processes import configure_logs
from ups_server.settings import Settings

logger = logging.getLogger("ups_server.worker")


class Worker:
    """Claims and runs jobs until it is to stop.

    Args:
        tasks: finds the task of a kind.
    """

    def __init__(self, settings: Settings, leases: Leases, owner: str, tasks: Callable[[str], Task] = task) -> None:
        self._settings = settings
        self._leases = leases
        self._owner = owner
        self._tasks = tasks
        self.stopping = threading.Event()

    def run(self) -> None:
        """Runs jobs until `stopping`."""
        reclaim_at = 0.0
        while not self.stopping.is_set():
            if time.monotonic() >= reclaim_at:
                self._leases.reclaim()
                reclaim_at = time.monotonic() + self._leases.seconds / 3
            if not self.run_next():
                self.stopping.wait(self._settings.job_poll_s)

    def run_next(self) -> bool:
        """Runs the first job of the queue; False where there is none."""
        lease = self._leases.claim(self._owner, without=(ROLLOUT,))
        if lease is None:
            return False
        logger.info("%s: attempt %d", lease.job.id, lease.job.attempt)
        try:
            with heartbeats(self._leases, lease):
                self._run(lease)
        except LeaseLost:
            logger.warning("%s: the lease was lost, this attempt ends", lease.job.id)
        return True

    def _run(self, lease: Lease) -> None:
        folder = job_folder(self._settings.data_dir, lease.job.id)
        folder.mkdir(parents=True, exist_ok=True)
        context = JobContext(self._settings, self._leases, lease, folder, self.stopping)
        try:
            context.raise_if_stopped()
            result = self._tasks(lease.job.kind)(context)
        except TaskStopped as stopped:
            if stopped.cancelled:
                self._leases.cancel(lease)
            else:
                self._leases.release(lease)
        except UserError as error:
            self._leases.fail(lease, plain(error.problem()))
        except LeaseLost:
            raise
        except Exception as error:
            logger.exception("%s failed", lease.job.id)
            detail = f"the job failed with {type(error).__name__}; the log says more"
            problem = {"title": "internal error", "status": 500, "detail": detail, "code": "internal_error"}
            self._leases.fail(lease, problem)
        else:
            self._leases.succeed(lease, result)
            shutil.rmtree(folder)  # only now: until then another attempt may need it


def job_folder(data_dir: Path, job_id: str) -> Path:
    return data_dir / "jobs" / job_id


def plain(value: Any) -> Any:
    """JSON values only: whatever an error quotes, its report can be stored."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    return value if isinstance(value, float) and abs(value) < float("inf") else str(value)


def stop_with_input(worker: Worker) -> None:
    """Stops the worker when standard input closes: whoever started it is gone."""
    sys.stdin.read()
    worker.stopping.set()


def main() -> None:
    (owner,) = sys.argv[1:]
    settings = Settings.model_validate_json(sys.stdin.readline())
    configure_logs(settings.log_level, settings.log_format, "worker")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    database = open_database(settings.data_dir, settings.database)
    worker = Worker(settings, Leases(database, settings.job_lease_s, settings.job_max_crashes), owner)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the API's; this process ends when its input does
    signal.signal(signal.SIGTERM, lambda *_: worker.stopping.set())
    threading.Thread(target=stop_with_input, args=(worker,), daemon=True).start()
    worker.run()
    database.close()


if __name__ == "__main__":
    main()
