"""The memory of the API process for requests: bounded by their size or shape, whatever they hold."""

import asyncio
import tracemalloc
from typing import Any

import numpy as np
import pytest

from tests.api.conftest import running_service, wait_until
from ups_server.api.memory import SMALL, Memory
from ups_server.errors import UserError
from ups_server.pde import Family, families
from ups_server.settings import Settings

MIB = 2**20


async def entered(memory: Memory, size: int, order: list[int], leave: asyncio.Event) -> None:
    async with memory.hold(size * MIB):
        order.append(size)
        await leave.wait()


async def until(order: list[int], wanted: list[int]) -> None:
    while order != wanted:
        await asyncio.sleep(0)


def test_what_does_not_fit_waits_in_line() -> None:
    async def scenario() -> None:
        memory, order, leave = Memory(10 * MIB, 60.0), list[int](), [asyncio.Event() for _ in range(4)]
        tasks = [asyncio.create_task(entered(memory, 6, order, leave[0]))]
        await until(order, [6])
        tasks.append(asyncio.create_task(entered(memory, 5, order, leave[1])))
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(entered(memory, 4, order, leave[2])))
        async with memory.hold(SMALL):
            assert order == [6], "4 would fit, but 5 came first; what is small waits for nobody"
        leave[0].set()
        await until(order, [6, 5, 4])
        assert memory.taken == 9 * MIB
        tasks.append(asyncio.create_task(entered(memory, 1000, order, leave[3])))
        leave[1].set()
        leave[2].set()
        await until(order, [6, 5, 4, 1000])
        assert memory.taken == 10 * MIB, "what needs more than there is has all of it"
        leave[3].set()
        await asyncio.gather(*tasks)
        assert memory.taken == 0

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_wait_ends_and_leaves_no_trace() -> None:
    async def scenario() -> None:
        memory, order, leave = Memory(10 * MIB, 0.05), list[int](), asyncio.Event()
        first = asyncio.create_task(entered(memory, 10, order, leave))
        await until(order, [10])
        with pytest.raises(UserError) as caught:
            await entered(memory, 1, order, leave)
        assert caught.value.code == "queue_full"
        waiting = asyncio.create_task(entered(memory, 1, order, leave))
        await asyncio.sleep(0)
        waiting.cancel()
        leave.set()
        await first
        await entered(memory, 2, order, leave)
        assert order == [10, 2]
        assert memory.taken == 0

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_more_is_held_at_once_or_not_at_all() -> None:
    async def scenario() -> None:
        memory = Memory(10 * MIB, 60.0)
        async with memory.hold(3 * MIB) as one, memory.hold(4 * MIB) as other:
            one.raise_to(6 * MIB)
            with pytest.raises(UserError) as caught:
                other.raise_to(5 * MIB)
            assert caught.value.code == "queue_full"
            one.raise_to(MIB)
            assert memory.taken == 10 * MIB
        assert memory.taken == 0

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize("equation", families().values(), ids=lambda entry: entry.id)
def test_drawing_takes_no_more_than_a_family_says(equation: Family) -> None:
    """Doubling the points doubles the memory: a small grid shows what a large one takes."""
    grid = equation.default_grid(2**16 if equation.ndim == 1 else 384)
    rng = np.random.default_rng(0)
    equation.sample_initial(rng, 1, equation.default_grid(16))
    tracemalloc.start()
    try:
        states = equation.sample_initial(rng, 1, grid)
        static = equation.sample_static(rng, 1, grid)
        kept = states.astype(np.float32), None if static is None else static.astype(np.float32)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= equation.sample_bytes * kept[0].size + MIB


def test_an_answer_waits_for_its_memory(settings: Settings) -> None:
    """While others hold it all, what is small is answered, and what is not is told to come again."""
    small = settings.model_copy(update={"queue_timeout_s": 0.5})
    request: dict[str, Any] = {"family": "advection", "grid": {"n": [1024]}, "initial_condition": {"sample": {}}}
    with running_service(small) as service:
        memory = service.answers
        binary = {"Accept": "application/vnd.safetensors"}
        memory.taken += memory.total
        try:
            assert service.post({**request, "n_steps": 2}, **binary).status_code == 200
            refused = service.post({**request, "n_steps": 100}, **binary)
            assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        finally:
            memory.taken -= memory.total
        assert service.post({**request, "n_steps": 100}, **binary).status_code == 200
        wait_until(lambda: memory.taken == 0, "the memory is given back")
