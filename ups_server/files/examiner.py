"""Examines uploads that are whole, one after another, in threads that wait for confined processes.

What is to be done follows from the files on disk: an examination that was cut off is begun again.
"""

import hashlib
import logging
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ups_server.errors import UserError
from ups_server.files.examination import CRASHES, Examination, examination_failed, take_over, work_folder
from ups_server.files.job import Job
from ups_server.files.limits import Limits
from ups_server.files.records import FileRecord, Outcome, ProblemRecord, Usage
from ups_server.files.storage import CONTENT, WORK, FileStorage

logger = logging.getLogger(__name__)

OUTPUT = "output"
CACHE = "matplotlib"
ATTEMPTS, CRASHING_ATTEMPTS = 5, 2
"""Examinations of a file that end by a signal before the file is refused, and those that crash by themselves."""
PAUSE_S = 0.2
"""Before the second one, and twice as long before each further one: what kills them may be a lack of memory."""


@dataclass
class Running:
    """The examinations of one file, one after another. `stopped`: there is to be no further one."""

    examination: Examination | None = None
    stopped: bool = False

    def stop(self) -> None:
        self.stopped = True
        if self.examination is not None:
            self.examination.stop()


class Examiner:
    """The examinations of a service.

    Args:
        timeout_s: wall clock of one.
        at_once: how many run at the same time.
    """

    def __init__(self, storage: FileStorage, limits: Limits, timeout_s: float, at_once: int = 1) -> None:
        self.storage = storage
        self._limits = limits
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="examination")
        self._idle = threading.Condition()
        self._running: dict[str, Running] = {}
        self._waiting: set[str] = set()
        self._closed = False

    def start(self) -> None:
        """Tidies up after an earlier process and goes on with what it left."""
        self.storage.tidy()
        for record in self.storage.records():
            if record.state == "validating":
                self.submit(record.id)

    def submit(self, file_id: str) -> None:
        """Examines a file as soon as a thread is free; a file that is waiting already waits once."""
        with self._idle:
            if self._closed or file_id in self._waiting:
                return
            self._waiting.add(file_id)
        self._threads.submit(self._examine, file_id)

    def cancel(self, file_id: str) -> None:
        """Ends the examination of a file and waits for its end."""
        with self._idle:
            if file_id in self._running:
                self._running[file_id].stop()
                self._idle.notify_all()
            self._idle.wait_for(lambda: file_id not in self._running)

    def close(self) -> None:
        """Ends all examinations; those cut off are begun again at the next start."""
        with self._idle:
            self._closed = True
            for running in self._running.values():
                running.stop()
            self._idle.notify_all()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _examine(self, file_id: str) -> None:
        with self._idle:
            self._waiting.discard(file_id)  # Whoever asks from now on may know more than this examination will.
            self._idle.wait_for(lambda: file_id not in self._running)
            running = self._running[file_id] = Running(stopped=self._closed)
        try:
            record = self.storage.record(file_id)
            if record.state == "validating":
                self._examine_record(record, running)
        except UserError as error:
            logger.info("%s is gone: %s", file_id, error)
        except Exception as error:
            logger.exception("the examination of %s failed", file_id)
            self._give_up(file_id, type(error).__name__)
        finally:
            with self._idle:
                del self._running[file_id]
                self._idle.notify_all()

    def _give_up(self, file_id: str, reason: str) -> None:
        """Refuses a file whose examination failed by our own fault: a new declaration begins another."""
        if self.storage.folder(file_id).is_dir():
            problem = ProblemRecord.of(examination_failed(reason))
            self.storage.finish(file_id, Outcome(problem=problem, finished_at=_now()))

    def _examine_record(self, record: FileRecord, running: Running) -> None:
        """Examines until there is an answer: whoever kills an examination has said nothing about the file."""
        folder = self.storage.folder(record.id)
        checksum, mismatch = _checksum(folder / CONTENT, record.sha256)
        if mismatch is not None:
            self.storage.finish(record.id, Outcome(sha256=checksum, problem=mismatch, finished_at=_now()))
            return
        attempt = 1
        while (killed := self._attempt(record, running, checksum, attempt)) is not None:
            logger.warning("the examination of %s was ended by %s (attempt %d)", record.id, killed.name, attempt)
            with self._idle:
                pause = PAUSE_S * 2 ** (attempt - 1)
                self._idle.wait_for(lambda: running.stopped, timeout=pause)
            attempt += 1

    def _attempt(self, record: FileRecord, running: Running, checksum: str, attempt: int) -> signal.Signals | None:
        """One examination; the signal that ended it, where there is to be another one."""
        folder = self.storage.folder(record.id)
        work = work_folder(folder, WORK)
        job = Job(
            content=(folder / CONTENT).resolve(),
            name=record.name,
            declaration=record.declaration,
            output=(work / OUTPUT).resolve(),
            limits=self._limits_of(record),
            provenance={"file": record.id},
        )
        examination = Examination(job, self.storage.root.resolve() / CACHE, self._timeout_s)
        with self._idle:
            if running.stopped:
                return None
            running.examination = examination
        try:
            answered = examination.run()
            if answered is None:
                return None
            killed = examination.killed
            if killed is not None and attempt < (CRASHING_ATTEMPTS if killed in CRASHES else ATTEMPTS):
                return killed
            result, usage = answered
            logger.info("examined %s: %s", record.id, result.problem.code if result.problem else "ready")
            outcome = Outcome(
                sha256=checksum, report=result.report, problem=result.problem, usage=usage, finished_at=_now()
            )
            self.storage.finish(record.id, self._taken_over(job, folder, outcome, usage))
            return None
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _taken_over(self, job: Job, folder: Path, outcome: Outcome, usage: Usage) -> Outcome:
        if outcome.report is None:
            return outcome
        try:
            take_over(job, folder)
        except UserError as error:
            logger.error("%s", error)
            problem = ProblemRecord.of(error)
            return Outcome(sha256=outcome.sha256, problem=problem, usage=usage, finished_at=outcome.finished_at)
        return outcome

    def _limits_of(self, record: FileRecord) -> Limits:
        """The store may take what the quota has left; the file itself goes when the store is there."""
        return self._limits.model_copy(update={"store_bytes": max(self.storage.room(without=record.id), 0)})


def _checksum(path: Path, announced: str | None) -> tuple[str, ProblemRecord | None]:
    """The file's sha256, and the problem where another one was announced."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if announced in (None, found):
        return found, None
    error = UserError(
        "checksum_mismatch",
        "the bytes that arrived are not those that were announced",
        got=found,
        expected=announced,
        hint="delete the file and upload it again",
    )
    return found, ProblemRecord.of(error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
