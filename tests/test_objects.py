"""Folders that machines share by an object store: what each sees of the others' changes."""

import hashlib
import uuid
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fsspec")

from ups_server.errors import UserError
from ups_server.objects import KNOWN, MANIFEST, ObjectStore, OneDisk, shared_folders
from ups_server.settings import Settings


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def here(tmp_path: Path, url: str) -> ObjectStore:
    return ObjectStore(tmp_path / "here", url)


@pytest.fixture
def there(tmp_path: Path, url: str) -> ObjectStore:
    return ObjectStore(tmp_path / "there", url)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_and_its_changes_reach_another_machine(here: ObjectStore, there: ObjectStore, tmp_path: Path) -> None:
    mine, other = tmp_path / "here" / "jobs" / "ft-1", tmp_path / "there" / "jobs" / "ft-1"
    assert not there.pull("jobs/ft-1")
    write(mine, {"state": "1", "best/weights": "w"})
    here.push("jobs/ft-1")
    assert there.pull("jobs/ft-1")
    assert read(other) == {"state": "1", "best/weights": "w"}
    (mine / "best" / "weights").unlink()
    write(mine, {"state": "2", "curve": "c"})
    here.push("jobs/ft-1")
    assert there.pull("jobs/ft-1")
    assert read(other) == {"state": "2", "curve": "c"}


def test_what_did_not_change_is_not_sent_or_fetched_again(
    here: ObjectStore, there: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here" / "models" / "m", {"a": "same", "b": "1"})
    here.push("models/m")
    there.pull("models/m")
    sent: list[str] = []
    opened = here._store.open

    def counted(path: str, *arguments: Any, **named: Any) -> Any:
        sent.append(path)
        return opened(path, *arguments, **named)

    monkeypatch.setattr(here._store, "open", counted)
    write(tmp_path / "here" / "models" / "m", {"b": "2"})
    here.push("models/m")
    assert len([path for path in sent if not path.endswith(MANIFEST)]) == 1
    monkeypatch.undo()
    marked = tmp_path / "there" / "models" / "m" / "mark"
    assert there.pull("models/m")
    marked.touch()
    assert there.pull("models/m")
    assert marked.exists(), "the copy was in order"


def test_a_change_that_was_broken_off_is_not_seen(
    here: ObjectStore, there: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here" / "jobs" / "ft-1", {"a": "1", "b": "1"})
    here.push("jobs/ft-1")
    write(tmp_path / "here" / "jobs" / "ft-1", {"a": "2", "b": "2"})

    def killed(path: str, content: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(here._store, "pipe_file", killed)
    with pytest.raises(KeyboardInterrupt):
        here.push("jobs/ft-1")
    assert there.pull("jobs/ft-1")
    assert read(tmp_path / "there" / "jobs" / "ft-1") == {"a": "1", "b": "1"}


def test_files_that_stay_and_files_that_are_yet_to_come(here: ObjectStore, there: ObjectStore, tmp_path: Path) -> None:
    write(tmp_path / "here" / "files" / "f", {"content.h5": "large", "store/x": "x"})
    here.push("files/f", without=("content.h5",), extra={"outcome.json": b"{}"})
    assert there.pull("files/f")
    assert read(tmp_path / "there" / "files" / "f") == {"store/x": "x", "outcome.json": "{}"}


def test_synchronised_machines_have_the_same_folders(here: ObjectStore, there: ObjectStore, tmp_path: Path) -> None:
    models, others = tmp_path / "here" / "models", tmp_path / "there" / "models"
    write(models, {"one/config": "1", "half/part": "", ".gone/config": ""})
    write(others, {"two/config": "2"})

    def synchronise() -> None:
        for machine in (here, there, here):
            machine.synchronise("models", lambda folder: (folder / "config").is_file())

    synchronise()
    assert read(others) == {"one/config": "1", "two/config": "2"}
    assert read(models) == {**read(others), "half/part": "", ".gone/config": ""}
    there.remove("models/one")
    synchronise()
    assert not (models / "one").exists()
    assert set(read(others)) == {"two/config"}


def test_names_and_contents_that_cannot_be_trusted(here: ObjectStore, there: ObjectStore, tmp_path: Path) -> None:
    write(tmp_path / "here" / "models" / "m", {"a": "1"})
    write(tmp_path / "secret", {"a": "1"})
    assert not here.pull("models/../secret")
    assert not here.pull("../secret")
    here.push("models/m")
    here._store.pipe_file(f"{here._root}/models/m/{hashlib.sha256(b'1').hexdigest()}", b"2")
    with pytest.raises(UserError, match="not what was stored"):
        there.pull("models/m")
    here._store.pipe_file(f"{here._root}/models/m/{MANIFEST}", b'{"../../x": "0"}')
    with pytest.raises(UserError, match="outside of its folder"):
        there.pull("models/m")
    assert not list((tmp_path / "there" / "models").iterdir())


def test_one_disk_has_nothing_to_do(tmp_path: Path) -> None:
    shared = shared_folders(Settings(data_dir=tmp_path))
    assert isinstance(shared, OneDisk)
    write(tmp_path / "models" / "m", {"a": "1"})
    shared.push("models/m")
    assert shared.pull("models/m")
    assert not shared.pull("models/n")
    shared.synchronise("models", lambda folder: False)
    shared.remove("models/m")
    assert read(tmp_path) == {"models/m/a": "1"}
    assert not (tmp_path / KNOWN).exists()


def test_an_address_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        shared_folders(Settings(data_dir=tmp_path, object_store="nowhere://bucket"))
    assert refused.value.code == "invalid_object_store"
