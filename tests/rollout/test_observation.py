"""Model and solver side by side, with an engine that says who goes first."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quiet_engine import QuietEngine
from tests.rollout.planning import observed, planned
from ups_server.engine.engine import (
    EngineFailure,
    Event,
    Finished,
    Frame,
    RolloutSpec,
    Started,
    engine_unavailable,
)
from ups_server.engine.local import InProcess
from ups_server.errors import UserError
from ups_server.rollout.observation import Computed, Observation
from ups_server.solvers.limits import Ended
from ups_server.solvers.solver import Frames

Script = list[Event | Exception | asyncio.Event]
"""What comes, in order; an asyncio.Event is waited for."""


class ScriptedEngine(QuietEngine):
    """Plays a script for the model and one for the solver."""

    def __init__(self, model: Script, solver: Script) -> None:
        self.scripts = {False: model, True: solver}
        self.left: list[bool] = []
        self.begun: dict[bool, bool] = {}

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, *further: Any, **named: Any
    ) -> AsyncGenerator[Event]:
        solver = spec.model == "numerical"
        self.begun[solver] = True
        try:
            yield Started()
            for entry in self.scripts[solver]:
                if isinstance(entry, asyncio.Event):
                    await entry.wait()
                elif isinstance(entry, Exception):
                    raise entry
                else:
                    yield Frame(entry.step, initial + entry.values) if isinstance(entry, Frame) else entry
        finally:
            self.left.append(solver)


class TwoWorkers(ScriptedEngine):
    """The solver has a worker of its own."""

    def beside(self, model: str) -> bool:
        return True


def frames(count: int, error: float = 0.0) -> Script:
    return [Frame(step, np.float32(error)) for step in range(1, count + 1)]  # type: ignore[arg-type]


async def watched(
    engine: QuietEngine, tmp_path: Path, timeout: float = 60.0, **changes: Any
) -> tuple[Observation, list[Any]]:
    todo = planned(tmp_path, model="persistence", grid={"n": [16]}, reference=True, **changes)
    observation = Observation(todo, engine, timeout)
    await observation.start()
    return observation, [event async for event in observation.events()]


def order(events: list[Any]) -> list[str]:
    return [f"{'c' if isinstance(event, Computed) else 'r'}{event.index}" for event in events]


@pytest.mark.anyio
async def test_the_model_is_not_held_up_by_a_solver_that_is_slow(tmp_path: Path) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine([*frames(3, 0.5), Finished(0.1)], [gate, *frames(3), Finished(0.4)])
    todo = planned(tmp_path, model="persistence", grid={"n": [16]}, reference=True)
    observation = Observation(todo, engine, 60.0)
    await observation.start()
    seen = []
    async for event in observation.events():
        seen.append(event)
        if order(seen)[-1] == "c3":
            gate.set()
    assert order(seen)[:1] == ["c0"]
    assert [name for name in order(seen) if name.startswith("c")] == ["c0", "c1", "c2", "c3"]
    assert [name for name in order(seen) if name.startswith("r")] == ["r0", "r1", "r2", "r3"]
    assert order(seen).index("c3") < order(seen).index("r1")
    found = observation.comparison
    assert found is not None
    assert found.complete
    assert found.faster == "model"
    rmse = found.rmse_per_field["u"]
    assert rmse == pytest.approx([0.0, 0.5, 0.5, 0.5], rel=1e-4)
    assert observation.attributes()["reference"]["seconds"] == {"model": 0.1, "solver": 0.4}


@pytest.mark.anyio
async def test_a_solver_that_is_first_waits_for_the_model(tmp_path: Path) -> None:
    engine = ScriptedEngine([*frames(3), Finished(0.4)], [*frames(3), Finished(0.1)])
    observation, events = await watched(engine, tmp_path)
    assert sorted(order(events)) == ["c0", "c1", "c2", "c3", "r0", "r1", "r2", "r3"]
    assert [flag.code for flag in observation.flags] == ["numerical_solver_is_faster"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (engine_unavailable("gone"), "gone"),
        (EngineFailure("secret"), "the solver failed"),
        (UserError("queue_full", "the queue is full"), "queue is full"),
    ],
)
async def test_a_solver_that_fails_is_a_reason_and_no_failure(tmp_path: Path, ending: Exception, words: str) -> None:
    observation, events = await watched(ScriptedEngine([*frames(3), Finished(0.1)], [*frames(1), ending]), tmp_path)
    assert [name for name in order(events) if name.startswith("c")] == ["c0", "c1", "c2", "c3"]
    found = observation.comparison
    assert found is not None
    assert not found.complete
    assert words in str(found.reason)
    assert "secret" not in str(found.reason)
    assert found.faster is None
    assert len(found.nrmse) == 2


@pytest.mark.anyio
async def test_a_solver_that_takes_too_long_is_left(tmp_path: Path) -> None:
    engine = ScriptedEngine([*frames(3), Finished(0.1)], [asyncio.Event()])
    observation, _ = await watched(engine, tmp_path, timeout=0.05)
    assert observation.comparison is not None
    assert observation.comparison.reason == "the solver took too long"
    assert sorted(engine.left) == [False, True]


@pytest.mark.anyio
async def test_a_model_that_fails_has_no_reference(tmp_path: Path) -> None:
    engine = ScriptedEngine([*frames(1), EngineFailure("broken")], [asyncio.Event()])
    with pytest.raises(EngineFailure):
        await watched(engine, tmp_path)
    assert engine.left == [False]


@pytest.mark.anyio
async def test_after_a_blow_up_there_is_nothing_more_to_compare(tmp_path: Path) -> None:
    engine = ScriptedEngine([*frames(1), Ended(2, (0,), (0,)), Finished(0.1)], [*frames(2), asyncio.Event()])
    observation, events = await watched(engine, tmp_path)
    assert sorted(order(events)) == ["c0", "c1", "r0", "r1"]
    found = observation.attributes()
    assert found["diagnostics"]["stopped"]["step"] == 2
    assert found["reference"]["faster"] is None
    assert engine.left == [False, True, True]


@pytest.mark.anyio
async def test_who_leaves_frees_the_place(tmp_path: Path) -> None:
    engine = ScriptedEngine([*frames(2), asyncio.Event()], [])
    todo = planned(tmp_path, model="persistence", grid={"n": [16]}, reference=True)
    observation = Observation(todo, engine, 60.0)
    await observation.start()
    events = observation.events()
    async for event in events:
        if event.index == 1:
            break
    await events.aclose()
    assert engine.left == [False]


@pytest.mark.anyio
async def test_beside_the_model_the_reference_needs_no_wait(tmp_path: Path) -> None:
    """Two resolutions are there before the model has made its first step."""
    gate = asyncio.Event()
    engine = TwoWorkers([gate, *frames(3, 0.5), Finished(0.4)], [*frames(3), Finished(0.1)])
    todo = planned(tmp_path, model="persistence", grid={"n": [16]}, reference=True)
    observation = Observation(todo, engine, 60.0)
    await observation.start()
    seen = []
    async for event in observation.events():
        seen.append(event)
        while len(seen) == 1 and engine.left != [True, True]:
            await asyncio.sleep(0.001)
        gate.set()
    assert order(seen) == ["c0", "c1", "c2", "c3", "r0", "r1", "r2", "r3"]
    found = observation.comparison
    assert found is not None
    assert (found.complete, found.settled, found.faster) == (True, True, "solver")


@pytest.mark.anyio
async def test_beside_a_model_that_ends_early_it_is_compared_as_far(tmp_path: Path) -> None:
    engine = TwoWorkers([*frames(1), Ended(2, (0,), (0,)), Finished(0.1)], [*frames(3), Finished(0.1)])
    observation, events = await watched(engine, tmp_path)
    assert order(events) == ["c0", "c1", "r0", "r1"]
    found = observation.attributes()["reference"]
    assert (found["complete"], found["faster"], len(found["nrmse"])) == (True, None, 2)


@pytest.mark.anyio
@pytest.mark.parametrize("leaves", [False, True])
async def test_beside_the_model_its_end_ends_the_reference(tmp_path: Path, leaves: bool) -> None:
    ending: Script = [asyncio.Event()] if leaves else [EngineFailure("broken")]
    engine = TwoWorkers([*frames(1), *ending], [asyncio.Event()])
    todo = planned(tmp_path, model="persistence", grid={"n": [16]}, reference=True)
    observation = Observation(todo, engine, 60.0)
    await observation.start()
    events = observation.events()
    assert [(await anext(events)).index for _ in range(2)] == [0, 1]
    while not engine.begun.get(True):
        await asyncio.sleep(0.001)
    if leaves:
        await events.aclose()
    else:
        with pytest.raises(EngineFailure):
            await anext(events)
    assert sorted(engine.left) == [False, True]


@pytest.mark.anyio
async def test_beside_the_model_it_may_take_too_long(tmp_path: Path) -> None:
    engine = TwoWorkers([*frames(3), Finished(0.1)], [asyncio.Event()])
    observation, _ = await watched(engine, tmp_path, timeout=0.05)
    assert observation.comparison is not None
    assert observation.comparison.reason == "the solver took too long"


def test_an_engine_and_a_process_of_ones_own_say_the_same(tmp_path: Path) -> None:
    """Persistence computes the same anywhere: all that is said but the seconds is equal."""
    request: dict[str, Any] = {"model": "persistence", "grid": {"n": [16]}, "reference": True, "n_steps": 3}
    todo = planned(tmp_path, **request)
    values, here = observed(todo)

    async def there() -> tuple[list[Any], dict[str, Any]]:
        observation = Observation(todo, InProcess("cpu"), 60.0)
        await observation.start()
        return [event async for event in observation.events()], observation.attributes()

    events, found = asyncio.run(there())
    assert order(events) == ["c0", "c1", "c2", "c3", "r0", "r1", "r2", "r3"]
    np.testing.assert_array_equal(values, [event.values for event in events[:4]])
    timed = ("seconds", "faster", "remark")
    one, other = ({**answer["reference"], **dict.fromkeys(timed)} for answer in (here.attributes(), found))
    assert one == other
