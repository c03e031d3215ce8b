"""SIGTERM to a service at work: what is open ends in good order, in a process of its own and with real clients."""

import json
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import DEADLINE_S, wait_until
from tests.api.sse import events
from tests.api.test_request_log import metrics_of
from tests.serving import Serving, started
from ups_server.jobs.database import open_database
from ups_server.jobs.spec import JobState
from ups_server.jobs.store import JobStore

LONG: dict[str, Any] = {
    "model": "numerical",
    "family": "burgers",
    "grid": {"n": [64]},
    "initial_condition": {"sample": {"seed": 1}},
    "n_steps": 10_000,
}
"""Minutes of steps that nothing else bounds."""
AT_ONCE = {"DEFAULT_MODEL": "persistence", "WORKER": "false", "DEVICE": "cpu", "THREADS": "1", "SHUTDOWN_GRACE_S": "0"}


def ends(served: Serving, log: Path) -> None:
    """The process has ended by itself, without a traceback."""
    assert served.process.wait(DEADLINE_S) in (0, -signal.SIGTERM)
    assert "Traceback" not in log.read_text(), log.read_text()


def active(served: Serving) -> int:
    """Rollouts that the engine computes."""
    return int(httpx.get(f"{served.url}/readyz", timeout=DEADLINE_S).json()["active"])


def test_a_stream_ends_with_a_problem(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(tmp_path / "data", AT_ONCE, log=log) as served:
        headers = {"Accept": "text/event-stream"}
        with httpx.stream("POST", f"{served.url}/v1/rollouts", json=LONG, headers=headers, timeout=DEADLINE_S) as got:
            told = events(got.iter_lines())
            assert [next(told)[0] for _ in range(3)] == ["start", "step", "step"]
            served.process.send_signal(signal.SIGTERM)
            *_, (name, problem) = told  # to the last chunk: a stream that breaks off raises
        assert name == "problem"
        assert (problem["code"], problem["status"]) == ("engine_unavailable", 503)
        assert "shutting down" in problem["detail"]
        ends(served, log)


def test_whole_answers_are_refused_and_what_is_kept_goes_back_into_the_queue(tmp_path: Path) -> None:
    log, data = tmp_path / "log", tmp_path / "data"
    with started(data, AT_ONCE, log=log) as served, ThreadPoolExecutor() as clients:

        def ask(**headers: str) -> httpx.Response:
            return httpx.post(f"{served.url}/v1/rollouts", json=LONG, headers=headers, timeout=DEADLINE_S)

        kept = ask(Prefer="respond-async").json()["id"]
        waiting = clients.submit(ask, Accept="application/x-npz")
        wait_until(lambda: active(served) == 2, "both are computed")
        served.process.send_signal(signal.SIGTERM)
        refused = waiting.result()
        assert (refused.status_code, refused.json()["code"]) == (503, "engine_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        ends(served, log)
    database = open_database(data)
    assert JobStore(database).get(kept).state is JobState.QUEUED
    database.close()


def held_up(served: Serving) -> Callable[[], bool]:
    """Has the engine made no step for a second, and some before?"""
    seen, since = 0.0, time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        told = metrics_of(httpx.get(f"{served.url}/metrics", timeout=DEADLINE_S).text)
        steps = sum(value for (name, _), value in told.items() if name == "ups_engine_steps_total")
        if steps != seen:
            seen, since = steps, time.monotonic()
        return seen > 0 and time.monotonic() - since > 1.0

    return still


@pytest.mark.slow
def test_a_client_that_reads_nothing_holds_up_no_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(tmp_path / "data", AT_ONCE, log=log) as served:
        host, port = served.url.removeprefix("http://").split(":")
        body = json.dumps({**LONG, "model": "persistence", "grid": {"n": [2**14]}, "n_steps": 1000}).encode()
        head = (
            "POST /v1/rollouts HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with closing(socket.create_connection((host, int(port)))) as client:
            client.sendall(head.encode() + body)
            assert client.recv(12) == b"HTTP/1.1 200"
            wait_until(held_up(served), "nothing more fits between the engine and the client")
            served.process.send_signal(signal.SIGTERM)
            ends(served, log)
    assert "was cut off by the end of the service" in log.read_text()
