"""Uploads on disk: offsets, idempotency, quota, and what a killed process leaves."""

import json
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.pdebench_files import plain, values_of
from ups_server.data.check import check_source
from ups_server.data.formats import open_source
from ups_server.data.store import MANIFEST
from ups_server.data.writer import transcode
from ups_server.errors import UserError
from ups_server.files.declaration import Declaration
from ups_server.files.records import FileReport, Outcome, ProblemRecord, UploadRequest
from ups_server.files.storage import CONTENT, FileStorage

REQUEST = UploadRequest(name="a.h5", size=100)
REFUSED = Outcome(problem=ProblemRecord(code="not_hdf5", detail="a.h5 is not an HDF5 file"), finished_at="now")


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    storage = FileStorage(tmp_path / "files", quota=250, max_bytes=200)
    storage.tidy()
    return storage


def code_of(action: "object") -> str:
    assert callable(action)
    with pytest.raises(UserError) as caught:
        action()
    return caught.value.code


def test_bytes_in_parts(storage: FileStorage) -> None:
    record, new = storage.create(REQUEST)
    assert (record.state, record.offset, new) == ("uploading", 0, True)
    with storage.writer(record.id, 0) as writer:
        writer.write(b"a" * 30)
        writer.write(b"b" * 30)
    assert storage.record(record.id).offset == 60
    with storage.writer(record.id, 40) as writer:  # 20 bytes that are there already are skipped
        writer.write(b"x" * 10)
        writer.write(b"x" * 10 + b"c" * 40)
        assert writer.complete
    assert storage.record(record.id).state == "validating"
    assert (storage.folder(record.id) / CONTENT).read_bytes() == b"a" * 30 + b"b" * 30 + b"c" * 40


def test_wrong_bytes(storage: FileStorage) -> None:
    record, _ = storage.create(REQUEST)
    assert code_of(lambda: storage.writer(record.id, 1)) == "offset_mismatch"
    with storage.writer(record.id, 0) as writer:
        assert code_of(lambda: writer.write(b"a" * 101)) == "too_many_bytes"
        writer.write(b"a" * 100)
    assert code_of(lambda: storage.writer(record.id, 0)) == "wrong_state"
    assert code_of(lambda: storage.preview(record.id)) == "wrong_state"


def test_a_later_writer_takes_over(storage: FileStorage) -> None:
    record, _ = storage.create(REQUEST)
    with storage.writer(record.id, 0) as hanging:
        hanging.write(b"a" * 10)
        with storage.writer(record.id, 10) as writer:
            assert code_of(lambda: hanging.write(b"z" * 10)) == "upload_displaced"
            writer.write(b"b" * 90)
    assert (storage.folder(record.id) / CONTENT).read_bytes() == b"a" * 10 + b"b" * 90


def test_one_key_makes_one_file(storage: FileStorage) -> None:
    first, new = storage.create(REQUEST, storage.id_of("k"))
    again, repeated = storage.create(REQUEST, storage.id_of("k"))
    assert (new, repeated) == (True, False)
    assert first.id == again.id
    assert storage.create(UploadRequest(name="b.h5", size=100), storage.id_of("l"))[0].id != first.id
    assert (
        code_of(lambda: storage.create(UploadRequest(name="b.h5", size=100), storage.id_of("k")))
        == "idempotency_conflict"
    )
    assert len(storage.ids()) == 2


def test_quota(storage: FileStorage) -> None:
    assert code_of(lambda: storage.create(UploadRequest(name="a.h5", size=201))) == "file_too_large"
    record, _ = storage.create(UploadRequest(name="a.h5", size=200))
    assert code_of(lambda: storage.create(REQUEST)) == "quota_exceeded"
    storage.delete(record.id)
    assert storage.room() == 250
    storage.create(REQUEST)


def test_unknown_files(storage: FileStorage, tmp_path: Path) -> None:
    (tmp_path / "files" / "other").mkdir()
    for name in ("file-" + "0" * 24, "other", "../files", ""):
        assert code_of(lambda name=name: storage.record(name)) == "unknown_file"
        assert code_of(lambda name=name: storage.delete(name)) == "unknown_file"


def test_a_file_may_go_while_it_is_read(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = storage.create(REQUEST)
    real = Path.stat

    def last_look(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = real(path, follow_symlinks=follow_symlinks)
        if path.name == CONTENT:
            monkeypatch.undo()
            storage.delete(record.id)
        return found

    monkeypatch.setattr(Path, "stat", last_look)
    assert code_of(lambda: storage.record(record.id)) == "unknown_file"


def test_a_refused_file_can_be_declared_anew(storage: FileStorage) -> None:
    record, _ = storage.create(REQUEST)
    with storage.writer(record.id, 0) as writer:
        writer.write(b"a" * 100)
    assert code_of(lambda: storage.redeclare(record.id, Declaration(family="burgers"))) == "wrong_state"
    storage.finish(record.id, REFUSED)
    refused = storage.record(record.id)
    assert (refused.state, refused.problem) == ("refused", REFUSED.problem)
    again = storage.redeclare(record.id, Declaration(family="burgers"))
    assert (again.state, again.problem, again.declaration.family) == ("validating", None, "burgers")


def test_remains_are_removed(storage: FileStorage) -> None:
    record, _ = storage.create(REQUEST)
    (storage.root / ".file-half-made").mkdir()
    (storage.folder(record.id) / ".work-1" / "output").mkdir(parents=True)
    FileStorage(storage.root, 250, 200).tidy()
    assert [entry.name for entry in storage.root.iterdir()] == [record.id]
    assert not list(storage.folder(record.id).glob(".work-*"))
    assert storage.record(record.id) == record


def test_a_damaged_record_hides_no_other(storage: FileStorage) -> None:
    damaged, whole = (storage.create(UploadRequest(name=name, size=1))[0] for name in ("a.h5", "b.h5"))
    (storage.folder(damaged.id) / "registration.json").write_text("{")
    storage.tidy()
    assert [record.id for record in storage.records()] == [whole.id]
    with pytest.raises(UserError) as caught:
        storage.record(damaged.id)
    assert caught.value.code == "damaged_record"


def test_a_store_of_an_earlier_version_learns_which_rows_it_lacks(storage: FileStorage, tmp_path: Path) -> None:
    """Its manifest recorded none; the report named the first eight."""
    values = values_of("advection", 6)[..., 0].copy()
    values[2, 3, 4] = values[4, 0, 0] = np.nan
    path = plain(tmp_path / "mine.h5", {"beta": 0.4}, tensor=values)
    record, _ = storage.create(UploadRequest(name="mine.h5", size=1))
    folder = storage.folder(record.id)
    with closing(open_source(path)) as source:
        check, left_out = check_source(path, source)
        transcode(source, folder / "store", {"rows": 4, "refused": 2}, left_out=left_out).close()
    manifest = json.loads((folder / "store" / MANIFEST).read_text())
    del manifest["left_out"]
    (folder / "store" / MANIFEST).write_text(json.dumps(manifest))
    report = FileReport(check=check, declared=(), slots={}, boundary=(), dt=None, rows=4, fingerprint="", store_bytes=1)
    storage.finish(record.id, Outcome(report=report, finished_at="now"))
    storage.tidy()
    with storage.open_store(record.id) as store:
        assert store.row_numbers.numbers.tolist() == [0, 1, 3, 5]
        assert set(store.row_numbers.left_out) == {2, 4}


def test_what_is_made_for_one_answer_is_not_kept(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path, 2**30, 2**30)
    with storage.scratch(1000) as folder:
        (folder / "file").write_bytes(b"made")
        assert storage.ids() == []
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError) as caught, storage.scratch(2**62):
        pass
    assert caught.value.code == "storage_full"
