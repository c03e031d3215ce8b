"""A worker: claims one job of the table, runs its task, and writes down how it ended. Rollouts are the engine's."""

import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ups_server.errors import UserError
from ups_server.jobs.leases import Lease, LeaseLost, Leases
from ups_server.jobs.spec import ROLLOUT
from ups_server.jobs.tasks import AttemptLost, JobContext, Task, TaskStopped, fetch, heartbeats, task
from ups_server.objects import shared_folders
from ups_server.settings import Settings

if TYPE_CHECKING:
    from ups_server.train.parallel import Processes

logger = logging.getLogger("ups_server.worker")


class Worker:
    """Claims and runs jobs.

    Args:
        tasks: finds the task of a kind.
        stopping: set when the job in hand is to be given back.
        processes: that may share the work; this is the first of them.
    """

    def __init__(
        self,
        settings: Settings,
        leases: Leases,
        owner: str,
        tasks: Callable[[str], Task] = task,
        stopping: threading.Event | None = None,
        processes: "Processes | None" = None,
    ) -> None:
        self._settings = settings
        self._leases = leases
        self._owner = owner
        self._tasks = tasks
        self._processes = processes
        self.stopping = stopping or threading.Event()

    def run_next(self, job_id: str | None = None) -> bool:
        """Runs the first job of the queue, or that one; False where there is nothing to claim."""
        lease = self.claim(job_id)
        if lease is not None:
            self.run(lease)
        return lease is not None

    def claim(self, job_id: str | None = None) -> Lease | None:
        return self._leases.claim(self._owner, without=(ROLLOUT,), job_id=job_id)

    def run(self, lease: Lease) -> None:
        """Runs a job to its end, or until it is to be given back."""
        logger.info("%s: attempt %d", lease.job.id, lease.job.attempt)
        try:
            with heartbeats(self._leases, lease), lease.span():
                self._run(lease)
        except LeaseLost:
            logger.warning("%s: the lease was lost, this attempt ends", lease.job.id)
        except AttemptLost as lost:
            logger.warning("%s: this attempt ends: %s", lease.job.id, lost)

    def _run(self, lease: Lease) -> None:
        folder = job_folder(self._settings.data_dir, lease.job.id)
        shared = shared_folders(self._settings)
        context = JobContext(self._settings, self._leases, lease, folder, self.stopping, self._processes, shared)
        try:
            fetch(self._settings, lease.job, shared)
            folder.mkdir(parents=True, exist_ok=True)
            if self._processes is not None:
                self._processes.wait()  # they find it there
            context.raise_if_stopped()
            result = self._tasks(lease.job.kind)(context)
        except TaskStopped as stopped:
            if stopped.cancelled:
                self._leases.cancel(lease)
            else:
                self._leases.release(lease)
        except UserError as error:
            self._leases.fail(lease, plain(error.problem()))
        except (LeaseLost, AttemptLost):
            raise
        except Exception as error:
            logger.exception("%s failed", lease.job.id)
            detail = f"the job failed with {type(error).__name__}; the log says more"
            problem = {"title": "internal error", "status": 500, "detail": detail, "code": "internal_error"}
            self._leases.fail(lease, problem)
        else:
            self._leases.succeed(lease, result)
            shared.remove(f"jobs/{lease.job.id}")  # only now: until then another attempt may need it
            shutil.rmtree(folder)


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
