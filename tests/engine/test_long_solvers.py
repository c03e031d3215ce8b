"""Numerical rollouts beside each other: long steps hold up no short ones, and end with whoever asked for them."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.test_local import running, spec
from ups_server.engine import local as engine_local
from ups_server.engine.admission import check_cost, step_seconds
from ups_server.engine.engine import Frame, RolloutSpec
from ups_server.errors import UserError
from ups_server.pde import families, family
from ups_server.settings import Settings
from ups_server.solvers.solver import Problem

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def gas(n: int, n_steps: int) -> tuple[RolloutSpec, np.ndarray]:
    """Compressible flow: a step of 0.05 on 512 x 512 points takes half a minute."""
    flow = family("compressible_ns_2d")
    grid = flow.default_grid(n)
    initial = flow.sample_initial(np.random.default_rng(0), 1, grid).astype(np.float32)
    coefficients: dict[str, Any] = {"M": 0.1, "eta": 0.01, "zeta": 0.01}
    return RolloutSpec("numerical", Problem(flow.id, coefficients, grid, flow.boundary, 0.05), n_steps), initial


async def frames(engine: engine_local.LocalEngine, todo: RolloutSpec, initial: np.ndarray) -> list[Frame]:
    async with aclosing(engine.rollout(todo, initial)) as events:
        return [event async for event in events if isinstance(event, Frame)]


async def test_a_long_step_holds_up_nobody_and_ends_with_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as engine, asyncio.timeout(120):
        large = asyncio.create_task(frames(engine, *gas(512, 100)))
        while engine.health().active == 0:
            await asyncio.sleep(0.01)
        assert [frame.step for frame in await frames(engine, *spec(5))] == [1, 2, 3, 4, 5]
        assert not large.done()
        # What goes to the same process as the large one gets its turn when that is given up: no step of it is finished.
        monkeypatch.setattr(engine_local, "step_seconds", lambda todo, rows: 1e9)
        small = asyncio.create_task(frames(engine, *spec(3)))
        while engine.health().active < 2:
            await asyncio.sleep(0.01)
        large.cancel()
        async with asyncio.timeout(20):
            assert len(await small) == 3
        assert engine.health().restarts == 0


async def test_a_step_that_turns_out_long_goes_on_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same numbers, no frame twice and none missing."""
    monkeypatch.setattr(engine_local, "SHORT_STEP_S", 0.05)
    todo, initial = gas(128, 2)
    async with running(tmp_path) as engine, asyncio.timeout(120):
        apart = await frames(engine, todo, initial)
        monkeypatch.setattr(engine_local, "step_seconds", lambda todo, rows: 0.0)
        moved = await frames(engine, todo, initial)
        assert [frame.step for frame in moved] == [1, 2]
        for one, other in zip(moved, apart, strict=True):
            np.testing.assert_array_equal(one.values, other.values)
        assert {"builtin", "builtin-long"} <= set(engine.health().detail)
        assert [frame.step for frame in await frames(engine, *spec(2))] == [1, 2], "the short process is as before"


@pytest.mark.parametrize("entry", families().values(), ids=lambda entry: entry.id)
async def test_the_cost_of_a_step_is_known_before(entry: Any) -> None:
    """It grows with points, rows and the steps of the solver, and is small on every family's own grid."""
    coefficients = entry.complete({})
    small, large = (
        RolloutSpec("numerical", Problem(entry.id, coefficients, entry.default_grid(n), entry.boundary, entry.dt), 10)
        for n in (entry.n, 2 * entry.n)
    )
    assert step_seconds(small, 1) < engine_local.SHORT_STEP_S
    assert step_seconds(small, 3) == pytest.approx(3 * step_seconds(small, 1))
    assert step_seconds(large, 1) >= 2**entry.ndim * step_seconds(small, 1)
    check_cost(small, 1, Settings())


@pytest.mark.parametrize(("n", "n_steps", "code"), [(512, 200, "too_much_work"), (4096, 1, "grid_too_large")])
async def test_what_would_take_too_long_is_refused(n: int, n_steps: int, code: str) -> None:
    todo, _ = gas(16, n_steps)
    flow = family(todo.problem.family)
    problem = Problem(flow.id, todo.problem.coefficients, flow.default_grid(n), flow.boundary, flow.dt)
    with pytest.raises(UserError) as caught:
        check_cost(RolloutSpec("numerical", problem, n_steps), 1, Settings())
    assert caught.value.code == code
    check_cost(RolloutSpec("persistence", problem, n_steps), 1, Settings())
    if code == "too_much_work":
        check_cost(RolloutSpec("numerical", problem, n_steps), 1, Settings(), share=24.0)
