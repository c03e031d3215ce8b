"""Engines on CUDA, where there is one: rollouts as on the CPU within rounding, through processes of the service."""

from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
import torch

from ups_server.catalog import Catalog
from ups_server.engine.devices import engine_of
from ups_server.engine.engine import Frame, RolloutSpec
from ups_server.pde import family
from ups_server.settings import Settings
from ups_server.solvers.solver import Frames, Problem

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
STEPS = 5


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def rollout(name: str, catalog: Catalog) -> tuple[RolloutSpec, Frames]:
    equation = family(name)
    grid = equation.default_grid(64)
    initial = equation.sample_initial(np.random.default_rng(0), 2, grid).astype(np.float32)
    problem = Problem(name, equation.complete({}), grid, equation.boundary, equation.dt)
    return RolloutSpec(catalog.model("ups-mini").source, problem, STEPS), initial


async def states(folder: Path, name: str, **device: object) -> list[Frames]:
    """Those of every step, from an engine of its own."""
    catalog = Catalog(folder)
    engine = engine_of(Settings.model_validate({"data_dir": folder, "threads": 1, **device}), catalog)
    await engine.start()
    try:
        async with aclosing(engine.rollout(*rollout(name, catalog))) as events:
            return [event.values async for event in events if isinstance(event, Frame)]
    finally:
        await engine.close()


@pytest.mark.parametrize("name", ["burgers", "shallow_water"])
async def test_an_engine_on_cuda_computes_what_one_on_the_cpu_does(tmp_path: Path, name: str) -> None:
    expected = await states(tmp_path, name, device="cpu")
    found = await states(tmp_path, name, devices=("cuda:0",))
    assert len(found) == len(expected) == STEPS
    for one, other in zip(found, expected, strict=True):
        assert np.sqrt(np.mean((one - other) ** 2)) < 1e-3 * np.sqrt(np.mean(other**2))
