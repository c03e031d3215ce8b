"""Uploads that go on from where they broke off."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from ups_server.client.problems import check
from ups_server.errors import UserError

PART_BYTES = 2**18
MAX_FAILURES = 8
"""Breaks of an upload one after another, without one byte arriving in between, before it is given up."""
LONGEST_PAUSE_S = 5.0

Progress = Callable[[int, int], None]


def transfer(http: httpx.Client, record: Mapping[str, Any], file: Path, progress: Progress | None) -> None:
    """Sends the bytes of a file that the service lacks, as often as the connection breaks and something arrived.

    Raises:
        UserError: what the service objects to.
        httpx.TransportError: the service cannot be reached any more.
    """
    address, size = f"/v1/files/{record['id']}/content", int(record["size"])
    failures, offset = 0, int(record["offset"])
    while True:
        try:
            if failures:
                arrived = _arrived(http, address)
                failures = failures if arrived == offset else 1
                offset = arrived
            if offset == size:
                return
            headers = {"Content-Range": f"bytes {offset}-{size - 1}/{size}", "Content-Length": str(size - offset)}
            check(http.put(address, content=_parts(file, offset, progress, size), headers=headers))
            return
        except httpx.TransportError:
            failures += 1
            if failures > MAX_FAILURES:
                raise
            time.sleep(min(0.1 * 2**failures, LONGEST_PAUSE_S))


def _arrived(http: httpx.Client, address: str) -> int:
    """Bytes of an upload that the service has."""
    response = http.head(address)
    if response.status_code == 404:
        raise UserError("unknown_file", "the upload was deleted", got=address)
    response.raise_for_status()
    return int(response.headers["Upload-Offset"])


def _parts(file: Path, offset: int, progress: Progress | None, size: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        stream.seek(offset)
        while part := stream.read(PART_BYTES):
            yield part
            offset += len(part)
            if progress is not None:
                progress(offset, size)
