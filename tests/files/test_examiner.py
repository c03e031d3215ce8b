"""Examinations that follow from what is on disk, are begun again, cancelled and never run twice at a time."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import wait_until
from tests.pdebench_files import plain
from ups_server.files.declaration import Declaration
from ups_server.files.examination import ATTEMPTS, CRASHING_ATTEMPTS, Examiner
from ups_server.files.records import ExaminationLimits, FileRecord, UploadRequest
from ups_server.files.storage import CONTENT, FileStorage


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "files", quota=2**24, max_bytes=2**24)


@pytest.fixture
def examiner(storage: FileStorage) -> Iterator[Examiner]:
    examiner = Examiner(storage, ExaminationLimits(), timeout_s=60.0, at_once=2)
    yield examiner
    examiner.close()


def uploaded(storage: FileStorage, tmp_path: Path, declaration: Declaration | None = None) -> FileRecord:
    content = plain(tmp_path / "content.h5", {}).read_bytes()
    request = UploadRequest(name="file.h5", size=len(content), declaration=declaration or Declaration())
    record, _ = storage.create(request)
    with storage.writer(record.id, 0) as writer:
        writer.write(content)
    return storage.record(record.id)


def over(storage: FileStorage, file_id: str) -> FileRecord:
    wait_until(lambda: storage.record(file_id).state in ("ready", "refused"), "the file is examined")
    return storage.record(file_id)


def test_what_is_whole_is_examined_at_the_start(examiner: Examiner, storage: FileStorage, tmp_path: Path) -> None:
    record = uploaded(storage, tmp_path)
    (storage.folder(record.id) / "store").mkdir()  # of an examination that was cut off before its outcome
    (storage.folder(record.id) / ".work-1").mkdir()
    examiner.start()
    refused = over(storage, record.id)
    assert refused.problem is not None
    assert refused.problem.code == "family_unknown"
    assert refused.usage is not None
    storage.redeclare(record.id, Declaration(family="advection", coefficients={"beta": 0.4}))
    for _ in range(5):
        examiner.submit(record.id)
    ready = over(storage, record.id)
    assert ready.report is not None
    assert ready.report.rows == 3
    assert storage.room() == storage.quota - ready.report.store_bytes
    wait_until(lambda: not (storage.folder(record.id) / CONTENT).exists(), "the original is removed")
    with storage.open_store(record.id) as store:
        assert len(store) == 3


def test_an_examination_that_is_cut_off_leaves_the_file_waiting(storage: FileStorage, tmp_path: Path) -> None:
    record = uploaded(storage, tmp_path)
    examiner = Examiner(storage, ExaminationLimits(), timeout_s=60.0)
    examiner.start()
    wait_until(lambda: bool(list(storage.folder(record.id).glob(".work-*/log.txt"))), "the process is started")
    examiner.close()
    assert storage.record(record.id).state == "validating"
    assert not list(storage.folder(record.id).glob(".work-*"))


def test_a_file_can_be_deleted_while_it_is_examined(examiner: Examiner, storage: FileStorage, tmp_path: Path) -> None:
    record = uploaded(storage, tmp_path)
    examiner.start()
    wait_until(lambda: bool(list(storage.folder(record.id).glob(".work-*/log.txt"))), "the process is started")
    examiner.cancel(record.id)
    storage.delete(record.id)
    assert storage.ids() == []


def test_our_own_failure_is_told(
    examiner: Examiner, storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ups_server.files.examination.sys.executable", "no-such-python")
    record = uploaded(storage, tmp_path)
    examiner.start()
    refused = over(storage, record.id)
    assert refused.problem is not None
    assert refused.problem.code == "examination_failed"


class Killer:
    """Ends the first so many examinations by a signal, as soon as each is started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, by: signal.Signals, times: int) -> None:
        self.by, self.left, self.killed = by, times, 0
        self._start = subprocess.Popen
        monkeypatch.setattr("ups_server.files.examination.subprocess.Popen", self)

    def __call__(self, *words: Any, **more: Any) -> "subprocess.Popen[bytes]":
        process = self._start(*words, **more)
        if self.left and more.get("start_new_session"):
            self.left -= 1
            self.killed += 1
            os.kill(process.pid, self.by)
        return process


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGXCPU, signal.SIGSEGV], ids=lambda by: by.name)
def test_a_valid_file_outlives_the_signals_that_end_its_examination(
    by: signal.Signals, examiner: Examiner, storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = Killer(monkeypatch, by, 1)
    record = uploaded(storage, tmp_path, Declaration(family="advection", coefficients={"beta": 0.4}))
    examiner.start()
    ready = over(storage, record.id)
    assert (ready.state, ready.problem, killer.killed) == ("ready", None, 1)


@pytest.mark.parametrize(
    ("by", "attempts", "code"),
    [(signal.SIGKILL, ATTEMPTS, "examination_failed"), (signal.SIGSEGV, CRASHING_ATTEMPTS, "damaged_file")],
    ids=["SIGKILL", "SIGSEGV"],
)
def test_it_is_not_examined_for_ever(
    by: signal.Signals,
    attempts: int,
    code: str,
    examiner: Examiner,
    storage: FileStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What nobody measured is no lack of memory."""
    monkeypatch.setattr("ups_server.files.examination.PAUSE_S", 0.0)
    killer = Killer(monkeypatch, by, 100)
    record = uploaded(storage, tmp_path)
    examiner.start()
    refused = over(storage, record.id)
    assert refused.problem is not None
    assert (refused.problem.code, killer.killed) == (code, attempts)
    examiner.close()  # waits for the thread, which tidies up last
    assert not list(storage.folder(record.id).glob(".work-*"))


def test_closing_ends_the_pause_between_two_examinations(
    storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ups_server.files.examination.PAUSE_S", 3600.0)
    killer = Killer(monkeypatch, signal.SIGKILL, 1)
    record = uploaded(storage, tmp_path)
    examiner = Examiner(storage, ExaminationLimits(), timeout_s=60.0)
    examiner.start()
    wait_until(lambda: killer.killed == 1, "the process is started and killed")
    examiner.close()
    assert storage.record(record.id).state == "validating"
