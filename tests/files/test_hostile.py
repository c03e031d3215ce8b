"""Every hostile file is refused with a sentence of its own, in bounded memory and time, and reads nothing outside."""

import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.files.examined import examined
from tests.files.hostile import HOSTILE, SHAPE
from tests.pdebench_files import plain
from ups_server.files.records import ExaminationLimits

MEMORY = 600e6
SECONDS = 20.0
SECRET = 12345.678
SLOW = {"100,000 groups"}  # to make


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A good file outside the upload, whose values must not be read; its access time tells."""
    path = plain(tmp_path / "secret.h5", {"beta": 0.4}, tensor=np.full(SHAPE, SECRET, "f4"))
    os.utime(path, (0, path.stat().st_mtime))
    yield path
    assert path.stat().st_atime == 0


KINDS = [pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in HOSTILE]


@pytest.mark.parametrize("kind", KINDS)
def test_refused(kind: str, tmp_path: Path, secret: Path) -> None:
    hostile = HOSTILE[kind]
    path = tmp_path / "file.h5"
    hostile.make(path, secret)
    os.utime(secret, (0, secret.stat().st_mtime))  # its making may have read it
    found = examined(path, tmp_path)
    assert found.result.report is None
    problem = found.result.problem
    assert problem is not None
    assert (problem.code, hostile.words in problem.detail) == (hostile.code, True), problem
    assert found.usage.memory_bytes <= MEMORY
    assert found.usage.wall_s <= SECONDS
    assert not (found.output / "store").exists()


def test_the_secret_would_tell(tmp_path: Path) -> None:
    path = plain(tmp_path / "secret.h5", {"beta": 0.4})
    os.utime(path, (0, path.stat().st_mtime))
    path.read_bytes()
    if path.stat().st_atime == 0:
        pytest.skip("this file system keeps no access times")


def test_every_sentence_is_its_own() -> None:
    # Two files of one fault have one sentence.
    same = {"objects", "never allocated", "attribute of bytes", "LZF that grows"}
    words = [hostile.words for kind, hostile in HOSTILE.items() if kind not in same]
    assert len(set(words)) == len(words)


def test_the_same_file_without_a_fault_is_accepted(tmp_path: Path) -> None:
    path = plain(tmp_path / "file.h5", {"beta": 0.4})
    found = examined(path, tmp_path, family="advection")
    assert found.result.problem is None
    assert found.result.report is not None
    assert found.result.report.rows == SHAPE[0]


def test_memory_is_limited_whatever_a_file_does(tmp_path: Path) -> None:
    """A frame as large as the budget, incompressible: nothing declares it hostile, the limit holds all the same."""
    path = tmp_path / "file.h5"
    points = 2**22
    plain(
        path,
        {"beta": 0.4},
        tensor=None,
        x_coordinate=((np.arange(points) + 0.5) / points).astype("f8"),
        t_coordinate=np.arange(3) * 0.01,
    )
    with h5py.File(path, "a") as file:
        data = file.create_dataset("tensor", (2, 2, points), "f4", chunks=(1, 1, points))
        data[:] = np.random.default_rng(0).random((2, 2, points), np.float32)
    found = examined(path, tmp_path, ExaminationLimits(memory_bytes=40 * 2**20), family="advection")
    assert found.result.problem is not None
    assert found.result.problem.code in ("out_of_memory", "damaged_file", "unusable_file")
    assert found.usage.memory_bytes <= 250e6


def test_time_is_limited_whatever_a_file_does(tmp_path: Path) -> None:
    path = plain(tmp_path / "file.h5", {"beta": 0.4})
    found = examined(path, tmp_path, timeout_s=0.05, family="advection")
    assert found.result.problem is not None
    assert (found.result.problem.code, found.result.problem.detail) == ("too_slow", "reading the file takes too long")


def test_cpu_time_is_limited(tmp_path: Path) -> None:
    path = plain(tmp_path / "file.h5", {"beta": 0.4})
    found = examined(path, tmp_path, ExaminationLimits(cpu_s=0), family="advection")
    assert found.result.problem is not None
    assert found.result.problem.code == "too_slow"
    assert "CPU" not in found.result.problem.detail


def test_what_a_store_may_take_is_limited(tmp_path: Path) -> None:
    path = plain(tmp_path / "file.h5", {"beta": 0.4})
    found = examined(path, tmp_path, ExaminationLimits(store_bytes=900), family="advection")
    assert found.result.problem is not None
    assert found.result.problem.code == "quota_exceeded"
    assert found.result.problem.got == "960 bytes"
