"""Several engines behind one: which gets a rollout, what the death of one takes with it, where their processes run."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.engine.test_local import spec
from tests.quiet_engine import QuietEngine
from ups_server.catalog import Catalog
from ups_server.engine.devices import LOADING_S, POINT_STEPS_PER_S, DeviceEngines, Estimates, engine_of
from ups_server.engine.engine import Event, Finished, Frame, Health, RolloutSpec, Standing, Started, engine_unavailable
from ups_server.engine.local import LocalEngine
from ups_server.errors import UserError
from ups_server.settings import Settings
from ups_server.solvers.solver import Frames

pytestmark = pytest.mark.anyio

CORES = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else []
two_cores = pytest.mark.skipif(len(CORES) < 2, reason="two cores to keep engines on")
MODEL = "/models/one"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Played(QuietEngine):
    """An engine whose steps a test allows one by one; it takes so many rollouts."""

    def __init__(self, places: int = 100) -> None:
        self.allowed = asyncio.Semaphore(0)
        self.seconds = 1.0
        self.here: list[RolloutSpec] = []
        self.state = "ready"
        self.models: tuple[str, ...] = (MODEL,)
        self._places = places

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
    ) -> AsyncGenerator[Event]:
        if len(self.here) >= self._places:
            raise UserError("queue_full", "every place is taken and the queue is full")
        self.here.append(spec)
        try:
            yield Started()
            for step in range(standing.step + 1 if standing else 1, spec.n_steps + 1):
                await self.allowed.acquire()
                if self.state == "down":
                    raise engine_unavailable("the engine stopped in the middle of this rollout")
                yield Frame(step, initial)
            yield Finished(self.seconds)
        finally:
            self.here.remove(spec)

    def health(self) -> Health:
        reason = None if self.state == "ready" else "it was told so"
        return Health(self.state, reason, models=self.models, restarts=1, active=len(self.here))


class Opened:
    """Rollouts that have begun, and the engine of each."""

    def __init__(self, *engines: Played) -> None:
        self.engines = engines
        self.all = DeviceEngines({f"cpu:{number}": engine for number, engine in enumerate(engines)}, 60.0)
        self._open: list[AsyncGenerator[Event]] = []

    async def begin(self, n_steps: int, n: int = 16, standing: Standing | None = None, model: str = MODEL) -> int:
        """The number of the engine that took it."""
        before = [len(engine.here) for engine in self.engines]
        todo, initial = spec(n_steps, n, model)
        running = self.all.rollout(todo, initial, None, standing)
        self._open.append(running)
        assert isinstance(await anext(running), Started)
        (number,) = (k for k, engine in enumerate(self.engines) if len(engine.here) > before[k])
        return number

    async def frame(self, which: int) -> Event:
        """The next event of the so many-th rollout."""
        running = self._open[which]
        for engine in self.engines:
            engine.allowed.release()
        event = await anext(running)
        for engine in self.engines:
            if not engine.allowed.locked():
                await engine.allowed.acquire()
        return event

    def loads(self) -> list[float]:
        return [device.seconds_left or 0.0 for device in self.all.health().devices]

    async def close(self) -> None:
        for running in self._open:
            await running.aclose()


async def test_equal_rollouts_are_shared_out() -> None:
    opened = Opened(Played(), Played())
    taken = [await opened.begin(100) for _ in range(16)]
    assert taken == 8 * [0, 1]
    await opened.close()
    assert opened.loads() == [0.0, 0.0]


async def test_a_rollout_goes_where_the_least_is_left_and_frames_take_their_part_away() -> None:
    opened = Opened(Played(), Played())
    assert [await opened.begin(100), await opened.begin(40)] == [0, 1]
    step_s = 16 / POINT_STEPS_PER_S
    assert opened.loads() == pytest.approx([100 * step_s, 40 * step_s])
    assert [await opened.begin(50) for _ in range(2)] == [1, 1], "90 and 140 are left there, and 100 at the other"
    assert await opened.begin(10) == 0
    for step in range(1, 101):
        event = await opened.frame(0)
        assert isinstance(event, Frame)
        assert event.step == step
        assert opened.loads()[0] == pytest.approx((110 - step) * step_s)
    resumed = Standing(90, spec(100)[1])
    assert await opened.begin(100, standing=resumed) == 0, "ten of its steps are still to come"
    assert opened.loads()[0] == pytest.approx(20 * step_s)
    await opened.close()


async def test_estimates_follow_what_was_measured() -> None:
    estimates, (todo, _) = Estimates(), spec(10, 32, MODEL)
    assert estimates.step_seconds(todo, 2) == pytest.approx(64 / POINT_STEPS_PER_S)
    estimates.learn(todo, 2, 10, 5.0)
    assert estimates.step_seconds(todo, 2) == pytest.approx(0.5)
    assert estimates.step_seconds(replace(todo, n_steps=1), 1) == pytest.approx(0.25)
    for _ in range(40):
        estimates.learn(todo, 2, 10, 1.0)
    assert estimates.step_seconds(todo, 2) == pytest.approx(0.1, rel=1e-2)
    other = spec(10, 32, "/models/two")[0]
    assert estimates.step_seconds(other, 2) == pytest.approx(64 / POINT_STEPS_PER_S)
    numerical = spec(10, 32)[0]
    estimates.learn(numerical, 1, 10, 1e6)
    assert estimates.step_seconds(numerical, 1) < 1.0, "of the solver it is known before"


async def test_dispatch_learns_from_rollouts_that_end() -> None:
    opened = Opened(Played())
    opened.engines[0].seconds = 30.0
    await opened.begin(3)
    assert [type(await opened.frame(0)) for _ in range(4)] == [Frame, Frame, Frame, Finished]
    await opened.close()
    await opened.begin(5)
    assert opened.loads() == pytest.approx([50.0])
    await opened.close()


async def test_a_model_that_is_loaded_is_preferred_to_one_that_is_not() -> None:
    opened = Opened(Played(), Played())
    opened.engines[0].models = ()
    steps = int(LOADING_S * POINT_STEPS_PER_S / 16 / 2.5)
    assert [await opened.begin(steps) for _ in range(4)] == [1, 1, 1, 0]
    assert await opened.begin(1, model="numerical") == 0, "a built-in solver has nothing to load"
    await opened.close()


async def test_an_engine_that_is_down_gets_nothing_and_takes_its_own_only() -> None:
    opened = Opened(Played(), Played())
    assert [await opened.begin(10), await opened.begin(10)] == [0, 1]
    opened.engines[0].state = "down"
    with pytest.raises(UserError) as caught:
        await opened.frame(0)
    assert caught.value.code == "engine_unavailable"
    assert isinstance(await opened.frame(1), Frame)
    assert [await opened.begin(10) for _ in range(3)] == [1, 1, 1]
    health = opened.all.health()
    assert (health.state, health.active, health.restarts) == ("ready", 4, 2)
    assert [device.state for device in health.devices] == ["down", "ready"]
    assert health.reason == "cpu:0: it was told so"
    opened.engines[1].state = "loading"
    assert opened.all.health().state == "loading"
    await opened.close()


async def test_a_full_engine_passes_on() -> None:
    opened = Opened(Played(places=1), Played(places=3))
    assert [await opened.begin(1000), await opened.begin(2000)] == [0, 1]
    assert [await opened.begin(1) for _ in range(2)] == [1, 1], "less is left at the first, which is full"
    with pytest.raises(UserError) as caught:
        await opened.begin(1)
    assert caught.value.code == "queue_full"
    await opened.close()
    assert opened.loads() == [0.0, 0.0]
    assert not opened.all.uses(MODEL)


async def test_one_device_needs_no_dispatch(tmp_path: Path) -> None:
    assert type(engine_of(Settings(data_dir=tmp_path), Catalog(tmp_path))) is LocalEngine


@asynccontextmanager
async def pinned(folder: Path) -> AsyncIterator[DeviceEngines]:
    """Two engines, each on a core of its own."""
    settings = Settings(default_model="persistence", data_dir=folder, devices=tuple(f"cpu:{core}" for core in CORES))
    engine = engine_of(settings, Catalog(folder))
    assert isinstance(engine, DeviceEngines)
    await engine.start()
    try:
        async with asyncio.timeout(120):
            while any(device.state != "ready" for device in engine.health().devices):
                await asyncio.sleep(0.02)
        yield engine
    finally:
        await engine.close()


@two_cores
async def test_every_thread_of_an_engine_stays_on_its_core(tmp_path: Path) -> None:
    async with pinned(tmp_path) as engine:
        for core, device in zip(CORES, engine.health().devices, strict=True):
            assert device.device == f"cpu:{core}"
            assert device.process_id is not None
            for thread in psutil.Process(device.process_id).threads():
                assert os.sched_getaffinity(thread.id) == {core}


@two_cores
async def test_a_killed_engine_takes_its_own_rollouts_with_it(tmp_path: Path) -> None:
    async with pinned(tmp_path) as engine:
        running = [engine.rollout(*spec(10**6)) for _ in CORES]
        for events in running:
            assert isinstance(await anext(events), Started)
        first, second = engine.health().devices
        assert [first.active, second.active] == [1, 1]
        assert first.process_id is not None
        os.kill(first.process_id, signal.SIGKILL)
        with pytest.raises(UserError) as caught:
            async for _ in running[0]:
                pass
        assert caught.value.code == "engine_unavailable"
        async with aclosing(engine.rollout(*spec(5))) as events:
            assert len([event async for event in events if isinstance(event, Frame)]) == 5
        for _ in range(100):
            assert isinstance(await anext(running[1]), Frame)
        async with asyncio.timeout(60):
            while [device.restarts for device in engine.health().devices] != [1, 0]:
                await asyncio.sleep(0.02)
        assert engine.health().devices[1].process_id == second.process_id
        await running[1].aclose()


@two_cores
async def test_the_same_bits_at_the_other_engine(tmp_path: Path) -> None:
    """A rollout that was kept goes on elsewhere, as if nothing had happened."""
    async with pinned(tmp_path) as engine:
        todo, initial = spec(30)
        durable = replace(todo, durable=True, deterministic=True)
        whole = [event async for event in engine.rollout(durable, initial) if isinstance(event, Frame)]
        other = engine.rollout(*spec(10**6))
        await anext(other)  # so that the rest goes to the other one
        busy = [device.active for device in engine.health().devices].index(1)
        saved = whole[11].saved
        assert saved is not None
        rest = engine.rollout(durable, initial, None, Standing(12, saved))
        assert isinstance(await anext(rest), Started)
        assert engine.health().devices[1 - busy].active == 1
        resumed = [event async for event in rest if isinstance(event, Frame)]
        assert [frame.step for frame in resumed] == list(range(13, 31))
        for frame, expected in zip(resumed, whole[12:], strict=True):
            np.testing.assert_array_equal(frame.values.view(np.int32), expected.values.view(np.int32))
        await other.aclose()
