"""Uploads that nobody goes on with are removed; those that are being sent, or asked for again, are not."""

import os
import threading
from pathlib import Path

import pytest

from tests.files.test_storage import REFUSED, REQUEST
from ups_server.errors import UserError
from ups_server.files.storage import CONTENT, FileStorage
from ups_server.files.uploads import UploadExpiry

AGE_S = 100.0
FOREVER = 1e9


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "files", quota=1000, max_bytes=200)


def begun(storage: FileStorage, key: str | None = None, sent: int = 10) -> str:
    """An upload whose last byte came long ago."""
    record, _ = storage.create(REQUEST, storage.id_of(key))
    with storage.writer(record.id, 0) as writer:
        writer.write(b"a" * sent)
    os.utime(storage.folder(record.id) / CONTENT, (0, 0))
    return record.id


def test_only_old_uploads_expire(storage: FileStorage) -> None:
    old, new = begun(storage), begun(storage)
    os.utime(storage.folder(new) / CONTENT)
    assert storage.expire(AGE_S) == [old]
    assert storage.ids() == [new]
    assert storage.room() == 1000 - REQUEST.size
    with pytest.raises(UserError, match="no file"):
        storage.writer(old, 0)


def test_a_byte_makes_an_upload_young(storage: FileStorage) -> None:
    file_id = begun(storage)
    with storage.writer(file_id, 10) as writer:
        writer.write(b"b")
    assert storage.expire(AGE_S) == []


def test_never_while_a_request_sends_it(storage: FileStorage) -> None:
    """However slowly: an open request is no abandoned one."""
    file_id = begun(storage)
    with storage.writer(file_id, 10) as hanging:
        assert storage.expire(AGE_S) == []
        with storage.writer(file_id, 10):
            hanging.displace()
            assert storage.expire(AGE_S) == []
    assert storage.expire(AGE_S) == [file_id]


def test_who_asks_for_an_upload_again_keeps_it(storage: FileStorage) -> None:
    file_id = begun(storage, "key")
    assert storage.create(REQUEST, storage.id_of("key"))[0].id == file_id
    assert storage.expire(AGE_S) == []


def test_whole_files_stay(storage: FileStorage) -> None:
    waiting, refused = (begun(storage, sent=100) for _ in range(2))
    storage.finish(refused, REFUSED)
    assert [storage.state(file_id) for file_id in (waiting, refused)] == ["validating", "refused"]
    assert storage.expire(AGE_S) == []


def test_the_thread_looks_after_a_pause_and_ends_at_once(storage: FileStorage) -> None:
    file_id, looked = begun(storage), threading.Event()
    expire = storage.expire

    def watched(age_s: float) -> list[str]:
        gone = expire(age_s)
        looked.set()
        return gone

    storage.expire = watched  # type: ignore[method-assign]
    patient = UploadExpiry(storage.expire, FOREVER)
    patient.start()
    patient.close()
    assert not looked.is_set()
    prompt = UploadExpiry(storage.expire, 0.1)
    prompt.start()
    assert looked.wait(60)
    prompt.close()
    assert not storage.folder(file_id).exists()
