"""A rollout that stops being finite: the answer ends before and says where. The engine is replaced."""

import base64
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.sse import events
from tests.quiet_engine import QuietEngine
from ups_server.api.app import create_app
from ups_server.engine.engine import EngineFailure, Event, Finished, Frame, RolloutSpec, Standing, Started
from ups_server.settings import Settings
from ups_server.solvers.limits import Ended
from ups_server.solvers.solver import Frames


class BrittleEngine(QuietEngine):
    """Fails at step 2: blows up, or raises where the problem asks for beta = 13."""

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
    ) -> AsyncGenerator[Event]:
        yield Started()
        yield Frame(1, initial + 1)
        if spec.problem.coefficients["beta"] == 13:
            raise EngineFailure("secret detail")
        yield Ended(2, fields=(0,), states=(0,))


class Uneven(QuietEngine):
    """Of three states, the second ends at step 2 for a bound, the first at step 3 for its values."""

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
    ) -> AsyncGenerator[Event]:
        yield Started()
        yield Frame(1, initial + 1)
        values = initial + 2
        values[1] = np.nan
        yield Ended(2, (0,), (1,), "outside_bounds", "a bound", 2.0, 1.5)
        yield Frame(2, values)
        values = values + 1
        values[0] = np.nan
        yield Ended(3, (0,), (0,))
        yield Frame(3, values)
        yield Finished(0.1)


DOCUMENT: dict[str, Any] = {"family": "advection", "initial_condition": {"values": [0.0] * 8}, "n_steps": 4}


async def post(
    data_dir: Path,
    accept: str,
    beta: float = 1.0,
    engine: QuietEngine | None = None,
    query: dict[str, str] | None = None,
    **changes: Any,
) -> httpx.Response:
    app = create_app(Settings(default_model="persistence", data_dir=data_dir), engine or BrittleEngine())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        document = {**DOCUMENT, "coefficients": {"beta": beta}, **changes}
        return await client.post("/v1/rollouts", json=document, params=query, headers={"Accept": accept})


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


BATCH: dict[str, Any] = {"initial_condition": {"values": [[0.0] * 8] * 3}, "n_steps": 3}


def told_of_uneven(flags: list[dict[str, Any]]) -> None:
    assert [(flag["code"], flag["reason"], flag["step"], flag["states"], flag["fields"]) for flag in flags] == [
        ("blow_up", "outside_bounds", 2, [1], ["u"]),
        ("blow_up", "not_finite", 3, [0], ["u"]),
    ]
    assert (flags[0]["got"], flags[0]["limit"]) == (2.0, 1.5)


@pytest.mark.anyio
async def test_each_state_of_a_batch_ends_by_itself(tmp_path: Path) -> None:
    response = await post(tmp_path, "application/json", engine=Uneven(), **BATCH, diagnostics=True)
    answer = response.json()
    told_of_uneven(answer["flags"])
    assert len(answer["times"]) == 4
    ends = [[state[0][0] for state in rows] for rows in answer["data"]]
    assert ends == [[0, 1, 2, None], [0, 1, None, None], [0, 1, 2, 3]]
    stopped = answer["diagnostics"]["stopped"]
    assert (stopped["step"], stopped["states"], stopped["reason"]) == (2, [1], "outside_bounds")
    assert [ending["states"] for ending in answer["diagnostics"]["endings"]] == [[1], [0]]


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["list", "base64"])
async def test_a_stream_says_nothing_of_states_that_have_ended(tmp_path: Path, encoding: str) -> None:
    response = await post(tmp_path, "text/event-stream", engine=Uneven(), query={"encoding": encoding}, **BATCH)
    received = list(events(response.text.splitlines()))
    told_of_uneven(received[-1][1]["flags"])
    for (_, data), first in zip(received[1:-1], (0.0, 1.0, 2.0, None), strict=True):
        if encoding == "base64":
            values = np.frombuffer(base64.b64decode(data["data"]), "<f4").reshape(data["shape"])
            np.testing.assert_array_equal(values[0], np.full((8, 1), np.nan if first is None else first))
        else:
            assert data["data"][0] == [[first]] * 8


@pytest.mark.anyio
async def test_members_that_end_are_left_out_of_the_statistics_and_named(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"ensemble": {"members": 2, "amplitude": 0.5}, "n_steps": 3}
    state = {"values": [0.0, 1.0] * 4}
    answer = (await post(tmp_path, "application/json", engine=Uneven(), initial_condition=state, **changes)).json()
    assert answer["ensemble"]["ended"] == [1]
    rows = dict(zip(answer["ensemble"]["statistics"], answer["data"], strict=True))
    control, mean, spread = (np.array(rows[name], dtype=float) for name in ("control", "mean", "spread"))
    assert np.isfinite(spread[:2]).all()
    assert np.isnan(spread[2:]).all(), "one member is left"
    assert np.isfinite(mean).all()
    assert np.isfinite(control[:3]).all()
    assert np.isnan(control[3]).all()
    assert "of member 1 left" in answer["flags"][0]["message"]
    assert "of the control stopped" in answer["flags"][1]["message"]


@pytest.mark.anyio
async def test_an_ensemble_of_the_largest_numbers_is_refused(tmp_path: Path) -> None:
    state = {"values": [3e38, -3e38] * 4}
    for accept in ("application/json", "text/event-stream"):
        response = await post(
            tmp_path, accept, engine=Uneven(), initial_condition=state, ensemble={"members": 8, "amplitude": 1.0}
        )
        assert (response.status_code, response.json()["code"]) == (422, "state_too_large")


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
