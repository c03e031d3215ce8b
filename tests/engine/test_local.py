"""The supervised engine process: rollouts, admission, restarts, an engine that hangs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from ups_server.catalog import Catalog
from ups_server.engine.admission import Admission
from ups_server.engine.engine import Finished, Frame, RolloutSpec, Started
from ups_server.engine.local import LocalEngine
from ups_server.errors import UserError
from ups_server.pde import family
from ups_server.settings import Settings
from ups_server.solvers.solver import Problem

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def running(folder: Path, **changes: object) -> AsyncIterator[LocalEngine]:
    settings = Settings.model_validate(
        {"default_model": "persistence", "data_dir": folder, "device": "cpu", "threads": 1, **changes}
    )
    engine = LocalEngine(settings, Catalog(folder))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def spec(n_steps: int, n: int = 16, model: str = "numerical") -> tuple[RolloutSpec, np.ndarray]:
    advection = family("advection")
    grid = advection.default_grid(n)
    initial = advection.sample_initial(np.random.default_rng(0), 1, grid).astype(np.float32)
    return RolloutSpec(model, Problem("advection", {"beta": 1.0}, grid, advection.boundary, 0.05), n_steps), initial


async def test_a_rollout_through_the_process(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        todo, initial = spec(20)
        async with aclosing(engine.rollout(todo, initial)) as events:
            first, *frames = [event async for event in events]
        assert isinstance(first, Started)
        assert [frame.step for frame in frames if isinstance(frame, Frame)] == list(range(1, 21))
        last, ending = frames[-2:]
        assert isinstance(last, Frame)
        assert isinstance(ending, Finished)
        assert ending.seconds > 0.0
        np.testing.assert_allclose(last.values, initial, atol=0.01)  # once around the box
        assert engine.health().models == ("numerical", "persistence")
        assert engine.health().active == 0


async def test_it_restarts_and_what_was_in_flight_fails(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        for restarts in (1, 2):
            events = engine.rollout(*spec(10**6))
            await anext(events)
            process_id = engine.health().process_id
            assert process_id is not None
            os.kill(process_id, signal.SIGKILL)
            with pytest.raises(UserError) as caught:
                async for _ in events:
                    pass
            assert caught.value.code == "engine_unavailable"
            again = [event async for event in engine.rollout(*spec(1))]
            assert [type(event) for event in again] == [Started, Frame, Finished]
            assert engine.health().restarts == restarts


async def test_an_engine_that_hangs_is_restarted(tmp_path: Path) -> None:
    async with running(tmp_path, engine_stall_timeout_s=1.0) as engine:
        events = engine.rollout(*spec(10**6))
        await anext(events)
        process_id = engine.health().process_id
        assert process_id is not None
        os.kill(process_id, signal.SIGSTOP)
        with pytest.raises(UserError) as caught:
            async for _ in events:
                pass
        assert caught.value.code == "engine_unavailable"
        assert [event async for event in engine.rollout(*spec(1))]


async def test_closing_fails_what_is_in_flight(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        events = engine.rollout(*spec(10**6))
        await anext(events)
    with pytest.raises(UserError) as caught:
        async for _ in events:
            pass
    assert caught.value.code == "engine_unavailable"
    with pytest.raises(UserError):
        await anext(engine.rollout(*spec(1)))


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 20])
async def test_closing_while_it_starts_leaves_no_process(tmp_path: Path, turns: int) -> None:
    before = set(psutil.Process().children())
    async with running(tmp_path):
        for _ in range(turns):
            await asyncio.sleep(0)
    assert set(psutil.Process().children()) <= before


async def test_admission_is_bounded_and_in_order() -> None:
    admission = Admission(places=1, queue=1, timeout=30.0, memory=10)
    order: list[str] = []

    async def visit(name: str, leave: asyncio.Event) -> None:
        async with admission.place(100, 1):
            order.append(name)
            await leave.wait()

    leave = asyncio.Event()
    first = asyncio.create_task(visit("first", leave))
    second = asyncio.create_task(visit("second", leave))
    while not (order == ["first"] and admission.waiting == 1):
        await asyncio.sleep(0)
    with pytest.raises(UserError) as caught:
        await visit("third", leave)
    assert caught.value.code == "queue_full"
    async with admission.place(1, 1):  # a short one has a place of its own
        assert admission.active == 2
    leave.set()
    await asyncio.gather(first, second)
    assert order == ["first", "second"]
    assert (admission.active, admission.waiting) == (0, 0)


@pytest.mark.parametrize(("crowd", "few"), [(1, 100), (100, 1)])
async def test_a_crowd_of_one_kind_keeps_no_other_out(crowd: int, few: int) -> None:
    """Steps of the many, who fill every place and their queue, and of the few: these enter as soon as one has left."""
    admission = Admission(places=4, queue=4, timeout=30.0, memory=1000)
    inside: list[int] = []
    leaving = asyncio.Queue[None]()

    async def visit(n_steps: int) -> None:
        async with admission.place(n_steps, 200 if n_steps == few else 1):
            inside.append(n_steps)
            await leaving.get()

    many = [asyncio.create_task(visit(crowd)) for _ in range(8)]
    while len(inside) + admission.waiting < 8:
        await asyncio.sleep(0)
    entered = len(inside)
    rest = [asyncio.create_task(visit(few)) for _ in range(2)]
    while admission.waiting + len(inside) < 10:
        await asyncio.sleep(0)
    for left in range(1, 3):
        leaving.put_nowait(None)
        while len(inside) < entered + left and inside.count(few) < 2:
            await asyncio.sleep(0)
    assert inside.count(few) == 2, "before most of those that came earlier"
    for _ in range(10):
        leaving.put_nowait(None)
    await asyncio.gather(*many, *rest)
    assert (admission.active, admission.waiting) == (0, 0)


async def test_what_waits_takes_no_more_than_what_computes() -> None:
    admission = Admission(places=1, queue=100, timeout=30.0, memory=10)
    async with admission.place(100, 6):
        waiting = asyncio.create_task(admission.place(100, 6).__aenter__())
        while admission.waiting < 1:
            await asyncio.sleep(0)
        with pytest.raises(UserError) as caught:
            async with admission.place(100, 5):
                pass
        assert caught.value.code == "queue_full"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert (admission.active, admission.waiting) == (0, 0)


async def test_admission_gives_up_waiting() -> None:
    admission = Admission(places=1, queue=1, timeout=0.01, memory=10)
    async with admission.place(100, 1):
        with pytest.raises(UserError) as caught:
            async with admission.place(100, 1):
                pass
    assert caught.value.code == "queue_full"
    async with admission.place(100, 1):
        pass


async def test_admission_counts_memory() -> None:
    admission = Admission(places=8, queue=0, timeout=0.01, memory=10)
    async with admission.place(100, 6):
        with pytest.raises(UserError) as caught:
            async with admission.place(100, 5):
                pass
        assert caught.value.code == "queue_full"
        async with admission.place(100, 4):
            assert admission.active == 2
    with pytest.raises(UserError) as refused:
        async with admission.place(100, 11):
            pass
    assert refused.value.code == "too_much_memory"


@pytest.mark.parametrize(
    ("cores", "model", "beside"), [(2, "small", True), (1, "small", False), (2, "numerical", False)]
)
async def test_the_solver_works_beside_trained_models_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, model: str, beside: bool
) -> None:
    monkeypatch.setattr("ups_server.engine.local.available_cores", lambda: cores)
    settings = Settings(default_model="persistence", data_dir=tmp_path, device="cpu", threads=1)
    assert LocalEngine(settings, Catalog(tmp_path)).beside(model) is beside
