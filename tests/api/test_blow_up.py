"""A rollout that stops being finite: the answer ends before and says where. The engine is replaced."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.api.sse import events
from tests.quiet_engine import QuietEngine
from ups_server.api.app import create_app
from ups_server.settings import Settings
from ups_server.solve.engine import BlowUp, EngineFailure, Event, Frame, RolloutSpec, Standing, Started
from ups_server.solve.solver import Frames


class BrittleEngine(QuietEngine):
    """Fails at step 2: blows up, or raises where the problem asks for beta = 13."""

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
    ) -> AsyncGenerator[Event]:
        yield Started()
        yield Frame(1, initial + 1)
        if spec.problem.coefficients["beta"] == 13:
            raise EngineFailure("secret detail")
        yield BlowUp(2, fields=(0,), states=(0,))


async def post(data_dir: Path, accept: str, beta: float = 1.0) -> httpx.Response:
    app = create_app(Settings(default_model="persistence", data_dir=data_dir), BrittleEngine())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        document = {
            "family": "advection",
            "coefficients": {"beta": beta},
            "initial_condition": {"values": [0.0] * 8},
            "n_steps": 4,
        }
        return await client.post("/v1/rollouts", json=document, headers={"Accept": accept})


@pytest.mark.anyio
async def test_the_answer_ends_before_and_is_flagged(tmp_path: Path) -> None:
    answer = (await post(tmp_path, "application/json")).json()
    assert np.array(answer["data"]).shape == (2, 8, 1)
    assert len(answer["times"]) == 2
    (flag,) = answer["flags"]
    assert (flag["code"], flag["step"], flag["time"], flag["fields"]) == ("blow_up", 2, 0.1, ["u"])


@pytest.mark.anyio
async def test_the_stream_ends_with_the_flag(tmp_path: Path) -> None:
    received = list(events((await post(tmp_path, "text/event-stream")).text.splitlines()))
    assert [name for name, _ in received] == ["start", "step", "step", "end"]
    assert received[-1][1]["flags"][0]["code"] == "blow_up"


@pytest.mark.anyio
async def test_our_own_fault_is_a_500_that_says_nothing_of_our_insides(tmp_path: Path) -> None:
    response = await post(tmp_path, "application/json", beta=13.0)
    assert response.status_code == 500
    assert response.json()["code"] == "internal_error"
    assert "secret" not in response.text


@pytest.mark.anyio
async def test_our_own_fault_in_a_stream_is_a_problem_event(tmp_path: Path) -> None:
    received = list(events((await post(tmp_path, "text/event-stream", beta=13.0)).text.splitlines()))
    assert received[-1][0] == "problem"
    assert received[-1][1]["code"] == "internal_error"
    assert "secret" not in json.dumps(received)
