"""Server-sent events: frames as they are computed, a dying engine, a leaving client, a full queue."""

import asyncio
import base64
import os
import signal
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import RunningService, running_service, wait_until
from tests.api.sse import events
from tests.quiet_engine import QuietEngine
from ups_server.api.answers import with_keep_alive
from ups_server.engine.engine import EngineFailure, Event, Finished, Frame, RolloutSpec, Standing, Started
from ups_server.settings import Settings
from ups_server.solvers.solver import Frames

ENDLESS = {
    "model": "persistence",
    "family": "burgers",
    "grid": {"n": [2**11]},
    "initial_condition": {"sample": {"seed": 1}},
    "n_steps": 10_000,
}
"""More frames than any buffer between engine and reader holds: it stays open until somebody reads or leaves."""


@contextmanager
def streaming(
    service: RunningService, document: dict[str, Any], **parameters: str
) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """The events of a rollout, as (name, data)."""
    with httpx.stream(
        "POST",
        f"{service.url}/v1/rollouts",
        json=document,
        params=parameters,
        headers={"Accept": "text/event-stream"},
        timeout=60,
    ) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events(response.iter_lines())


def test_every_step_is_an_event(service: RunningService) -> None:
    request = {**ENDLESS, "model": "numerical", "grid": {"n": [16]}, "n_steps": 4, "save_every": 2}
    with streaming(service, request) as stream:
        received = list(stream)
    assert [name for name, _ in received] == ["start", "step", "step", "step", "end"]
    start, end = received[0][1], received[-1][1]
    assert start["fields"] == ["u"]
    assert start["n_frames"] == end["n_frames"] == 3
    assert start["times"] == [data["time"] for name, data in received if name == "step"]
    whole = service.post(request).json()
    assert [data["data"] for name, data in received if name == "step"] == whole["data"]


def test_base64_states(service: RunningService) -> None:
    request = {**ENDLESS, "grid": {"n": [16]}, "n_steps": 1, "initial_condition": {"sample": {"count": 2}}}
    with streaming(service, request, encoding="base64") as stream:
        steps = [data for name, data in stream if name == "step"]
    whole = np.array(service.post(request).json()["data"], dtype=np.float32)
    for step in steps:
        values = np.frombuffer(base64.b64decode(step["data"]), dtype="<f4").reshape(step["shape"])
        np.testing.assert_array_equal(values, whole[:, step["index"]])


def test_frames_leave_before_the_rollout_is_over(service: RunningService) -> None:
    with streaming(service, ENDLESS) as stream:
        assert [next(stream)[0] for _ in range(3)] == ["start", "step", "step"]
        assert service.engine.health().active == 1
    wait_until(lambda: service.engine.health().active == 0, "the engine's place is free again")


class AwaitingEngine(QuietEngine):
    """Makes the second step only when it is told that the first has been read."""

    def __init__(self) -> None:
        self.read = threading.Event()

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
    ) -> AsyncGenerator[Event]:
        yield Started()
        yield Frame(1, initial)
        if not await asyncio.to_thread(self.read.wait, 30):
            raise EngineFailure("nobody has read the first step")
        yield Frame(2, initial)
        yield Finished(0.0)


def test_a_step_is_read_before_the_next_is_computed(settings: Settings) -> None:
    engine = AwaitingEngine()
    request = {**ENDLESS, "grid": {"n": [16]}, "n_steps": 2}
    with running_service(settings, engine) as service, streaming(service, request) as stream:
        received = [next(stream) for _ in range(3)]
        assert [(name, data.get("index")) for name, data in received[1:]] == [("step", 0), ("step", 1)]
        engine.read.set()
        assert [name for name, _ in stream] == ["step", "end"]


def test_refusals_are_statuses_and_not_events(service: RunningService) -> None:
    response = service.post({**ENDLESS, "family": "navier"}, accept="text/event-stream")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_family")


def test_a_killed_engine_breaks_its_rollouts_and_nothing_else(settings: Settings) -> None:
    with running_service(settings) as service:
        first = service.engine.health().process_id
        assert first is not None
        with streaming(service, ENDLESS) as stream:
            assert [next(stream)[0] for _ in range(3)] == ["start", "step", "step"]
            os.kill(first, signal.SIGKILL)
            assert service.get("/healthz").status_code == 200
            *_, (name, problem) = stream
        assert name == "problem"
        assert (problem["code"], problem["status"]) == ("engine_unavailable", 503)
        assert problem["hint"]

        answer = service.post({**ENDLESS, "grid": {"n": [16]}, "n_steps": 1})
        assert answer.status_code == 200
        health = service.engine.health()
        assert health.process_id != first
        assert health.restarts == 1


def test_a_killed_engine_is_a_503_for_whole_answers(settings: Settings) -> None:
    request = {**ENDLESS, "model": "numerical", "n_steps": 9_000}
    with running_service(settings) as service, ThreadPoolExecutor() as threads:
        waiting = threads.submit(service.post, request, accept="application/x-npz")
        wait_until(lambda: service.engine.health().active == 1, "the rollout runs")
        process_id = service.engine.health().process_id
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)
        response = waiting.result()
    assert response.status_code == 503
    assert response.json()["code"] == "engine_unavailable"
    assert int(response.headers["retry-after"]) >= 1


def test_a_full_queue_refuses(settings: Settings) -> None:
    small = settings.model_copy(update={"max_active": 1, "max_queued": 0})
    short = {**ENDLESS, "grid": {"n": [16]}, "n_steps": 9}
    with running_service(small) as service:
        with streaming(service, ENDLESS) as stream:
            next(stream)
            response = service.post(short)
            assert (response.status_code, response.json()["code"]) == (429, "queue_full")
            assert int(response.headers["retry-after"]) >= 1
            as_stream = service.post(short, accept="text/event-stream")
            assert as_stream.status_code == 429
        wait_until(lambda: service.engine.health().active == 0, "the place of the client that left is free")
        assert service.post(short).status_code == 200


def test_a_client_that_leaves_a_whole_answer_frees_its_place(service: RunningService) -> None:
    request = {**ENDLESS, "model": "numerical"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service.url}/v1/rollouts", json=request, headers={"Accept": "application/x-npz"}, timeout=0.5)
    wait_until(lambda: service.engine.health().active == 0, "the engine's place is free again")


def test_a_queued_rollout_gets_its_turn(settings: Settings) -> None:
    small = settings.model_copy(update={"max_active": 1, "max_queued": 1})
    short = {**ENDLESS, "grid": {"n": [16]}, "n_steps": 9}
    with running_service(small) as service, ThreadPoolExecutor() as threads:
        with streaming(service, ENDLESS) as stream:
            next(stream)
            waiting = threads.submit(service.post, short)
            wait_until(lambda: service.engine.health().queued == 1, "the second rollout waits")
        assert waiting.result().status_code == 200


@pytest.mark.anyio
async def test_silence_is_filled_with_comments() -> None:
    release = asyncio.Event()

    async def slow() -> AsyncGenerator[bytes]:
        yield b"first"
        await release.wait()
        yield b"second"

    stream = with_keep_alive(slow(), interval=0.01)
    assert await anext(stream) == b"first"
    assert await anext(stream) == b": ping\n\n"
    release.set()
    assert await anext(stream) == b"second"
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
