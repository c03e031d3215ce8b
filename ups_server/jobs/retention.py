"""How long results of asynchronous rollouts are kept: by age and by bytes, never while they are computed or read."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ups_server.errors import UserError
from ups_server.jobs.rollout_folder import RolloutFolder
from ups_server.jobs.spec import Job
from ups_server.jobs.store import JobStore
from ups_server.settings import Settings

logger = logging.getLogger(__name__)

READING_S = 300.0
"""A result that was read from so many seconds ago is being read: lazy readers ask for one chunk at a time."""
ORPHAN_S = 3600.0
"""A folder of this age that no job has belongs to an order that was never written down."""
SWEEP_S = 60.0


@dataclass(frozen=True)
class Stored:
    """A result on disk. `used`: Unix time of the end of its rollout, or of the last reading."""

    folder: RolloutFolder
    job: Job | None
    bytes: int
    used: float


class Results:
    """The stored results of a service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.data_dir / "rollouts"
        self._readers: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._sweeping: asyncio.Task[None] | None = None

    def start(self, store: JobStore) -> None:
        self._sweeping = asyncio.create_task(self._sweep_again(store))

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping

    @contextmanager
    def reading(self, job_id: str) -> Iterator[RolloutFolder]:
        """The folder of a result, which stays while the block lasts.

        Raises:
            UserError: ``result_expired``.
        """
        folder = RolloutFolder(self._settings.data_dir, job_id)
        with self._lock:
            if not folder.exists:
                raise UserError(
                    "result_expired",
                    f"the result of {job_id} is not kept any more",
                    hint="ask for the rollout again; UPS_RESULTS_AGE_S and UPS_RESULTS_BYTES say what is kept",
                )
            self._readers[job_id] += 1
        try:
            folder.touch()
            yield folder
        finally:
            with self._lock:
                self._readers[job_id] -= 1

    def sweep(self, store: JobStore, wanted: int = 0) -> int:
        """Removes what is too old, then what was not used for longest until `wanted` bytes have room.

        Returns:
            The bytes of room there are then, which may be fewer: what is computed or read stays.
        """
        stored = sorted(self._stored(store), key=lambda entry: entry.used)
        taken, now = sum(entry.bytes for entry in stored), time.time()
        for entry in stored:
            orphan = entry.job is None and now - entry.used > ORPHAN_S
            old = entry.job is not None and now - entry.used > self._settings.results_age_s
            over = entry.job is not None and taken + wanted > self._settings.results_bytes
            if (orphan or ((old or over) and entry.job is not None and entry.job.final)) and self._remove(entry.folder):
                logger.info("the result %s was removed", entry.folder.path.name)
                taken -= entry.bytes
        return self._settings.results_bytes - taken

    def sizes(self, job_ids: Collection[str]) -> dict[str, int]:
        """What the results of these jobs take, by job, the frames that are still to come included."""
        found = {}
        for job_id in job_ids:
            folder = RolloutFolder(self._settings.data_dir, job_id)
            with contextlib.suppress(FileNotFoundError, UserError):  # none, or removed meanwhile
                found[job_id] = folder.bytes()
        return found

    def make_room(self, store: JobStore, wanted: int) -> None:
        """Raises UserError ``quota_exceeded``."""
        room = self.sweep(store, wanted)
        if wanted > room:
            raise UserError(
                "quota_exceeded",
                "the result would take more room than stored results may",
                got=wanted,
                expected=f"at most {max(room, 0)} bytes now, {self._settings.results_bytes} in all",
                hint="use a larger save_every, delete results, or ask again when others have been read",
            )

    def _stored(self, store: JobStore) -> Iterator[Stored]:
        for path in self._root.iterdir() if self._root.is_dir() else ():
            folder = RolloutFolder(self._settings.data_dir, path.name)
            try:
                job = store.get(path.name)
            except UserError:
                job = None
            try:
                size = folder.bytes() if folder.exists else 0
                ended = (job.finished_at or 0.0) if job else path.stat().st_mtime
            except (FileNotFoundError, UserError):
                continue  # removed meanwhile
            yield Stored(folder, job, size, max(ended, folder.last_read()))

    def _remove(self, folder: RolloutFolder) -> bool:
        with self._lock:
            if self._readers[folder.path.name] or time.time() - folder.last_read() < READING_S:
                return False
            folder.remove()
            return True

    async def _sweep_again(self, store: JobStore) -> None:
        while True:
            try:
                await asyncio.to_thread(self.sweep, store)
            except Exception:
                logger.exception("stored results could not be looked through")
            await asyncio.sleep(SWEEP_S)
