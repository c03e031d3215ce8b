"""The API is killed in the middle of uploads, of creations and of a job; nothing is lost, nothing is there twice."""

import hashlib
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest

from tests.api.conftest import DEADLINE_S, wait_until
from tests.small_models import write_parent
from ups_server.client import Client
from ups_server.data.simulate import build_store
from ups_server.files.storage import CONTENT, FileStorage
from ups_server.jobs.database import open_database
from ups_server.jobs.store import JobStore
from ups_server.pde import family

KILLS = 10
SERVE = """
import sys, uvicorn
from ups_server.api.app import create_app
from ups_server.settings import Settings
settings = Settings(
    device="cpu", threads=1, worker_threads=1, checkpoint_s=0, default_model="persistence", data_dir=sys.argv[1]
)
uvicorn.run(create_app(settings), port=int(sys.argv[2]), log_level="warning")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """12 MB of noise in a good layout."""
    path = tmp_path / "1D_Advection_Sols_beta0.4.hdf5"
    shape = (60, 50, 1024)
    with h5py.File(path, "w") as stored:
        stored["tensor"] = np.random.default_rng(0).random(shape, np.float32)
        stored["x-coordinate"] = (np.arange(1024) + 0.5) / 1024
        stored["t-coordinate"] = np.arange(50) * 0.01
        stored.attrs["beta"] = 0.4
    return path


class Service:
    """A service process that can be killed and comes back at the same address."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir = data_dir
        self.url = f"http://127.0.0.1:{port}"
        self._arguments = [sys.executable, "-c", SERVE, str(data_dir), str(port)]
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._arguments)

    def kill_and_restart(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = self._start()

    def alive(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=DEADLINE_S).status_code == 200
        except httpx.TransportError:
            return False

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def service(data_dir: Path, port: int) -> Iterator[Service]:
    running = Service(data_dir, port)
    try:
        wait_until(running.alive, "the service answers")
        yield running
    finally:
        running.end()


@pytest.fixture
def port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_lost(file: Path, tmp_path: Path, port: int) -> None:
    """Kills at random bytes of the upload; the client goes on by itself, with one key, and there is one file."""
    size = file.stat().st_size
    where = sorted(random.Random(1).sample(range(size // 20, size - size // 20), KILLS))
    with service(tmp_path / "data", port) as running:
        due = list(where)

        def kill_when_due(done: int, total: int) -> None:
            if due and done >= due[0]:
                while due and done >= due[0]:
                    due.pop(0)
                running.kill_and_restart()
                wait_until(running.alive, "the service is back")

        with Client(running.url) as client:
            record = client.upload(file, progress=kill_when_due, wait=False)
        assert not due
        assert record["offset"] == size
        storage = FileStorage(tmp_path / "data" / "files", 2**40, 2**40)
        assert storage.ids() == [record["id"]]
        stored = storage.folder(record["id"]) / CONTENT
        if stored.exists():  # until it is accepted
            assert hashlib.sha256(stored.read_bytes()).hexdigest() == hashlib.sha256(file.read_bytes()).hexdigest()
        running.kill_and_restart()  # in the middle of the examination
        wait_until(running.alive, "the service is back")
        with Client(running.url) as client:
            ready = client.examined_file(record["id"])
            assert client.upload(file)["id"] == record["id"]
        assert ready["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        with storage.open_store(record["id"]) as store, h5py.File(file) as sent:
            np.testing.assert_array_equal(store.read(range(60))[..., 0], sent["tensor"][:])
        assert not list(storage.folder(record["id"]).glob(".work-*"))


def created(running: Service, path: str, document: dict[str, Any]) -> set[str]:
    """Ids that answers name: one key, several threads, while the service is killed."""
    made: set[str] = set()

    def create() -> None:
        for _ in range(5):
            try:
                answer = httpx.post(
                    f"{running.url}{path}", json=document, headers={"Idempotency-Key": "k"}, timeout=DEADLINE_S
                )
                made.add(answer.json()["id"])
            except httpx.TransportError:
                wait_until(running.alive, "the service is back")

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    running.kill_and_restart()
    for thread in threads:
        thread.join()
    return made


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_key_makes_one_file_however_often_it_is_sent(file: Path, tmp_path: Path, port: int) -> None:
    with service(tmp_path / "data", port) as running:
        made = created(running, "/v1/files", {"name": file.name, "size": file.stat().st_size})
    assert len(made) == 1
    assert FileStorage(tmp_path / "data" / "files", 2**40, 2**40).ids() == sorted(made)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_key_makes_one_job_which_outlives_the_service(language_model: Path, tmp_path: Path, port: int) -> None:
    """The job is made once however often it is asked for; killed with its service, it goes on to its end."""
    data_dir = tmp_path / "data"
    write_parent(data_dir / "models" / "tiny", language_model)
    stored = data_dir / "files" / "burgers" / "store"
    build_store(family("burgers"), {"nu": 0.1}, 7, 32, 0, stored, frame_dt=0.05, t_final=0.5)
    document = {"model": "tiny", "training_file": "burgers", "n_trajectories": 4, "max_steps": 200}
    with service(data_dir, port) as running:
        made = created(running, "/v1/fine-tuning/jobs", document)
        assert len(made) == 1
        (job_id,) = made
        with Client(running.url) as client:
            for name, data in client.follow(job_id):
                if name == "checkpoint" and data["step"] >= 5:
                    break
            running.kill_and_restart()
            wait_until(running.alive, "the service is back")
            told = [(data["seq"], name) for name, data in client.follow(job_id)]
            job = client.job(job_id)
    assert (job["state"], job["attempt"] >= 2) == ("succeeded", True), job["error"]
    assert [seq for seq, _ in told] == list(range(1, len(told) + 1))
    database = open_database(data_dir)
    assert [found.id for found in JobStore(database).page()] == [job_id]
    database.close()
