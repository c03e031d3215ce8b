"""The end of uploads that were begun and never finished."""

import logging
import threading

from ups_server.files.storage import FileStorage

logger = logging.getLogger(__name__)

LOOKS = 24
"""Looks at the uploads within the age at which they expire."""
LONGEST_PAUSE_S = 3600.0


class UploadExpiry:
    """Removes, from a thread of its own, uploads whose last byte is older than an age.

    The first look comes after a pause: whoever waited for a service that was down has that long to go on.

    Args:
        age_s: seconds without a byte after which an upload counts as abandoned.
    """

    def __init__(self, storage: FileStorage, age_s: float) -> None:
        self._storage = storage
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
                for file_id in self._storage.expire(self._age_s):
                    logger.info("%s was abandoned and is removed", file_id)
            except OSError:
                logger.exception("abandoned uploads could not be removed")
