"""What the disk or the database refuses: said in time, with nothing left behind, and over when it is over."""

import errno
import resource
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import save

from tests.api.conftest import running_service, wait_until
from tests.serving import serving
from ups_server.api.problems import outer_fault, problem_document
from ups_server.data.atomic import replace_bytes
from ups_server.jobs.database import FILE, open_database
from ups_server.settings import Settings

ROLLOUT: dict[str, Any] = {
    "model": "persistence",
    "family": "advection",
    "grid": {"n": [16]},
    "initial_condition": {"sample": {"seed": 0}},
    "n_steps": 2,
}
MIB = 2**20


def test_a_locked_database_is_said_within_five_seconds(settings: Settings) -> None:
    with running_service(settings) as service, closing(sqlite3.connect(settings.data_dir / FILE)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        answer = service.post(ROLLOUT, prefer="respond-async")
        assert time.monotonic() - began < 5
        assert (answer.status_code, answer.json()["code"]) == (503, "database_busy")
        assert int(answer.headers["Retry-After"]) >= 1
        assert not list((settings.data_dir / "rollouts").iterdir()), "nothing of it is kept"
        ready = service.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "down")
        assert "database" in ready.json()["reason"]
        assert service.post(ROLLOUT).status_code == 200, "what writes nothing down is answered"
        other.execute("ROLLBACK")
        assert service.get("/readyz").status_code == 200
        assert service.post(ROLLOUT, prefer="respond-async").status_code == 202


def limit_files(pid: int, size: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.slow
def test_no_room_ends_what_needs_it_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on files of 2 MiB: requests and frames of 4 MiB do not fit, the database does."""
    with serving(tmp_path, DEFAULT_MODEL="persistence", WORKER="false") as service:
        limit_files(service.process.pid, 2 * MIB)
        state = np.zeros((8, 2**17, 1), np.float32)
        text = '{"family": "advection", "n_steps": 2}'
        headers = {"Content-Type": "application/vnd.safetensors", "Prefer": "respond-async"}
        body = save({"initial_condition": state}, {"request": text})
        answer = httpx.post(f"{service.url}/v1/rollouts", content=body, headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
        large = {**ROLLOUT, "grid": {"n": [2**17]}, "initial_condition": {"sample": {"count": 8}}}
        queued = httpx.post(f"{service.url}/v1/rollouts", json=large, headers={"Prefer": "respond-async"}, timeout=60)
        assert queued.status_code == 202
        address = f"{service.url}{queued.headers['Location']}"
        wait_until(lambda: httpx.get(address).json()["state"] == "failed", "it has ended")
        job = httpx.get(address).json()
        assert (job["error"]["code"], job["attempt"]) == ("storage_full", 1)
        assert not [path.name for path in tmp_path.rglob("*.part")]
        small = httpx.post(f"{service.url}/v1/rollouts", json=ROLLOUT, headers={"Prefer": "respond-async"}, timeout=60)
        done = f"{service.url}{small.headers['Location']}"
        wait_until(lambda: httpx.get(done).json()["state"] == "succeeded", "others are computed")


def test_a_write_that_fails_leaves_no_part(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            replace_bytes(tmp_path / "a", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_of_the_database_is_no_fault_of_ours(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    with database.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        with pytest.raises(sa.exc.OperationalError) as caught:
            connection.exec_driver_sql("CREATE TABLE filling AS SELECT zeroblob(10000000)")
    database.close()
    document = problem_document(outer_fault(caught.value))
    assert (document["code"], document["status"]) == ("storage_full", 507)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_by_any_name(number: int) -> None:
    assert problem_document(outer_fault(OSError(number, "no room")))["code"] == "storage_full"
    other = OSError(errno.EACCES, "not allowed")
    assert outer_fault(other) is other
