"""`kill -9` of the whole service, and ten thousand steps: nothing is lost, and memory stays."""

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.api.conftest import DEADLINE_S, wait_until
from tests.serving import Serving, serving
from ups_server.client import Client
from ups_server.tensors import SAFETENSORS, from_safetensors

PATH = "/v1/rollouts"
MOST_GROWTH = 50 * 2**20
SETTINGS = {"DEFAULT_MODEL": "persistence", "WORKER": "false", "JOB_LEASE_S": "3", "THREADS": "1"}


def done(service: Serving, job_id: str) -> int:
    """Frames on disk by the latest word."""
    told = httpx.get(f"{service.url}{PATH}/{job_id}/events", timeout=DEADLINE_S).json()["events"]
    return max((event["data"]["done"] for event in told if event["type"] == "progress"), default=0)


@pytest.mark.slow
def test_a_killed_service_goes_on_where_it_was(tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": "numerical", "coefficients": {"nu": 0.02}, "grid": {"n": [32]}}
    with serving(tmp_path, **SETTINGS) as first, Client(first.url) as client:
        job_id = client.submit("burgers", 150, {"sample": {"seed": 3}}, "kept", deterministic=True, **options)["id"]
        wait_until(lambda: done(first, job_id) > 1, "frames are kept")
        reached = done(first, job_id)
        family = psutil.Process(first.process.pid).children(recursive=True)
        os.kill(first.process.pid, signal.SIGKILL)
        psutil.wait_procs(family, timeout=60)
    with serving(tmp_path, **SETTINGS) as second, Client(second.url) as client:
        again = client.submit("burgers", 150, {"sample": {"seed": 3}}, "kept", deterministic=True, **options)
        assert again["id"] == job_id
        told = list(client.follow(job_id))
        assert told[-1][1]["state"] == "succeeded"
        assert {"state": "queued", "worker_lost": True}.items() <= next(
            data for name, data in told if name == "state" and data.get("worker_lost")
        ).items()
        frames = [data["done"] for name, data in told if name == "progress"]
        assert frames == sorted(frames), "it never went back"
        assert reached < 151
        document = {"family": "burgers", "n_steps": 150, "initial_condition": {"sample": {"seed": 3}}, **options}
        waited = httpx.post(
            f"{second.url}{PATH}",
            json={**document, "deterministic": True},
            headers={"Accept": SAFETENSORS},
            timeout=600,
        )
        kept = httpx.get(f"{second.url}{PATH}/{job_id}/result", timeout=600)
        first_bits, second_bits = (
            from_safetensors(answer.content)[0]["data"].view(np.int32) for answer in (kept, waited)
        )
        np.testing.assert_array_equal(first_bits, second_bits)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    """Ten thousand frames of 8 KiB, as one file at the end, 80 MB."""
    with serving(tmp_path, **SETTINGS) as service, Client(service.url) as client:
        options: dict[str, Any] = {"grid": {"n": [2048]}}
        for steps in (100, 10_000):  # the first one loads what every rollout needs
            job_id = client.submit("advection", steps, {"sample": {}}, **options)["id"]
            if steps == 100:
                list(client.follow(job_id))
                client.download(job_id, tmp_path / "small.nc")
                client.download(job_id, tmp_path / "small.safetensors")
                before = service.resident()
        grown = [service.resident() - before for name, _ in client.follow(job_id) if name == "progress"]
        assert client.job(job_id)["result"]["frames"] == 10_001
        for suffix in (".nc", ".safetensors"):
            client.download(job_id, tmp_path / f"large{suffix}")
            assert (tmp_path / f"large{suffix}").stat().st_size > 80 * 10**6
            grown.append(service.resident() - before)
        print(f"RSS grew by at most {max(grown) / 2**20:.1f} MiB")
        assert max(grown) <= MOST_GROWTH
