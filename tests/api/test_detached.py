"""Asynchronous rollouts over HTTP: the same numbers as at once, kept, found again, whoever dies meanwhile."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
import xarray as xr

from tests.api.conftest import RunningService, running_service, wait_until
from tests.api.sse import events
from ups_server.client import Client
from ups_server.errors import UserError
from ups_server.settings import Settings
from ups_server.tensors import NPZ, SAFETENSORS, from_npz, from_safetensors

PATH = "/v1/rollouts"
FINAL = {"succeeded", "failed", "cancelled"}
BURGERS = {
    "model": "numerical",
    "family": "burgers",
    "coefficients": {"nu": 0.02},
    "grid": {"n": [32]},
    "initial_condition": {"sample": {"seed": 3}},
    "n_steps": 6,
    "save_every": 2,
    "deterministic": True,
}
ENDLESS = {"family": "advection", "grid": {"n": [8]}, "initial_condition": {"sample": {}}, "n_steps": 90_000}
"""Persistence, with more frames than any test waits for."""
LARGE = {"family": "advection", "grid": {"n": [4096]}, "initial_condition": {"sample": {}}, "n_steps": 9_000}
"""More values than an answer that is waited for may have."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    data_dir: Path = tmp_path_factory.mktemp("kept")
    settings = Settings(
        default_model="persistence", data_dir=data_dir, device="cpu", threads=1, worker=False, job_poll_s=0.02
    )
    with running_service(settings) as running:
        yield running


def submit(kept: RunningService, document: object, **headers: str) -> dict[str, Any]:
    answer = kept.post(document, Prefer="respond-async, wait=5", **headers)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"{PATH}/{answer.json()['id']}"
    return dict(answer.json())


def state(kept: RunningService, job_id: str) -> str:
    return str(kept.get(f"{PATH}/{job_id}").json()["state"])


def finished(kept: RunningService, job_id: str) -> dict[str, Any]:
    wait_until(lambda: state(kept, job_id) in FINAL, "the rollout has ended")
    return dict(kept.get(f"{PATH}/{job_id}").json())


def test_a_reference_is_kept_with_the_result(kept: RunningService) -> None:
    document = {**BURGERS, "model": "persistence", "diagnostics": True, "reference": True}
    job = finished(kept, submit(kept, document)["id"])
    assert job["state"] == "succeeded"
    _, texts = from_safetensors(kept.send("GET", f"{PATH}/{job['id']}/result", Accept=SAFETENSORS).content)
    header, waited = json.loads(texts["header"]), kept.post(document).json()
    assert header["diagnostics"] == waited["diagnostics"]
    for name in ("error", "error_per_field", "nrmse_per_field", "points", "settled", "accuracy"):
        assert header["reference"][name] == waited["reference"][name], name
    assert header["reference"]["seconds"].keys() == waited["reference"]["seconds"].keys()
    with Client(kept.url) as client:
        assert json.loads(client.result(job["id"]).attrs["reference"])["settled"] is True


def frames_on_disk(kept: RunningService, job_id: str) -> int:
    answer = kept.get(f"{PATH}/{job_id}/events").json()["events"]
    return max((event["data"]["done"] for event in answer if event["type"] == "progress"), default=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"initial_condition": {"sample": {"seed": 3, "count": 3}}},
        {"ensemble": {"members": 4, "quantiles": [0.5]}},
        {"ensemble": {"members": 4, "quantiles": [0.5]}, "diagnostics": True},
        {"initial_condition": {"sample": {"seed": 3, "count": 2}}, "diagnostics": True},
    ],
)
def test_the_result_is_the_answer_of_a_request_that_waits(kept: RunningService, changes: dict[str, Any]) -> None:
    document = {**BURGERS, **changes}
    job = finished(kept, submit(kept, document)["id"])
    assert (job["state"], job["result"]["frames"], job["result"]["n_frames"]) == ("succeeded", 4, 4)
    result = f"{PATH}/{job['id']}/result"
    for media_type, read in ((SAFETENSORS, from_safetensors), (NPZ, lambda body: from_npz(body, 2**20))):
        got, expected = (
            read(body)
            for body in (
                kept.send("GET", result, Accept=media_type).content,
                kept.post(document, Accept=media_type).content,
            )
        )
        assert got[1] == expected[1]
        assert got[0].keys() == expected[0].keys()
        for name, values in expected[0].items():
            np.testing.assert_array_equal(got[0][name], values)
    with (
        h5py.File(BytesIO(kept.send("GET", result, Accept="application/x-hdf5").content)) as got_file,
        h5py.File(BytesIO(kept.post(document, Accept="application/x-hdf5").content)) as expected_file,
    ):
        assert dict(got_file.attrs) == dict(expected_file.attrs)
        np.testing.assert_array_equal(got_file["tensor"][:], expected_file["tensor"][:])
    with (
        xr.open_dataset(BytesIO(kept.send("GET", result, Accept="application/x-netcdf").content)) as got_set,
        xr.open_dataset(BytesIO(kept.post(document, Accept="application/x-netcdf").content)) as expected_set,
    ):
        xr.testing.assert_identical(got_set.load(), expected_set.load())
        with Client(kept.url) as client:
            lazy = client.result(job["id"])
            if "ensemble" in changes:
                assert lazy["statistic"].values.tolist() == ["control", "mean", "spread", "quantile 0.5"]
                lazy = lazy.rename(statistic="trajectory").drop_vars("trajectory")
            xr.testing.assert_equal(lazy.load(), got_set)


def test_zarr_is_read_over_plain_http(kept: RunningService) -> None:
    pytest.importorskip("aiohttp")
    job = finished(kept, submit(kept, BURGERS)["id"])
    stored = xr.open_zarr(f"{kept.url}{PATH}/{job['id']}/result", decode_times=False)
    try:
        assert stored["u"].encoding["chunks"] == (1, 32)
        answer = from_safetensors(kept.post(BURGERS, Accept=SAFETENSORS).content)[0]
        np.testing.assert_array_equal(stored["u"].isel(time=2).values, answer["data"][2, :, 0])
        np.testing.assert_array_equal(stored["time"].values, answer["times"])
    finally:
        stored.close()


def test_ranges(kept: RunningService) -> None:
    job = finished(kept, submit(kept, BURGERS)["id"])
    result = f"{PATH}/{job['id']}/result"
    whole = kept.get(result).content
    part = kept.send("GET", result, Range="bytes=10-19")
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    chunk = kept.send("GET", f"{result}/u/c.1.0", Range="bytes=-8")
    assert (chunk.status_code, len(chunk.content)) == (206, 8)
    assert kept.send("GET", result, Range=f"bytes={len(whole)}-").status_code == 416


def test_only_the_store_can_be_named(kept: RunningService) -> None:
    job = finished(kept, submit(kept, BURGERS)["id"])
    for key in ("../header.json", "u/../../header.json", "u/c.9.0", "header.json", "u", "%2e%2e/request.safetensors"):
        assert kept.get(f"{PATH}/{job['id']}/result/{key}").status_code == 404, key
    for accept in ("application/json", "text/event-stream", "image/png"):
        assert kept.send("GET", f"{PATH}/{job['id']}/result", Accept=accept).status_code == 406


def test_events_are_replayed(kept: RunningService) -> None:
    job_id = finished(kept, submit(kept, BURGERS)["id"])["id"]
    headers = {"Accept": "text/event-stream"}
    with httpx.stream("GET", f"{kept.url}{PATH}/{job_id}/events", headers=headers, timeout=60) as response:
        told = list(events(response.iter_lines()))
    assert [data["seq"] for _, data in told] == list(range(1, len(told) + 1))
    assert told[-1][1]["state"] == "succeeded"
    assert [(data["done"], data["total"]) for name, data in told if name == "progress"][-1] == (4, 4)
    with Client(kept.url) as client:
        assert list(client.follow(job_id, after=2)) == told[2:]


def test_one_rollout_a_key(kept: RunningService) -> None:
    def once(document: object) -> httpx.Response:
        return kept.post(document, Prefer="respond-async", Idempotency_Key="once")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: once(BURGERS), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    (job_id,) = {answer.json()["id"] for answer in answers}
    other = once({**BURGERS, "initial_condition": {"values": [0.5] * 32}})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    finished(kept, job_id)
    assert once(BURGERS).json()["id"] == job_id


def test_what_cannot_be_answered_is_refused_at_once(kept: RunningService) -> None:
    for document, code in (
        ({**BURGERS, "model": "absent"}, "unknown_model"),
        ({**BURGERS, "n_steps": 10**6}, "too_many_steps"),
        ({**BURGERS, "steps": 1}, "invalid_request"),
        ({**BURGERS, "diagnostics": True, "output_resolution": [64], "method": "interpolation"}, "not_kept"),
        ({**LARGE, "diagnostics": True}, "too_many_points"),
    ):
        assert kept.post(document, Prefer="respond-async").json()["code"] == code
    assert kept.get(f"{PATH}/ro-0").json()["code"] == "unknown_job"
    assert kept.get(f"{PATH}/ro-0/result").json()["code"] == "unknown_job"


def test_cancelled_resumed_deleted(kept: RunningService) -> None:
    job_id = submit(kept, ENDLESS)["id"]
    wait_until(lambda: frames_on_disk(kept, job_id) > 1, "frames are kept")
    early = kept.get(f"{PATH}/{job_id}/result")
    assert (early.status_code, early.json()["code"]) == (409, "result_not_ready")
    assert kept.send("DELETE", f"{PATH}/{job_id}").json()["code"] == "job_open"
    with Client(kept.url) as client:
        running = client.result(job_id)
        assert running.sizes["time"] == 90_001
        assert np.isfinite(running["u"].isel(time=1).values).all()
        assert np.isnan(running["u"].isel(time=-1).values).all()
        client.cancel(job_id)
        assert finished(kept, job_id)["state"] == "cancelled"
        reached = client.result(job_id).sizes["time"]
        assert 1 < reached < 90_001
        assert np.isfinite(client.result(job_id)["u"].isel(time=reached - 1).values).all()
        client.resume(job_id)
        wait_until(lambda: frames_on_disk(kept, job_id) > reached, "it has gone on")
        client.cancel(job_id)
        assert finished(kept, job_id)["attempt"] == 2
        client.delete_rollout(job_id)
        with pytest.raises(UserError, match="no job"):
            client.result(job_id)


def test_the_client_comes_back(kept: RunningService, tmp_path: Path) -> None:
    states = np.linspace(0, 1, 16, dtype=np.float32).reshape(2, 8)
    with Client(kept.url) as client:
        job = client.submit("advection", 3, states, "mine", grid={"n": [8]})
        assert client.submit("advection", 3, states, "mine", grid={"n": [8]})["id"] == job["id"]
    with Client(kept.url) as another:
        assert list(another.follow(job["id"]))[-1][1]["state"] == "succeeded"
        lazy = another.result(job["id"])
        np.testing.assert_array_equal(lazy["u"].isel(time=-1).values, states)
        another.download(job["id"], tmp_path / "result.nc")
        with xr.open_dataset(tmp_path / "result.nc") as file:
            np.testing.assert_array_equal(file["u"].isel(time=-1).values, states)


def test_a_killed_engine_costs_nothing(kept: RunningService) -> None:
    uneven = [step * 0.05 for step in range(1, 150) if step % 7] + [7.5]
    document = {name: value for name, value in BURGERS.items() if name not in ("n_steps", "save_every")}
    document["times"] = uneven
    job_id = submit(kept, document)["id"]
    wait_until(lambda: frames_on_disk(kept, job_id) > 1, "frames are kept")
    killed = kept.engine.health().process_id
    assert killed is not None
    assert state(kept, job_id) == "running"
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: kept.engine.health().process_id not in (None, killed), "the engine is back")
    job = finished(kept, job_id)
    assert (job["state"], job["result"]["frames"], job["attempt"]) == ("succeeded", 1 + len(uneven), 1), job["error"]
    whole = from_safetensors(kept.post(document, Accept=SAFETENSORS).content)[0]["data"]
    kept_bytes = from_safetensors(kept.get(f"{PATH}/{job_id}/result").content)[0]["data"]
    np.testing.assert_array_equal(kept_bytes.view(np.int32), whole.view(np.int32))
