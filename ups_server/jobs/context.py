"""What a task is given: its spec, its folder, the stored files it reads, and the ways to say how it goes."""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from ups_server.errors import UserError
from ups_server.jobs.leases import Lease, LeaseLost, Leases
from ups_server.jobs.spec import AnySpec, spec_of
from ups_server.settings import Settings

logger = logging.getLogger("ups_server.worker")


class TaskStopped(Exception):
    """A task ends before its end. `cancelled`: the job was cancelled; else its worker stops and the job waits."""

    def __init__(self, cancelled: bool) -> None:
        super().__init__("cancelled" if cancelled else "released")
        self.cancelled = cancelled


@dataclass(frozen=True)
class JobContext:
    """One attempt at a job.

    Attributes:
        folder: of this job alone; kept between attempts.
        stopping: set when the worker is to end.
    """

    settings: Settings
    leases: Leases
    lease: Lease
    folder: Path
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def job_id(self) -> str:
        return self.lease.job.id

    @property
    def spec(self) -> AnySpec:
        return spec_of(self.lease.job)

    def running(self) -> None:
        """Validation is over."""
        self.leases.running(self.lease)

    def event(self, type: str, data: dict[str, Any], key: str | None = None) -> None:
        """Appends an event; `key` where an attempt after a crash would say the same again."""
        self.leases.event(self.lease, type, data, key)

    def checkpoint(self, data: dict[str, Any], key: str) -> None:
        """The state on disk is complete: the next attempt goes on from here."""
        self.leases.checkpoint(self.lease, data, key)

    def should_stop(self) -> bool:
        """Asked between any two steps. Raises `LeaseLost` where the job is in other hands."""
        return self.leases.cancelled(self.lease) or self.stopping.is_set()

    def raise_if_stopped(self) -> None:
        """Raises `TaskStopped`; to be called where the state is saved, or there is none."""
        if self.leases.cancelled(self.lease):
            raise TaskStopped(cancelled=True)
        if self.stopping.is_set():
            raise TaskStopped(cancelled=False)


@contextmanager
def heartbeats(leases: Leases, lease: Lease) -> Iterator[None]:
    """Extends a lease from a thread of its own until the block ends, or the lease is lost."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(leases.seconds / 3):
            try:
                leases.heartbeat(lease)
            except LeaseLost:
                return  # the task learns it at its next word
            except SQLAlchemyError:
                logger.exception("%s: no heartbeat, the database does not answer", lease.job.id)

    thread = threading.Thread(target=beat, name="heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def stored_file(data_dir: Path, file_id: str) -> Path:
    """The folder of the transcoded store of an uploaded file that is ready: an id, never a user's path.

    Raises:
        UserError: ``unknown_file``.
    """
    store = data_dir / "files" / file_id / "store"
    if not ID.fullmatch(file_id) or not (store / "manifest.json").is_file():
        raise UserError("unknown_file", f"there is no file {file_id!r} that is ready", got=file_id)
    return store
