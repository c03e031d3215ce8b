"""One examination, seen from the service: a confined process, a deadline, and an answer that is JSON."""

import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.files.job import PREVIEW, STORE, Job, Result
from ups_server.files.records import ProblemRecord, Usage

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

    def __init__(self, job: Job, cache: Path, timeout_s: float) -> None:
        self.job = job
        self._cache = cache
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self.killed: signal.Signals | None = None

    def run(self) -> tuple[Result, Usage] | None:
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
            _tell(process, self.job.model_dump_json().encode())
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


def take_over(job: Job, folder: Path) -> None:
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


def _tell(process: "subprocess.Popen[bytes]", message: bytes) -> None:
    """The job, on standard input; a process that is already gone says why by how it ended."""
    if process.stdin is None:
        raise RuntimeError("the process has no standard input")
    try:
        with process.stdin:
            process.stdin.write(message)
    except BrokenPipeError:
        logger.warning("an examination ended before it began")


def _killed(ending: Ending, job: Job) -> signal.Signals | None:
    """The signal that ended a process, unless that was a deadline or its limit of CPU time."""
    if ending.timed_out or ending.returncode >= 0:
        return None
    by, limits = signal.Signals(-ending.returncode), job.limits
    soonest = {signal.SIGXCPU: limits.structure_cpu_s(job.content.stat().st_size), signal.SIGKILL: limits.cpu_s}
    return None if by in soonest and ending.cpu_s >= soonest[by] - CPU_TICK_S else by


def _result(ending: Ending, killed: signal.Signals | None, answer: Path, log: Path, timeout_s: float) -> Result:
    if ending.timed_out:
        return _refusal(UserError("too_slow", "reading the file takes too long", expected=f"at most {timeout_s:g} s"))
    if ending.returncode < 0 and killed is None:
        return _refusal(UserError("too_slow", "reading the file takes more time than a file of its size is allowed"))
    if killed in CRASHES:
        return _refusal(UserError("damaged_file", "the file makes the HDF5 library fail"))
    if ending.returncode == 0:
        try:
            with answer.open("rb") as stream:
                return Result.model_validate_json(stream.read(ANSWER_BYTES))
        except ValidationError:
            logger.error("an examination answered what is no result")
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_BYTES))
        logger.error("an examination failed (%d): %s", ending.returncode, stream.read().decode(errors="replace"))
    return _refusal(
        examination_failed(f"exit code {ending.returncode}" if killed is None else f"ended by {killed.name}")
    )


def _refusal(error: UserError) -> Result:
    return Result(problem=ProblemRecord.of(error))
