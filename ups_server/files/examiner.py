"""Examines uploads that are whole, one after another, in threads that wait for confined processes.

What is to be done follows from the files on disk: an examination that was cut off is begun again.
"""

import hashlib
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from ups_server.errors import UserError
from ups_server.files.examination import Examination, examination_failed, take_over, work_folder
from ups_server.files.job import Job
from ups_server.files.limits import Limits
from ups_server.files.records import FileRecord, Outcome, ProblemRecord, Usage
from ups_server.files.storage import CONTENT, WORK, FileStorage

logger = logging.getLogger(__name__)

OUTPUT = "output"
CACHE = "matplotlib"


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
        self._running: dict[str, Examination | None] = {}
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
            examination = self._running.get(file_id)
            if examination is not None:
                examination.stop()
            self._idle.wait_for(lambda: file_id not in self._running)

    def close(self) -> None:
        """Ends all examinations; those cut off are begun again at the next start."""
        with self._idle:
            self._closed = True
            for examination in self._running.values():
                if examination is not None:
                    examination.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _examine(self, file_id: str) -> None:
        with self._idle:
            self._waiting.discard(file_id)  # Whoever asks from now on may know more than this examination will.
            self._idle.wait_for(lambda: file_id not in self._running)
            self._running[file_id] = None
        try:
            record = self.storage.record(file_id)
            if record.state == "validating":
                self._examine_record(record)
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

    def _examine_record(self, record: FileRecord) -> None:
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
        cache = self.storage.root.resolve() / CACHE
        examination = Examination(job, cache, self._timeout_s)
        with self._idle:
            if self._closed:
                return
            self._running[record.id] = examination
        try:
            checksum, mismatch = _checksum(folder / CONTENT, record.sha256)
            if mismatch is not None:
                self.storage.finish(record.id, Outcome(sha256=checksum, problem=mismatch, finished_at=_now()))
                return
            answered = examination.run()
            if answered is None:
                return
            result, usage = answered
            logger.info("examined %s: %s", record.id, result.problem.code if result.problem else "ready")
            outcome = Outcome(
                sha256=checksum, report=result.report, problem=result.problem, usage=usage, finished_at=_now()
            )
            self.storage.finish(record.id, self._taken_over(job, folder, outcome, usage))
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
