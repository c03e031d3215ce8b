"""What is known of requests afterwards: ids, lines of the log, metrics; and what is not."""

import asyncio
import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from tests.api.conftest import RunningService, wait_until
from ups_server.access.keys import KeyStore
from ups_server.access.scopes import Scope
from ups_server.api.app import create_app
from ups_server.api.routes.jobs import job_events
from ups_server.jobs.database import open_database
from ups_server.jobs.spec import EvaluationSpec
from ups_server.jobs.store import JobStore
from ups_server.settings import Settings

LOCAL = ("127.0.0.1", 50000)
ROLLOUT = {
    "model": "numerical",
    "family": "burgers",
    "coefficients": {"nu": 0.1},
    "grid": {"n": [32]},
    "initial_condition": {"sample": {"seed": 0, "count": 2}},
    "n_steps": 3,
}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(data_dir=tmp_path, worker=False, default_model="persistence", device="cpu", threads=1)
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=LOCAL) as inside:
        yield inside


def requests_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "ups_server.requests"]


def test_every_answer_has_an_id(client: TestClient) -> None:
    ids = {client.get(path).headers["X-Request-ID"] for path in ("/healthz", "/v1/families", "/absent", "/")}
    assert len(ids) == 4
    assert client.get("/healthz", headers={"X-Request-ID": "proxy-1.2_3"}).headers["X-Request-ID"] == "proxy-1.2_3"
    for wrong in ("a b", "x" * 65, "<script>"):
        assert client.get("/healthz", headers={"X-Request-ID": wrong}).headers["X-Request-ID"] != wrong


def test_a_line_a_request_without_secrets(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = client.app
    store = KeyStore(app.state.service.jobs.database)  # type: ignore[attr-defined]
    made, key = store.create("logged", [Scope.RUN], 1)
    header = {"Authorization": f"Bearer {key}", "X-Request-ID": "here"}
    client.get("/v1/models/absent%0A?password=hunter2", headers=header)
    (line,) = requests_of(caplog)
    facts = vars(line)
    assert (facts["method"], facts["status"], facts["key"], facts["client"]) == ("GET", 422, made.id, LOCAL[0])
    assert facts["path"] == "/v1/models/absent%0A"
    for secret in (key, key.split("_", 2)[2], "hunter2"):
        ours = [record for record in caplog.records if not record.name.startswith("http")]  # not the client's own
        assert not [record for record in ours if secret in str(vars(record))]


def metrics_of(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics(service: RunningService) -> None:
    assert service.post(ROLLOUT).status_code == 200
    builtin = (("process", "builtin"),)

    def found() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        answer = service.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        return metrics_of(answer.text)

    wait_until(lambda: found().get(("ups_engine_steps_total", builtin), 0) >= 3, "the engine has told of its steps")
    metrics = found()
    steps, rows, seconds = (metrics[f"ups_engine_{name}_total", builtin] for name in ("steps", "rows", "step_seconds"))
    assert steps <= rows
    assert seconds > 0
    assert metrics["ups_engine_ready", ()] == 1
    assert metrics["ups_engine_queued_rollouts", ()] == 0
    assert metrics["ups_process_resident_bytes", (("process", "api"),)] > 2**20
    assert metrics["ups_process_resident_bytes", (("process", "engine-builtin"),)] > 2**20
    route = (("method", "POST"), ("route", "/v1/rollouts"), ("status", "200"))
    assert metrics["ups_http_requests_total", route] >= 1
    assert metrics["ups_files_quota_bytes", ()] == Settings().files_quota_bytes


def test_labels_are_bounded_whatever_is_asked(client: TestClient) -> None:
    for number in range(5):
        client.get(f"/absent/{number}")
        client.get(f"/v1/models/{number}")
        client.request(f"STRANGE{number}", "/v1/models")
    routes = {
        dict(labels)["route"]
        for name, labels in metrics_of(client.get("/metrics").text)
        if name == "ups_http_requests_total"
    }
    assert routes <= {"none", "/v1/models/{model_id}", "/v1/models", "/metrics"}


def test_jobs_are_counted(client: TestClient) -> None:
    store: JobStore = client.app.state.service.jobs.store  # type: ignore[attr-defined]
    store.create(EvaluationSpec(model="persistence", file="burgers"))
    metrics = metrics_of(client.get("/metrics").text)
    assert metrics["ups_jobs", (("kind", "evaluation"), ("state", "queued"))] == 1
    assert metrics["ups_jobs", (("kind", "evaluation"), ("state", "failed"))] == 0


def test_a_stream_of_a_job_ends_with_the_service(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    store = JobStore(database)
    job, _ = store.create(EvaluationSpec(model="persistence", file="burgers"))

    async def all_events() -> list[bytes]:
        return [event async for event in job_events(store, job.id, 0, 0.01, lambda: True)]

    assert len(asyncio.run(all_events())) == 1
    database.close()


SERVE = """
import sys
from ups_server.api.server import serve
from ups_server.settings import Settings
serve(Settings(port=0, device="cpu", threads=1, default_model="persistence", worker=False, log_format="json",
               shutdown_grace_s=250, data_dir=sys.argv[1]), print)
"""


def test_open_requests_finish_when_the_service_ends(repository: Path, tmp_path: Path) -> None:
    """From the signal on nobody new comes in, and who is inside gets all of the answer."""
    log = tmp_path / "log.txt"
    words = [sys.executable, "-u", "-c", SERVE, str(tmp_path / "data")]
    with (
        log.open("w") as errors,
        subprocess.Popen(words, cwd=repository, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            wait_until(lambda: ready(url), "the service is ready")
            document = {**ROLLOUT, "n_steps": 100, "grid": {"n": [64]}}
            headers = {"Accept": "text/event-stream"}
            with httpx.stream("POST", f"{url}/v1/rollouts", json=document, headers=headers, timeout=120) as answer:
                lines = answer.iter_lines()
                assert next(lines) == "event: start"
                process.send_signal(signal.SIGTERM)
                assert re.findall(r"event: (end|problem)", "\n".join(lines)) == ["end"]
            assert process.wait(120) in (0, -signal.SIGTERM)
        finally:
            process.kill()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz")
    told = [json.loads(line) for line in log.read_text().splitlines()]
    (asked,) = [line for line in told if line["logger"] == "ups_server.requests" and line["path"] == "/v1/rollouts"]
    assert (asked["status"], asked["process"]) == (200, "api")


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
