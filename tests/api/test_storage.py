"""What the service stores in: private, and said in one sentence before anything starts where it cannot be used."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ups_server.api.server import check_storage
from ups_server.errors import UserError
from ups_server.jobs.database import FILE, open_database
from ups_server.settings import Settings


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_reads_what_is_stored(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    database = open_database(folder)
    try:
        assert rights(folder) == 0o700
        assert {entry.name: rights(entry) for entry in folder.glob(f"{FILE}*")} == {
            FILE: 0o600,
            f"{FILE}-wal": 0o600,
            f"{FILE}-shm": 0o600,
        }
    finally:
        database.close()
    (folder / FILE).chmod(0o644)
    open_database(folder).close()
    assert rights(folder / FILE) == 0o600


def in_place_of_the_folder(folder: Path) -> None:
    folder.write_text("a file")


def in_place_of_a_part(folder: Path) -> None:
    folder.mkdir()
    (folder / "files").write_text("a file")


def in_place_of_the_database(folder: Path) -> None:
    (folder / FILE).mkdir(parents=True)


def no_database(folder: Path) -> None:
    folder.mkdir()
    (folder / FILE).write_bytes(b"no database at all " * 1000)


def damaged(folder: Path) -> None:
    """Whole at both ends, and overwritten in between."""
    open_database(folder).close()
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("CREATE TABLE numbers (value TEXT)")
        connection.executemany("INSERT INTO numbers VALUES (?)", [("x" * 1000,)] * 1000)
    connection.close()
    content = bytearray((folder / FILE).read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50_000] = b"\xff" * 50_000
    (folder / FILE).write_bytes(content)


def of_a_later_version(folder: Path) -> None:
    open_database(folder).close()
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("UPDATE schema_version SET version = 999")
    connection.close()


def of_another_program(folder: Path) -> None:
    folder.mkdir()
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("CREATE TABLE jobs (something TEXT)")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (in_place_of_the_folder, "data_folder_unusable"),
        (in_place_of_a_part, "data_folder_unusable"),
        (in_place_of_the_database, "database_unavailable"),
        (no_database, "database_damaged"),
        (damaged, "database_damaged"),
        (of_a_later_version, "database_too_new"),
        (of_another_program, "database_unavailable"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_starts(
    spoil: Callable[[Path], None], code: str, tmp_path: Path
) -> None:
    spoil(tmp_path / "data")
    with pytest.raises(UserError) as caught:
        check_storage(Settings(data_dir=tmp_path / "data"))
    assert caught.value.code == code


def test_a_folder_that_cannot_be_made() -> None:
    with pytest.raises(UserError) as caught:
        check_storage(Settings(data_dir=Path("/proc/self/ups")))
    assert caught.value.code == "data_folder_unusable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(0o500)
    with pytest.raises(UserError) as caught:
        check_storage(Settings(data_dir=folder))
    assert caught.value.code == "data_folder_unusable"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "99999"], ["UPS_PORT", "99999", "65535"]),
        (["--data-dir", "/proc/self/ups"], ["/proc/self/ups", "cannot be used"]),
    ],
)
def test_serve_says_it_in_one_sentence(words: list[str], said: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ups_server.cli", "serve", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert [word for word in said if word not in ended.stderr] == []
