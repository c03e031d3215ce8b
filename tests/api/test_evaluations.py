"""Evaluations over HTTP: the same scores as `ups evaluate`, events with replay, keys, cancel, a killed worker."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import RunningService, running_service, wait_until
from tests.api.sse import events
from ups_server.client import Client
from ups_server.data.simulate import build_store
from ups_server.errors import UserError
from ups_server.evaluation.evaluate import evaluate
from ups_server.jobs.spec import EvaluationSpec
from ups_server.pde import family
from ups_server.settings import Settings

PATH = "/v1/evaluations"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with one stored file, `burgers`."""
    data_dir: Path = tmp_path_factory.mktemp("jobs")
    build_store(family("burgers"), {"nu": 0.1}, 3, 32, 0, data_dir / "files" / "burgers" / "store", frame_dt=0.05)
    settings = Settings(
        default_model="persistence", data_dir=data_dir, device="cpu", threads=1, worker_threads=1, job_poll_s=0.02
    )
    with running_service(settings) as running:
        yield running


def create(jobs: RunningService, **document: Any) -> httpx.Response:
    headers = {"Idempotency_Key": key} if (key := document.pop("key", None)) else {}
    return jobs.send("POST", PATH, {"file": "burgers", **document}, **headers)


def finished(jobs: RunningService, job_id: str) -> dict[str, Any]:
    final = {"succeeded", "failed", "cancelled"}
    wait_until(lambda: jobs.get(f"{PATH}/{job_id}").json()["state"] in final, "the job has ended")
    return dict(jobs.get(f"{PATH}/{job_id}").json())


def stream(jobs: RunningService, job_id: str, **headers: str) -> list[tuple[str, dict[str, Any]]]:
    headers = {"Accept": "text/event-stream", **{name.replace("_", "-"): value for name, value in headers.items()}}
    with httpx.stream("GET", f"{jobs.url}{PATH}/{job_id}/events", headers=headers, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response.iter_lines()))


def test_an_evaluation_gives_the_scores_of_the_command(jobs: RunningService, tmp_path: Path) -> None:
    answer = create(jobs, model="numerical", trajectories=2)
    assert answer.status_code == 201
    job_id = answer.json()["id"]
    assert answer.headers["location"] == f"{PATH}/{job_id}"
    job = finished(jobs, job_id)
    assert job["state"] == "succeeded", job["error"]
    store = build_store(family("burgers"), {"nu": 0.1}, 3, 32, 0, tmp_path / "burgers", frame_dt=0.05)
    (expected,) = evaluate("numerical", [store.path], trajectories=2)
    assert job["result"] == json.loads(json.dumps(expected.as_dict()))
    assert job_id in [entry["id"] for entry in jobs.get(PATH).json()["jobs"]]


def test_events_are_streamed_and_replayed(jobs: RunningService) -> None:
    job_id = create(jobs).json()["id"]
    live = stream(jobs, job_id)
    assert [data["state"] for name, data in live if name == "state"] == [
        "queued", "validating", "running", "succeeded",
    ]  # fmt: skip
    assert [data["seq"] for _, data in live] == list(range(1, len(live) + 1))
    assert stream(jobs, job_id) == live
    assert stream(jobs, job_id, Last_Event_ID="3") == live[3:]
    page = jobs.get(f"{PATH}/{job_id}/events?after=3").json()
    assert [event["seq"] for event in page["events"]] == [data["seq"] for _, data in live[3:]]
    assert page["complete"]
    broken = jobs.send("GET", f"{PATH}/{job_id}/events", Last_Event_ID="x")
    assert (broken.status_code, broken.json()["code"]) == (422, "invalid_request")


def test_one_job_a_key(jobs: RunningService) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: create(jobs, key="once"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = create(jobs, key="once", trajectories=1)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [
        ({"file": "absent"}, 404, "unknown_file"),
        ({"file": "../burgers"}, 422, "invalid_request"),
        ({"model": "absent"}, 404, "unknown_model"),
        ({"model": "numerical", "dt": 0}, 422, "invalid_request"),
        ({"dt": 0.07}, 422, "dt_mismatch"),
        ({"resolution": 24}, 422, "resolution_mismatch"),
        ({"steps": 3}, 422, "invalid_request"),
    ],
)
def test_refused(jobs: RunningService, document: dict[str, Any], status: int, code: str) -> None:
    answer = create(jobs, **document)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_what_the_file_cannot_give_fails_a_job_that_is_queued_all_the_same(jobs: RunningService) -> None:
    """As by a version that did not check."""
    queued, _ = jobs.jobs.store.create(EvaluationSpec(model="persistence", file="burgers", dt=0.07))
    job = finished(jobs, queued.id)
    assert (job["state"], job["error"]["code"]) == ("failed", "dt_mismatch")
    again = jobs.send("POST", f"{PATH}/{job['id']}/resume").json()
    assert again["state"] == "queued"
    assert finished(jobs, job["id"])["attempt"] == 2
    for action in ("cancel", "nothing"):
        assert jobs.send("POST", f"{PATH}/{job['id']}/{action}").status_code in (404, 409)


def test_unknown_jobs(jobs: RunningService) -> None:
    for path in (f"{PATH}/eval-0", f"{PATH}/eval-0/events", f"{PATH}?before=eval-0"):
        assert (jobs.get(path).status_code, jobs.get(path).json()["code"]) == (404, "unknown_job")


def test_a_killed_worker_does_not_stop_the_service(jobs: RunningService) -> None:
    worker = jobs.jobs.worker
    assert worker is not None
    killed = worker.process_id
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    job = create(jobs).json()
    assert jobs.get("/healthz").status_code == 200
    assert finished(jobs, job["id"])["state"] == "succeeded"
    assert worker.process_id != killed


def test_the_client_orders_and_follows(jobs: RunningService) -> None:
    with Client(jobs.url) as client:
        job = client.evaluate("burgers", "client-key", trajectories=1)
        assert client.evaluate("burgers", "client-key", trajectories=1)["id"] == job["id"]
        told = list(client.follow(job["id"]))
        assert told[-1][1]["state"] == "succeeded"
        assert list(client.follow(job["id"], after=told[-2][1]["seq"])) == told[-1:]
        assert client.job(job["id"])["result"]["trajectories"] == 1
        with pytest.raises(UserError, match="cannot be resumed"):
            client.resume(job["id"])
        with pytest.raises(UserError, match="has ended"):
            client.cancel(job["id"])
        with pytest.raises(UserError, match="no job"):
            client.job("x-1")
