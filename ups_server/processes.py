"""What every process of the service needs: its log, its memory, and restarts of the processes that it depends on.

Logs go to standard error: lines for a person, or one JSON object a line. Request ids connect what belongs together.
"""

import asyncio
import ctypes
import json
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from ups_server.settings import LogFormat, Settings

logger = logging.getLogger(__name__)

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request in hand."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class RequestIds(logging.Filter):
    """Adds the id of the request in hand to every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = REQUEST_ID.get()
        return True


class JsonLines(logging.Formatter):
    """One object a line: `at`, `level`, `process`, `logger`, `message`, and what the record brings."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}
        if record.exc_info:
            extra["error"] = self.formatException(record.exc_info)
        return json.dumps({**line, **extra}, default=str)


class TextLines(logging.Formatter):
    """Time, level, process, logger, message, and the request it belongs to."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s%(request)s")

    def format(self, record: logging.LogRecord) -> str:
        request_id = getattr(record, "request_id", None)
        record.request = "" if request_id is None else f" [{request_id}]"
        return super().format(record)


def configure_logs(level: str, form: LogFormat, process: str) -> None:
    """Sends everything to standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(RequestIds())
    handler.setFormatter(JsonLines(process) if form == "json" else TextLines(process))
    logging.basicConfig(level=level.upper(), handlers=[handler])


TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
"""Parameters of glibc's ``mallopt`` (malloc.h)."""
KEPT = 1 << 30
"""Bytes that are kept at most when nothing uses them."""
GROWTH = 64 << 20
LARGE = 1 << 20
"""Bytes of a block that goes back to the system when it is freed."""


def leave_torchrun() -> None:
    """Ends this process, at the end of its program, where `torchrun` started it and others beside it.

    PyTorch's threads that ask for the interpreter while it ends abort the process now and then; `torchrun` would take
    that for a failure and stop the first process, which may still be writing. Of the others nothing is left to do.
    """
    if os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get("RANK", "0") != "0":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed for the next step; False where the C library is another one.

    By default it maps every block above 32 MB anew and gives it back when it is freed. A step of a state on 128 x 128
    points frees a dozen of them, and the kernel would clear their pages again in every step.
    """
    return _set((MMAP_MAX, 0), (TRIM_THRESHOLD, KEPT), (TOP_PAD, GROWTH))


def give_back_freed_memory() -> bool:
    """Has glibc give every large block back to the system; False where the C library is another one.

    By default each thread keeps up to 64 MB of what it has freed, once a block of 32 MB was among it.
    """
    return _set((MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, LARGE))


def _set(*settings: tuple[int, int]) -> bool:
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)


STEADY_S = 60.0
"""A process that lived this long was healthy: the pause before the next restart is short again."""


async def keep_alive(
    live: Callable[[], Awaitable[None]], restarted: Callable[[], None], settings: Settings, name: str
) -> None:
    """Runs `live`, one process from start to end, again and again, until cancelled.

    The pause before a restart doubles while the process keeps dying early; `restarted` is called after each.
    """
    pause = settings.engine_restart_s
    while True:
        began = time.monotonic()
        try:
            await live()
        except Exception:
            logger.exception("the %s process could not be run", name)
        if time.monotonic() - began > STEADY_S:
            pause = settings.engine_restart_s
        logger.warning("the %s ended; restart in %.1f s", name, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, settings.engine_restart_max_s)
        restarted()
