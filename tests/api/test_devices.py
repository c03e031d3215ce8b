"""A service with an engine on each of two cores: what it says of them, and what the death of one takes with it."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import DEADLINE_S, RunningService, running_service, wait_until
from tests.api.sse import events
from tests.api.test_request_log import metrics_of
from ups_server.client import Client
from ups_server.settings import Settings
from ups_server.tensors import SAFETENSORS, from_safetensors

CORES = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else []
pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="two cores to keep engines on")

NAMES = [f"cpu:{core}" for core in CORES]
LONG: dict[str, Any] = {
    "model": "numerical",
    "family": "burgers",
    "coefficients": {"nu": 0.02},
    "grid": {"n": [64]},
    "initial_condition": {"sample": {"seed": 3}},
    "deterministic": True,
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("devices")
    with running_service(
        Settings(default_model="persistence", data_dir=folder, devices=tuple(NAMES), worker=False)
    ) as started:
        yield started


@pytest.fixture
def service(running: RunningService) -> RunningService:
    """With both engines ready, whatever another test did to them."""
    wait_until(lambda: all(device.state == "ready" for device in running.engine.health().devices), "both are ready")
    return running


def busy(service: RunningService) -> str:
    """The one device that computes."""
    (name,) = (device.device for device in service.engine.health().devices if device.active)
    assert name is not None
    return name


def kill(service: RunningService, device: str) -> None:
    """Kills the process of the built-in solvers at a device."""
    os.kill(service.engine.health().detail[f"{device}/builtin"]["process_id"], signal.SIGKILL)


def test_every_device_is_told_of(service: RunningService) -> None:
    ready = service.get("/readyz").json()
    assert (ready["status"], ready["device"], ready["reason"]) == ("ready", ", ".join(NAMES), None)
    assert [(one["device"], one["status"], one["active"]) for one in ready["devices"]] == [
        (name, "ready", 0) for name in NAMES
    ]
    assert service.get("/v2/health/ready").status_code == 200
    told = metrics_of(service.get("/metrics").text)
    for name in NAMES:
        of_it = (("device", name),)
        assert told["ups_device_ready", of_it] == 1
        assert told["ups_device_seconds_left", of_it] == 0
        assert ("ups_device_restarts_total", of_it) in told
        assert told["ups_process_resident_bytes", (("process", f"engine-{name}/builtin"),)] > 2**20


def test_a_death_ends_the_requests_of_one_device_with_503(service: RunningService) -> None:
    document = {**LONG, "n_steps": 3000, "save_every": 1500}
    with ThreadPoolExecutor() as clients:
        first = clients.submit(service.post, document, Accept=SAFETENSORS)
        wait_until(lambda: service.engine.health().active == 1, "the first is computed")
        victim = busy(service)
        second = clients.submit(service.post, document, Accept=SAFETENSORS)
        wait_until(lambda: service.engine.health().active == 2, "so is the second")
        other = NAMES[1 - NAMES.index(victim)]
        before = service.engine.health().detail[f"{other}/builtin"]["process_id"]
        kill(service, victim)
    refused = first.result()
    assert (refused.status_code, refused.json()["code"]) == (503, "engine_unavailable")
    assert "retry-after" in refused.headers
    assert second.result().status_code == 200
    assert service.engine.health().detail[f"{other}/builtin"]["process_id"] == before


def test_a_stream_at_a_device_that_dies_ends_with_a_problem(service: RunningService) -> None:
    headers = {"Accept": "text/event-stream"}
    document = {**LONG, "n_steps": 5000}
    with httpx.stream("POST", f"{service.url}/v1/rollouts", json=document, headers=headers, timeout=DEADLINE_S) as got:
        told = events(got.iter_lines())
        for name, _ in told:
            if name == "step":
                kill(service, busy(service))
                break
        last = list(told)[-1]
    assert (last[0], last[1]["code"]) == ("problem", "engine_unavailable")


def test_what_is_kept_goes_on_at_the_other_device_to_the_same_bits(service: RunningService) -> None:
    options = {name: LONG[name] for name in ("model", "coefficients", "grid", "deterministic")}
    with Client(service.url) as client:

        def submitted() -> str:
            return str(client.submit("burgers", 200, {"sample": {"seed": 3}}, **options)["id"])

        killed = submitted()
        victims: list[str] = []
        for name, data in client.follow(killed):
            if name == "progress" and not victims and 1 < data["done"] < 150:
                victims.append(busy(service))
                kill(service, victims[0])
        assert victims, "it was killed in the middle"
        assert client.job(killed)["state"] == "succeeded"
        assert client.job(killed)["attempt"] == 1
        other = NAMES[1 - NAMES.index(victims[0])]
        done = f"{other}/builtin"
        wait_until(lambda: service.engine.health().detail[done]["steps"] > 40, "it went on at the other device")
        undisturbed = submitted()
        list(client.follow(undisturbed))
    first, second = (
        from_safetensors(service.get(f"/v1/rollouts/{job}/result").content)[0]["data"].view(np.int32)
        for job in (killed, undisturbed)
    )
    assert len(first) == 201
    np.testing.assert_array_equal(first, second)
