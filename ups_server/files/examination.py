"""Examinations, seen from the service: confined processes, each with a deadline and an answer that is JSON.

Uploads that are whole are examined one after another, in threads that wait. What is to be done follows from the files
on disk: an examination that was cut off is begun again.
"""

import hashlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.files.records import (
    PREVIEW,
    STORE,
    ExaminationLimits,
    ExaminationRequest,
    ExaminationResult,
    FileRecord,
    NamedFile,
    Outcome,
    ProblemRecord,
    Usage,
)
from ups_server.files.storage import CONTENT, WORK, FileStorage
from ups_server.files.uploads import cut

logger = logging.getLogger(__name__)

PACKAGE_PARENT = Path(__file__).resolve().parent.parent.parent
ANSWER_BYTES = 2**20
LOG_BYTES = 4096
PNG = b"\x89PNG\r\n\x1a\n"
CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT})
"""Signals by which a process ends itself: the file may make the HDF5 library fail."""
FONT_ATTEMPTS = 3
"""To list the fonts, where a signal ends it."""
CPU_TICK_S = 0.5
"""So much less than its limit of CPU time may a process that met it have used, as the kernel counts."""


@dataclass(frozen=True)
class Ending:
    """How a process ended."""

    returncode: int
    timed_out: bool
    wall_s: float
    cpu_s: float
    max_rss_bytes: int


class Examination:
    """The process that examines one file. `run` blocks; `stop` ends it from another thread.

    Attributes:
        killed: the signal that ended the process, where no limit that was measured explains it: another examination
            may end otherwise.
    """

    def __init__(self, job: ExaminationRequest, cache: Path, timeout_s: float) -> None:
        self.job = job
        self._cache = cache
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self.killed: signal.Signals | None = None

    def run(self) -> tuple[ExaminationResult, Usage] | None:
        """The answer and what it took; None where it was stopped."""
        self.job.output.mkdir(parents=True)
        answer, log = self.job.output.with_name("answer.json"), self.job.output.with_name("log.txt")
        ending = self._run(answer, log)
        if ending is None or self._stopped:
            return None
        self.killed = _killed(ending, self.job)
        result = _result(ending, self.killed, answer, log, self._timeout_s)
        usage = Usage(
            wall_s=round(ending.wall_s, 3),
            cpu_s=round(ending.cpu_s, 3),
            memory_bytes=result.memory_bytes or ending.max_rss_bytes,
            confinement=result.confinement,
        )
        return result, usage

    def stop(self) -> None:
        """Ends the process, now or before it starts."""
        with self._lock:
            self._stopped = True
            self._kill()

    def _run(self, answer: Path, log: Path) -> Ending | None:
        list_fonts(self._cache)
        begin = time.monotonic()
        with answer.open("wb") as out, log.open("wb") as err, self._lock:
            if self._stopped:
                return None
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "ups_server.files.examination_process"],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                cwd=self.job.output,
                env=environment(self._cache),
                start_new_session=True,
            )
        overdue = threading.Event()

        def end() -> None:
            with self._lock:
                overdue.set()
                self._kill()

        timer = threading.Timer(self._timeout_s, end)
        timer.daemon = True
        timer.start()
        try:
            _send(process, self.job.model_dump_json().encode())
            _, status, used = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
        with self._lock:
            process.returncode = os.waitstatus_to_exitcode(status)
            self._process = None
        return Ending(
            returncode=process.returncode,
            timed_out=overdue.is_set(),
            wall_s=time.monotonic() - begin,
            cpu_s=used.ru_utime + used.ru_stime,
            max_rss_bytes=used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        )

    def _kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)


def environment(cache: Path) -> dict[str, str]:
    """Nothing of the service's own environment but what Python needs; no HDF5 plugin, no second thread."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    return {
        **kept,
        **threads,
        "PYTHONPATH": str(PACKAGE_PARENT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HDF5_PLUGIN_PRELOAD": "::",
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "MPLCONFIGDIR": str(cache),
        "MPLBACKEND": "agg",
    }


def list_fonts(cache: Path) -> None:
    """matplotlib's list of fonts, which the confined process reads and cannot write; made once, whole or not at all."""
    attempts = FONT_ATTEMPTS
    while not cache.is_dir():
        part = work_folder(cache.parent, f".{cache.name}-")
        part.mkdir(parents=True)
        try:
            made = subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], env=environment(part))
            attempts -= 1
            if made.returncode >= 0 or not attempts:
                made.check_returncode()
                with suppress(OSError):  # another examination was faster
                    part.rename(cache)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def take_over(job: ExaminationRequest, folder: Path) -> None:
    """Moves store and picture of an accepted file into its folder, after a look at what they are.

    Raises:
        UserError: ``examination_failed`` where they are not what an examination leaves.
    """
    store, picture = job.output / STORE, job.output / PREVIEW
    for path in (store, *store.iterdir(), picture):
        if path.is_symlink() or not (path.is_dir() if path == store else path.is_file()):
            raise examination_failed(f"{path.name} is neither a file nor a folder")
    with picture.open("rb") as stream:
        if stream.read(len(PNG)) != PNG:
            raise examination_failed("the preview is no PNG")
    Store.open(store).close()
    for source, target in ((store, folder / STORE), (picture, folder / PREVIEW)):
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(source, target)


def work_folder(folder: Path, prefix: str) -> Path:
    """A new folder for work that may be cut off, beside what it is for."""
    return folder / f"{prefix}{secrets.token_hex(4)}"


def examination_failed(reason: str) -> UserError:
    return UserError("examination_failed", "the examination of the file failed; the service's log says why", got=reason)


def _send(process: "subprocess.Popen[bytes]", message: bytes) -> None:
    """The job, on standard input; a process that is already gone says why by how it ended."""
    if process.stdin is None:
        raise RuntimeError("the process has no standard input")
    try:
        with process.stdin:
            process.stdin.write(message)
    except BrokenPipeError:
        logger.warning("an examination ended before it began")


def _killed(ending: Ending, job: ExaminationRequest) -> signal.Signals | None:
    """The signal that ended a process, unless that was a deadline or its limit of CPU time."""
    if ending.timed_out or ending.returncode >= 0:
        return None
    by, limits = signal.Signals(-ending.returncode), job.limits
    soonest = {signal.SIGXCPU: limits.structure_cpu_s(job.content.stat().st_size), signal.SIGKILL: limits.cpu_s}
    return None if by in soonest and ending.cpu_s >= soonest[by] - CPU_TICK_S else by


def _result(
    ending: Ending, killed: signal.Signals | None, answer: Path, log: Path, timeout_s: float
) -> ExaminationResult:
    if ending.timed_out:
        return _refusal(UserError("too_slow", "reading the file takes too long", expected=f"at most {timeout_s:g} s"))
    if ending.returncode < 0 and killed is None:
        return _refusal(UserError("too_slow", "reading the file takes more time than a file of its size is allowed"))
    if killed in CRASHES:
        return _refusal(UserError("damaged_file", "the file makes the HDF5 library fail"))
    if ending.returncode == 0:
        try:
            with answer.open("rb") as stream:
                return ExaminationResult.model_validate_json(stream.read(ANSWER_BYTES))
        except ValidationError:
            logger.error("an examination answered what is no result")
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_BYTES))
        logger.error("an examination failed (%d): %s", ending.returncode, stream.read().decode(errors="replace"))
    return _refusal(
        examination_failed(f"exit code {ending.returncode}" if killed is None else f"ended by {killed.name}")
    )


def _refusal(error: UserError) -> ExaminationResult:
    return ExaminationResult(problem=ProblemRecord.of(error))


OUTPUT, PARTS = "output", "parts"
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

    def __init__(self, storage: FileStorage, limits: ExaminationLimits, timeout_s: float, at_once: int = 1) -> None:
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
        try:
            parts = _parts(record, folder / CONTENT, (work / PARTS).resolve(), running)
        except UserError as error:
            shutil.rmtree(work, ignore_errors=True)
            problem = ProblemRecord.of(error)
            self.storage.finish(record.id, Outcome(sha256=checksum, problem=problem, finished_at=_now()))
            return None
        job = ExaminationRequest(
            content=(folder / CONTENT).resolve(),
            name=record.name,
            parts=parts,
            declaration=record.declaration,
            output=(work / OUTPUT).resolve(),
            limits=self._limits_of(record),
            provenance={"file": record.id},
        )
        examination = Examination(job, self.storage.root.resolve() / CACHE, self._timeout_s)
        try:
            with self._idle:
                if running.stopped:
                    return None
                running.examination = examination
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

    def _taken_over(self, job: ExaminationRequest, folder: Path, outcome: Outcome, usage: Usage) -> Outcome:
        if outcome.report is None:
            return outcome
        try:
            take_over(job, folder)
        except UserError as error:
            logger.error("%s", error)
            problem = ProblemRecord.of(error)
            return Outcome(sha256=outcome.sha256, problem=problem, usage=usage, finished_at=outcome.finished_at)
        return outcome

    def _limits_of(self, record: FileRecord) -> ExaminationLimits:
        """The store may take what the quota has left; the file itself goes when the store is there."""
        return self._limits.model_copy(update={"store_bytes": max(self.storage.room(without=record.id), 0)})


def _parts(record: FileRecord, content: Path, folder: Path, running: Running) -> tuple[NamedFile, ...]:
    """The files of a data set of several, each by itself; none of a single file. Raises UserError ``storage_full``."""
    if not record.parts:
        return ()
    made = cut(content, [part.size for part in record.parts], folder, lambda: running.stopped)
    return tuple(NamedFile(content=path, name=part.name) for path, part in zip(made, record.parts, strict=True))


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
