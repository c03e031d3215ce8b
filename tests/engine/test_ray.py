"""Engines on a Ray cluster: a replica by itself, and a service whose replicas and nodes are killed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from benchmarks.ray_workers import RayCluster, kill_tree
from tests.api.conftest import DEADLINE_S, wait_until
from tests.api.sse import events
from tests.engine.test_local import spec
from tests.serving import Serving, started
from ups_server.catalog import Catalog
from ups_server.client import Client
from ups_server.engine.devices import engine_of
from ups_server.engine.engine import Event, Finished, Frame, Started
from ups_server.engine.ray import Replica, RolloutProblem
from ups_server.errors import UserError
from ups_server.settings import Settings
from ups_server.tensors import SAFETENSORS, from_safetensors

with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (pip install 'ups-server[ray]')")
LONG: dict[str, Any] = {
    "model": "numerical",
    "coefficients": {"nu": 0.02},
    "grid": {"n": [64]},
    "deterministic": True,
}
START = {"sample": {"seed": 3}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def replica(folder: Path, **settings: Any) -> AsyncIterator[Replica]:
    """One in this process, without a cluster."""
    found = Replica(Settings(default_model="persistence", data_dir=folder, device="cpu", threads=1, **settings))
    try:
        async with asyncio.timeout(DEADLINE_S):
            while (await found.health()).state != "ready":
                await asyncio.sleep(0.02)
            yield found
    finally:
        await found._engine.close()


async def taken(found: Replica, identity: str) -> list[Event | RolloutProblem]:
    """All events of a rollout, to its end."""
    told: list[Event | RolloutProblem] = []
    while not (told and isinstance(told[-1], Finished | RolloutProblem)):
        told += await found.take(identity)
    return told


@pytest.mark.anyio
async def test_a_replica_hands_out_events_until_the_end(tmp_path: Path) -> None:
    async with replica(tmp_path, stream_window=4) as found:
        todo, initial = spec(10)
        await found.begin("one", todo, initial, None, None, {})
        told = await taken(found, "one")
        assert isinstance(told[0], Started)
        assert [event.step for event in told if isinstance(event, Frame)] == list(range(1, 11))
        with pytest.raises(KeyError):
            await found.take("one")
        await found.begin("two", replace(todo, model="absent"), initial, None, None, {})
        (problem,) = await taken(found, "two")
        assert isinstance(problem, RolloutProblem)
        error = problem.error()
        assert isinstance(error, UserError)
        assert error.code == "unknown_model"


@pytest.mark.anyio
async def test_a_rollout_that_nobody_wants_leaves_its_place(tmp_path: Path) -> None:
    async with replica(tmp_path, stream_window=4) as found:
        todo, initial = spec(10**6)
        await found.begin("one", todo, initial, None, None, {})
        while not any(isinstance(event, Frame) for event in await found.take("one")):
            pass
        assert (await found.health()).active == 1
        await found.end("one")
        while (await found.health()).active:
            await asyncio.sleep(0.02)
        with pytest.raises(KeyError):
            await found.take("one")


def test_without_ray_it_is_said_which_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ups_server.engine.devices.find_spec", lambda name: None)
    with pytest.raises(UserError) as refused:
        engine_of(Settings(data_dir=tmp_path, devices=("ray:2",)), Catalog(tmp_path))
    assert refused.value.code == "extra_missing"


class Fleet:
    """A service with two replicas, each on a node of one core."""

    def __init__(self, served: Serving, cluster: RayCluster) -> None:
        self.served, self.cluster = served, cluster

    def devices(self) -> list[dict[str, Any]]:
        return list(httpx.get(f"{self.served.url}/readyz", timeout=DEADLINE_S).json()["devices"])

    def both_ready(self) -> None:
        wait_until(lambda: [one["status"] for one in self.devices()] == ["ready", "ready"], "both replicas are ready")

    def spent(self) -> dict[int, float]:
        """CPU time of every engine process."""
        found = {}
        for node in self.cluster.nodes[1:]:
            for process in psutil.Process(node.pid).children(recursive=True):
                if "ups_server.engine.process" in words(process):
                    found[process.pid] = sum(process.cpu_times()[:2])
        return found

    def working(self, before: dict[int, float]) -> tuple[Any, psutil.Process]:
        """The node that has computed since, and the process of its replica."""
        grown = {pid: seconds - before.get(pid, 0.0) for pid, seconds in self.spent().items()}
        engine = psutil.Process(max(grown, key=lambda pid: grown[pid]))
        nodes = [node for node in self.cluster.nodes[1:] if node.pid in {parent.pid for parent in engine.parents()}]
        parent = engine.parent()
        assert parent is not None
        return nodes[0], parent


def words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    cluster = RayCluster()
    try:
        for _ in range(2):
            cluster.add_node()
        settings = {
            "DEVICES": "ray:2", "RAY_ADDRESS": cluster.address, "THREADS": "1", "DEFAULT_MODEL": "persistence",
            "WORKER": "false",
        }  # fmt: skip
        folder = tmp_path_factory.mktemp("replicas")
        with started(folder, settings, cluster.environment) as served:
            yield Fleet(served, cluster)
    finally:
        cluster.close()


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    running.both_ready()
    return running


def result(fleet: Fleet, job: str) -> Any:
    answer = httpx.get(f"{fleet.served.url}/v1/rollouts/{job}/result", timeout=DEADLINE_S)
    return from_safetensors(answer.content)[0]["data"].view(np.int32)


@with_ray
@pytest.mark.slow
def test_rollouts_of_a_trained_model_are_computed_there(fleet: Fleet) -> None:
    with Client(fleet.served.url) as client:
        found = client.rollout("burgers", 3, START, model="ups-mini", grid={"n": [64]})
    assert np.isfinite(found["u"].values).all()
    assert [one["device"] for one in fleet.devices()] == ["ray:0", "ray:1"]
    wait_until(lambda: any("ups-mini" in " ".join(one["models"]) for one in fleet.devices()), "its model is told of")


@with_ray
@pytest.mark.slow
def test_a_client_that_leaves_frees_the_place(fleet: Fleet) -> None:
    document = {**LONG, "family": "burgers", "initial_condition": START, "n_steps": 10_000}
    headers = {"Accept": "text/event-stream"}
    url = f"{fleet.served.url}/v1/rollouts"
    with httpx.stream("POST", url, json=document, headers=headers, timeout=DEADLINE_S) as got:
        told = events(got.iter_lines())
        assert [next(told)[0] for _ in range(3)] == ["start", "step", "step"]
        wait_until(lambda: sum(one["active"] for one in fleet.devices()) == 1, "it is seen")
    wait_until(lambda: sum(one["active"] for one in fleet.devices()) == 0, "its place is free")


@with_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_kept_goes_on_after_a_replica_and_a_node_were_killed(fleet: Fleet) -> None:
    steps = 2000
    with Client(fleet.served.url) as client:

        def submitted() -> str:
            return str(client.submit("burgers", steps, START, **LONG)["id"])

        undisturbed = submitted()
        list(client.follow(undisturbed))
        expected = result(fleet, undisturbed)
        assert len(expected) == steps + 1
        for kill_node in (False, True):
            fleet.both_ready()
            before, killed = fleet.spent(), False
            job = submitted()
            for name, data in client.follow(job):
                if name == "progress" and not killed and 100 < data["done"] < steps - 500:
                    node, process = fleet.working(before)
                    if kill_node:
                        kill_tree(node.pid)
                    else:
                        process.kill()
                    killed = True
            assert killed, "in the middle of it"
            assert (client.job(job)["state"], client.job(job)["attempt"]) == ("succeeded", 1)
            np.testing.assert_array_equal(result(fleet, job), expected)
    answer = httpx.post(
        f"{fleet.served.url}/v1/rollouts",
        json={**LONG, "family": "burgers", "initial_condition": START, "n_steps": 2},
        headers={"Accept": SAFETENSORS},
        timeout=DEADLINE_S,
    )
    assert answer.status_code == 200, "one replica is left"
