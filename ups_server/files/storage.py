"""Uploads on disk. One folder a file:

| | |
|---|---|
| `registration.json` | what was asked for; the folder appears whole, with this in it |
| `declaration.json` | a later declaration, in place of the first |
| `content.h5` | the bytes so far: its size is the offset, so that nothing else has to agree with it |
| `outcome.json` | report or problem; written last |
| `store/`, `preview.png` | of an accepted file, whose content is removed |

The state follows from what is there; every step is a rename, and a process killed at any moment leaves a valid state.
An idempotency key decides the id: a request that is repeated finds the folder of the first.
"""

import hashlib
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from ups_server.data.atomic import replacing, sync_folder
from ups_server.data.source import LeftOut
from ups_server.data.store import MANIFEST, Store, StoreManifest
from ups_server.errors import UserError
from ups_server.files.declaration import Declaration
from ups_server.files.records import STATES, FileRecord, Outcome, Registration, UploadRequest
from ups_server.files.uploads import Arrival, ContentWriter, storage_full
from ups_server.objects import SharedFolders

logger = logging.getLogger(__name__)

ID = re.compile(r"file-[0-9a-f]{24}")
REGISTRATION, DECLARATION, OUTCOME = "registration.json", "declaration.json", "outcome.json"
FILES = "files"
"""Name of the folder of all files in a data folder."""
CONTENT, STORE, PREVIEW = "content.h5", "store", "preview.png"
TEMPORARY = "."
"""Names that begin so are remains of something interrupted."""
WORK = ".work-"
GRANT_BYTES = 2**26
"""Of the quota, that a file of unknown size takes at a time."""
FREE_BYTES = 64 * 2**20
"""Left free on the disk."""


class FileStorage:
    """The files of a service.

    Args:
        root: their folder; made if absent.
        quota: bytes of all files together.
        max_bytes: bytes of one.
        shared: where accepted files are known to other machines.
    """

    def __init__(self, root: Path, quota: int, max_bytes: int, shared: SharedFolders | None = None) -> None:
        self._shared = shared
        self.root = root
        self.quota = quota
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._writers: dict[str, ContentWriter] = {}
        self._granted: dict[Path, int] = {}

    def tidy(self) -> None:
        """Removes what interrupted steps of an earlier process left. No other process may be at work."""
        self.root.mkdir(parents=True, exist_ok=True)
        for entry in self.root.iterdir():
            if entry.name.startswith((TEMPORARY, WORK)) and entry.is_dir():
                shutil.rmtree(entry)
        for file_id in self.ids():
            for entry in self.folder(file_id).glob(f"{WORK}*"):
                shutil.rmtree(entry)
        self.synchronise()
        for record in self._records():
            if record.state == "ready":
                (self.folder(record.id) / CONTENT).unlink(missing_ok=True)
                self._record_left_out(record.id)

    def synchronise(self) -> None:
        """Has the files that other machines have accepted, and none that they have deleted."""
        if self._shared is not None:
            self._shared.synchronise(FILES, self._is_ready)

    def _is_ready(self, folder: Path) -> bool:
        try:
            return self.state(folder.name) == "ready"
        except UserError:  # no file of a user, or a damaged one
            return False

    def ids(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if ID.fullmatch(entry.name))

    @staticmethod
    def id_of(key: str | None = None) -> str:
        """The id of a new file; of the same `key` always the same."""
        return f"file-{secrets.token_hex(12) if key is None else hashlib.sha256(key.encode()).hexdigest()[:24]}"

    def create(
        self, request: UploadRequest, file_id: str | None = None, arrival: Arrival | None = None
    ) -> tuple[FileRecord, bool]:
        """A place for a file, and whether it is new; the same id (`id_of`) finds the place it made before.

        Args:
            arrival: all bytes of the file, where they are here already.

        Raises:
            UserError: ``file_too_large``, ``quota_exceeded``, ``storage_full``, ``idempotency_conflict``.
        """
        file_id = file_id or self.id_of()
        with self._lock:
            if self.folder(file_id).is_dir():
                return self._replayed(file_id, request), False
            if arrival is not None:
                arrival.settle()
                self._granted.pop(arrival.path)
            self._check_room(request.size)
            new = self.root / f"{TEMPORARY}{file_id}-{secrets.token_hex(4)}"
            new.mkdir(parents=True)
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            registration = Registration(id=file_id, created_at=now, request=request)
            _write(new / REGISTRATION, registration.model_dump_json(indent=1))
            if arrival is None:
                (new / CONTENT).touch()
            else:
                os.rename(arrival.path, new / CONTENT)
            os.rename(new, self.folder(file_id))
            sync_folder(self.root)
        return self.record(file_id), True

    @contextmanager
    def arrival(self) -> Iterator[Arrival]:
        """Takes a file whose size nobody has said, for `create`; otherwise nothing of it is left after the block."""
        folder = self.root / f"{TEMPORARY}arrival-{secrets.token_hex(8)}"
        folder.mkdir(parents=True)
        path = folder / CONTENT
        try:
            with closing(Arrival(path, partial(self._grant, path))) as arriving:
                yield arriving
        finally:
            self._granted.pop(path, None)
            shutil.rmtree(folder)

    def _grant(self, path: Path, granted: int, needed: int) -> int:
        """Room for an arriving file, more than it needs at once. Raises UserError as `create`."""
        with self._lock:
            self._check_room(needed - granted, needed)
            self._granted[path] = max(needed, min(needed + GRANT_BYTES, granted + self.room(), self.max_bytes))
            return self._granted[path]

    @contextmanager
    def scratch(self, size: int) -> Iterator[Path]:
        """A folder for `size` bytes that are made of a file for one answer; nothing of it is left after the block.

        Raises:
            UserError: ``storage_full``.
        """
        if size > shutil.disk_usage(self.root).free - FREE_BYTES:
            raise storage_full()
        folder = self.root / f"{TEMPORARY}data-{secrets.token_hex(8)}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def records(self) -> list[FileRecord]:
        """All files, the newest first."""
        return sorted(self._records(), key=lambda record: (record.created_at, record.id), reverse=True)

    def record(self, file_id: str) -> FileRecord:
        """Everything known of a file.

        Raises:
            UserError: ``unknown_file``, ``damaged_record`` where what is stored of it cannot be read.
        """
        folder = self._existing(file_id)
        content = folder / CONTENT
        # In this order: content goes only after an outcome has come.
        try:
            offset: int | None = content.stat().st_size
        except FileNotFoundError:
            offset = None
        try:
            registration = Registration.model_validate_json((folder / REGISTRATION).read_bytes())
            outcome, declaration = self.outcome(file_id), self.declaration(file_id)
        except FileNotFoundError:
            raise unknown(file_id) from None
        except ValidationError as error:
            raise UserError(
                "damaged_record", f"what is stored of {file_id} cannot be read", hint="delete it, and upload it again"
            ) from error
        request = registration.request
        if outcome is not None:
            offset = request.size
        elif offset is None:
            raise unknown(file_id)
        state: STATES = "uploading" if offset < request.size else "validating"
        if outcome:
            state = "refused" if outcome.report is None else "ready"
        return FileRecord(
            id=file_id,
            name=request.name,
            state=state,
            size=request.size,
            parts=request.parts,
            offset=offset,
            sha256=(outcome and outcome.sha256) or request.sha256,
            created_at=registration.created_at,
            finished_at=outcome.finished_at if outcome else None,
            declaration=declaration,
            family=outcome.report.check.family if outcome and outcome.report else None,
            report=outcome.report if outcome else None,
            problem=outcome.problem if outcome else None,
            usage=outcome.usage if outcome else None,
        )

    def state(self, file_id: str) -> STATES:
        return self.record(file_id).state

    def declaration(self, file_id: str) -> Declaration:
        """The user's latest word about a file."""
        later = self.folder(file_id) / DECLARATION
        if later.is_file():
            return Declaration.model_validate_json(later.read_bytes())
        return Registration.model_validate_json((self.folder(file_id) / REGISTRATION).read_bytes()).request.declaration

    def redeclare(self, file_id: str, declaration: Declaration) -> FileRecord:
        """A new declaration of a refused file, which is to be examined again.

        Raises:
            UserError: ``unknown_file``, ``wrong_state``.
        """
        folder = self._existing(file_id)
        self.expect(file_id, "refused")
        _write(folder / DECLARATION, declaration.model_dump_json(indent=1))
        (folder / OUTCOME).unlink()
        sync_folder(folder)
        return self.record(file_id)

    def expect(self, file_id: str, *states: STATES) -> FileRecord:
        """The record of a file in one of these states.

        Raises:
            UserError: ``unknown_file``, ``wrong_state``.
        """
        record = self.record(file_id)
        if record.state not in states:
            hint = record.problem.detail if record.problem else None
            raise UserError(
                "wrong_state", f"{file_id} is {record.state}", got=record.state, expected=list(states), hint=hint
            )
        return record

    def writer(self, file_id: str, start: int) -> ContentWriter:
        """Takes over the upload of a file: an earlier writer, whose connection may hang, writes no more.

        Raises:
            UserError: ``unknown_file``, ``wrong_state``, ``offset_mismatch`` where bytes before `start` are missing.
        """
        with self._lock:
            record = self.expect(file_id, "uploading")
            earlier = self._writers.get(file_id)
            if earlier is not None:
                earlier.displace()
            writer = ContentWriter(self.folder(file_id) / CONTENT, record.size, start)
            self._writers[file_id] = writer
            return writer

    def finish(self, file_id: str, outcome: Outcome) -> None:
        """Records the end of an examination; an accepted file's content is not needed any more."""
        folder, text = self.folder(file_id), outcome.model_dump_json(indent=1)
        if outcome.report is not None and self._shared is not None:
            self._shared.push(f"{FILES}/{file_id}", without=(CONTENT,), extra={OUTCOME: text.encode()})
        _write(folder / OUTCOME, text)
        if outcome.report is not None:
            (folder / CONTENT).unlink(missing_ok=True)

    def outcome(self, file_id: str) -> Outcome | None:
        file = self.folder(file_id) / OUTCOME
        try:
            return Outcome.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None

    def open_store(self, file_id: str) -> Store:
        """The trajectories of an accepted file.

        Raises:
            UserError: ``unknown_file``, ``wrong_state``.
        """
        self.expect(file_id, "ready")
        return Store.open(self.folder(file_id) / STORE)

    def preview(self, file_id: str) -> Path:
        """The picture of an accepted file, a PNG.

        Raises:
            UserError: ``unknown_file``, ``wrong_state``.
        """
        self.expect(file_id, "ready")
        return self.folder(file_id) / PREVIEW

    def delete(self, file_id: str) -> None:
        """Removes a file and all that was made of it.

        Raises:
            UserError: ``unknown_file``.
        """
        folder = self._existing(file_id)
        if self._shared is not None:
            self._shared.remove(f"{FILES}/{file_id}")
        writer = self._writers.pop(file_id, None)
        if writer is not None:
            writer.displace()
        gone = self.root / f"{TEMPORARY}{file_id}-{secrets.token_hex(4)}"
        try:
            os.rename(folder, gone)
        except FileNotFoundError:
            raise unknown(file_id) from None
        shutil.rmtree(gone)

    def expire(self, age_s: float) -> list[str]:
        """Removes uploads that got no byte for `age_s` seconds, none of them while a request sends it; their ids."""
        gone = []
        for file_id in self.ids():
            # Under the lock of `writer` and `create`: who comes back in time keeps the upload, or finds none.
            with self._lock:
                if self._is_abandoned(file_id, age_s):
                    self.delete(file_id)
                    gone.append(file_id)
        return gone

    def _is_abandoned(self, file_id: str, age_s: float) -> bool:
        writer = self._writers.get(file_id)
        try:
            if self.state(file_id) != "uploading" or (writer is not None and writer.open):
                return False
            return time.time() - (self.folder(file_id) / CONTENT).stat().st_mtime > age_s
        except (UserError, FileNotFoundError):  # deleted in between
            return False

    def folder(self, file_id: str) -> Path:
        return self.root / file_id

    def room(self, without: str | None = None) -> int:
        """Bytes of the quota that are free, those of one file not counted."""
        taken = sum(_size(record) for record in self._records() if record.id != without)
        return self.quota - taken - sum(self._granted.values())

    def _record_left_out(self, file_id: str) -> None:
        """Completes a store of an earlier version, which did not record the rows it lacks: the report names some."""
        file, outcome = self.folder(file_id) / STORE / MANIFEST, self.outcome(file_id)
        try:
            manifest = StoreManifest.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):  # whoever opens it learns why
            return
        if manifest.left_out is None and outcome is not None and outcome.report is not None:
            check = outcome.report.check
            known = LeftOut(reason="; ".join(check.problems), rows=check.unusable_rows)
            left_out = (known,) if known.rows else ()
            _write(file, manifest.model_copy(update={"left_out": left_out}).model_dump_json(indent=1))

    def _records(self) -> Iterator[FileRecord]:
        for file_id in self.ids():
            try:
                yield self.record(file_id)
            except UserError as error:  # deleted in between, or damaged: it hides no other
                if error.code != "unknown_file":
                    logger.warning("left out of the list of files: %s", error)

    def _check_room(self, size: int, whole: int | None = None) -> None:
        """Is there room for `size` bytes more, of a file of at least `whole` bytes?"""
        if (whole or size) > self.max_bytes:
            raise UserError(
                "file_too_large",
                "the file is larger than this service takes",
                got=whole or size,
                expected=f"at most {self.max_bytes} bytes",
                hint="upload fewer trajectories, or several files",
            )
        room = self.room()
        if size > room:
            raise UserError(
                "quota_exceeded",
                "the files of this service would exceed their quota",
                got=size,
                expected=f"at most {max(room, 0)} bytes, of {self.quota} in all",
                hint="delete files that are not needed any more",
            )
        self.root.mkdir(parents=True, exist_ok=True)
        if size > shutil.disk_usage(self.root).free - FREE_BYTES:
            raise storage_full()

    def _replayed(self, file_id: str, request: UploadRequest) -> FileRecord:
        registration = Registration.model_validate_json((self.folder(file_id) / REGISTRATION).read_bytes())
        if registration.request != request:
            raise UserError(
                "idempotency_conflict",
                "this idempotency key belongs to another request",
                got=request.model_dump(mode="json", exclude_defaults=True),
                expected=registration.request.model_dump(mode="json", exclude_defaults=True),
                hint="choose a new key for a new file",
            )
        record = self.record(file_id)
        if record.state == "uploading":
            os.utime(self.folder(file_id) / CONTENT)  # whoever asks for it again has not abandoned it
        return record

    def _existing(self, file_id: str) -> Path:
        if not ID.fullmatch(file_id) or not self.folder(file_id).is_dir():
            raise unknown(file_id)
        return self.folder(file_id)


def unknown(file_id: str) -> UserError:
    return UserError("unknown_file", f"there is no file {file_id!r}", got=file_id)


def _size(record: FileRecord) -> int:
    return record.size if record.report is None else record.report.store_bytes


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
