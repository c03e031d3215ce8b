"""Bytes of an upload, appended to its file as they come, and the end of uploads for which no more come."""

import errno
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ups_server.errors import UserError

PIECE = 2**23
"""Bytes that are copied at a time."""


class ContentWriter:
    """Appends to a file that is to have `total` bytes; bytes before its present end are skipped.

    Args:
        start: place of the first byte that will come.

    Raises:
        UserError: ``offset_mismatch`` where bytes before `start` are missing.
    """

    def __init__(self, path: Path, total: int, start: int) -> None:
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_WRONLY)
        self._displaced = False
        self._total = total
        self._place = start
        self.offset = os.fstat(self._descriptor).st_size
        if start > self.offset:
            os.close(self._descriptor)
            raise UserError(
                "offset_mismatch",
                "bytes before the beginning of this range are missing",
                got=start,
                expected=self.offset,
                hint="HEAD tells the offset to go on from",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            os.close(self._descriptor)
            self._displaced = True

    @property
    def open(self) -> bool:
        """May bytes still come through it?"""
        return not self._displaced

    @property
    def complete(self) -> bool:
        return self.offset == self._total

    def displace(self) -> None:
        """From now on this writer writes no more: another one goes on."""
        with self._lock:
            self._displaced = True

    def write(self, data: bytes) -> None:
        """Takes the next bytes; flushes the file to disk once it is whole.

        Raises:
            UserError: ``upload_displaced``, ``too_many_bytes``, ``storage_full``.
        """
        with self._lock:
            if self._displaced:
                raise UserError("upload_displaced", "another request goes on with this upload")
            if self._place + len(data) > self._total:
                raise UserError(
                    "too_many_bytes",
                    "the upload holds more bytes than were announced",
                    got=f"more than {self._total}",
                    expected=self._total,
                )
            new = memoryview(data)[max(self.offset - self._place, 0) :]
            self._place += len(data)
            self._append(new)
            if self.complete:
                os.fsync(self._descriptor)

    def _append(self, data: memoryview) -> None:
        try:
            while data:
                written = os.pwrite(self._descriptor, data, self.offset)
                self.offset += written
                data = data[written:]
        except OSError as error:
            if is_full(error):
                raise storage_full() from error
            raise


class Arrival:
    """A file whose size nobody has said, written as it comes, until whoever sends it ends.

    Args:
        path: a file that does not exist yet.
        grant: (bytes that are granted, bytes that are needed) -> bytes that are granted now; raises UserError.

    Attributes:
        size: bytes so far.
    """

    def __init__(self, path: Path, grant: Callable[[int, int], int]) -> None:
        self.path = path
        self.size = 0
        self._grant = grant
        self._granted = 0
        self._stream = path.open("xb")

    def write(self, data: bytes) -> None:
        """Takes the next bytes. Raises UserError ``storage_full``, and those of `grant`."""
        needed = self.size + len(data)
        if needed > self._granted:
            self._granted = self._grant(self._granted, needed)
        try:
            self._stream.write(data)
        except OSError as error:
            if is_full(error):
                raise storage_full() from error
            raise
        self.size = needed

    def settle(self) -> None:
        """Has everything on disk: the file is whole."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


def cut(content: Path, sizes: Sequence[int], folder: Path, stopped: Callable[[], bool]) -> list[Path]:
    """The files whose bytes follow one another in `content`, each by itself in `folder`; fewer once `stopped` says so.

    Raises:
        UserError: ``storage_full``.
    """
    folder.mkdir(parents=True)
    made = [folder / f"{number:04d}" for number in range(len(sizes))]
    with content.open("rb") as whole:
        for size, path in zip(sizes, made, strict=True):
            with path.open("xb") as part:
                left = size
                while left and not stopped() and (piece := whole.read(min(left, PIECE))):
                    try:
                        part.write(piece)
                        part.flush()
                    except OSError as error:
                        if is_full(error):
                            raise storage_full() from error
                        raise
                    left -= len(piece)
    return made


def is_full(error: BaseException) -> bool:
    """Is there no room for what was to be written: on the disk, in a quota, or in a file of this process?"""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def storage_full() -> UserError:
    return UserError("storage_full", "the disk of this service is full", hint="delete files, or ask its operator")


logger = logging.getLogger(__name__)

LOOKS = 24
"""Looks at the uploads within the age at which they expire."""
LONGEST_PAUSE_S = 3600.0


class UploadExpiry:
    """Removes, from a thread of its own, uploads whose last byte is older than an age.

    The first look comes after a pause: whoever waited for a service that was down has that long to go on.

    Args:
        expire: removes what had no byte for so many seconds, and says what that was (`FileStorage.expire`).
        age_s: seconds without a byte after which an upload counts as abandoned.
    """

    def __init__(self, expire: Callable[[float], list[str]], age_s: float) -> None:
        self._expire = expire
        self._age_s = age_s
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="upload expiry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(min(self._age_s / LOOKS, LONGEST_PAUSE_S)):
            try:
                for file_id in self._expire(self._age_s):
                    logger.info("%s was abandoned and is removed", file_id)
            except OSError:
                logger.exception("abandoned uploads could not be removed")
