"""Files of a user's: uploads that go on from where they broke off, declarations, reports."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ups_server.client.jobs import MAX_FAILURES
from ups_server.client.operation import Ask, Operation, Pause, asked, deleted, got, pause_s, sent, worked
from ups_server.client.problems import check, segment, user_error
from ups_server.errors import UserError

FILES = "/v1/files"
PART_BYTES = 2**18

Progress = Callable[[int, int], None]


def upload(
    path: str | os.PathLike[str],
    declaration: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    wait: bool = True,
) -> Operation[dict[str, Any]]:
    """Uploads a file and waits until it is examined.

    An upload that breaks off goes on from where it stopped, also when the call is repeated: the same file with the
    same name and declaration is the same upload.

    Args:
        declaration: family or equation, coefficients, boundary, axes: see `Declaration` in the OpenAPI document.
        progress: called with (bytes done, bytes in all).
        wait: False returns as soon as all bytes have arrived.

    Returns:
        The file's record, with its report.

    Raises:
        UserError: why the service takes no such file, or why it refused this one.
        httpx.TransportError: the service cannot be reached any more.
    """
    source = Path(path)
    sha256 = yield from worked(lambda _: _digest(source))
    wanted = {"name": source.name, "size": source.stat().st_size, "sha256": sha256, "declaration": declaration or {}}
    key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    record = yield from sent("POST", FILES, wanted, key)
    if record["state"] == "uploading":
        yield from _transfer(record, source, progress)
    return (yield from examined_file(record["id"]) if wait else file(record["id"]))


def examined_file(file_id: str, interval_s: float = 0.2) -> Operation[dict[str, Any]]:
    """The record of an uploaded file once it is examined.

    Raises:
        UserError: ``unknown_file``, or why the file was refused.
    """
    while (record := (yield from file(file_id)))["state"] == "validating":
        yield Pause(interval_s)
    if record["state"] == "refused":
        raise user_error(record["problem"])
    return record


def files() -> Operation[list[dict[str, Any]]]:
    """Every uploaded file, the newest first, without reports."""
    return list((yield from got(FILES))["files"])


def file(file_id: str) -> Operation[dict[str, Any]]:
    """One uploaded file with its report. Raises UserError ``unknown_file``."""
    return (yield from got(f"{FILES}/{segment(file_id)}"))


def preview(file_id: str) -> Operation[bytes]:
    """A picture of an accepted file, PNG. Raises UserError ``unknown_file`` or ``wrong_state``."""
    response = yield from asked(Ask("GET", f"{FILES}/{segment(file_id)}/preview", repeatable=True))
    return response.content


def declare(file_id: str, declaration: Mapping[str, Any]) -> Operation[dict[str, Any]]:
    """Says something else about a refused file and waits until it is examined again.

    Raises:
        UserError: ``unknown_file``, ``wrong_state``, what is wrong with the declaration, or why it is refused.
    """
    yield from sent("PUT", f"{FILES}/{segment(file_id)}/declaration", dict(declaration))
    return (yield from examined_file(file_id))


def delete_file(file_id: str) -> Operation[None]:
    """Removes an uploaded file. Raises UserError ``unknown_file``."""
    yield from deleted(f"{FILES}/{segment(file_id)}")


def _transfer(record: Mapping[str, Any], source: Path, progress: Progress | None) -> Operation[None]:
    """Sends the bytes of a file that the service lacks, as often as the connection breaks and something arrived."""
    address, size = f"{FILES}/{record['id']}/content", int(record["size"])
    failures, offset = 0, int(record["offset"])
    while True:
        try:
            if failures:
                arrived = yield from _arrived(address)
                failures = failures if arrived == offset else 1
                offset = arrived
            if offset == size:
                return
            headers = {"Content-Range": f"bytes {offset}-{size - 1}/{size}", "Content-Length": str(size - offset)}
            check((yield Ask("PUT", address, Rest(source, offset, size, progress), headers)))
            return
        except httpx.TransportError as error:
            failures += 1
            if failures > MAX_FAILURES:
                raise error
            yield Pause(pause_s(failures))


def _arrived(address: str) -> Operation[int]:
    """Bytes of an upload that the service has."""
    response: httpx.Response = yield Ask("HEAD", address)
    if response.status_code == 404:
        raise UserError("unknown_file", "the upload was deleted", got=address)
    response.raise_for_status()
    return int(response.headers["Upload-Offset"])


@dataclass(frozen=True)
class Rest:
    """A file from an offset on, in parts; says how far it is after each."""

    source: Path
    offset: int
    size: int
    progress: Progress | None

    def __iter__(self) -> Iterator[bytes]:
        done = self.offset
        with self.source.open("rb") as stream:
            stream.seek(done)
            while part := stream.read(PART_BYTES):
                yield part
                done += len(part)
                if self.progress is not None:
                    self.progress(done, self.size)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
