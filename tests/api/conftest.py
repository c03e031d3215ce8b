"""A real service: uvicorn in a thread on a free port, the engine in its own process."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from ups_server.api.app import create_app
from ups_server.api.memory import Memory
from ups_server.api.server import base_url, configuration
from ups_server.engine.engine import Engine
from ups_server.jobs.local import LocalJobs
from ups_server.settings import Settings

DEADLINE_S = 180.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Polls until a condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"timed out waiting until {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class RunningService:
    url: str
    engine: Engine
    jobs: LocalJobs
    answers: Memory

    def post(self, document: object, **headers: str) -> httpx.Response:
        """A rollout request; header names with underscores."""
        return httpx.post(
            f"{self.url}/v1/rollouts",
            json=document,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            timeout=DEADLINE_S,
        )

    def send(self, method: str, path: str, document: object = None, **headers: str) -> httpx.Response:
        """Any request; header names with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.request(method, self.url + path, json=document, headers=named, timeout=DEADLINE_S)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=DEADLINE_S)


@contextmanager
def running_service(settings: Settings, engine: Engine | None = None) -> Iterator[RunningService]:
    """Serves until the block ends."""
    app = create_app(settings, engine)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(configuration(app, settings, most=4096, backlog=512, grace_s=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        service = RunningService(
            base_url(listening), app.state.service.engine, app.state.service.jobs, app.state.service.answers
        )
        wait_until(lambda: server.started, "the server accepts connections")
        wait_until(lambda: service.get("/readyz").status_code == 200, "the engine is ready")
        yield service
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for all tests that do not disturb it; its largest body is 1 MiB."""
    data_dir: Path = tmp_path_factory.mktemp("service")
    with running_service(
        Settings(
            default_model="persistence", data_dir=data_dir, device="cpu", threads=1, max_body_bytes=2**20, worker=False
        )
    ) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """For services of one test."""
    return Settings(default_model="persistence", data_dir=tmp_path, device="cpu", threads=1, worker=False)
