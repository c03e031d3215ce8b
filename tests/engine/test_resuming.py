"""Durable rollouts: another engine process goes on from a kept place to the same bits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_models import SMALL, card, make
from ups_server.engine.engine import RolloutSpec
from ups_server.engine.scheduler import Scheduler, StepLimits
from ups_server.pde import Grid, family
from ups_server.solvers.classical import BUILTIN
from ups_server.solvers.neural import UPSSolver
from ups_server.solvers.registry import ModelCache
from ups_server.solvers.solver import Frames, Problem, Solver

STEPS, SAVE_EVERY = 9, 2


@pytest.fixture(scope="module")
def language(language_model: Path) -> Path:
    return language_model


def trained(language: Path, refresh: int) -> Solver:
    return UPSSolver(make(SMALL.changed(families={"burgers": card()}, refresh=refresh), language))


class Process:
    """The scheduler of an engine process: what it sent for one durable rollout, by step."""

    def __init__(self, solver: Solver, rows: int = 8) -> None:
        self.frames: dict[int, list[Frames]] = {}
        self.ends: list[str] = []
        models = ModelCache(lambda model: solver, 1, lambda model, here: None, lambda model: 0)
        self.scheduler = Scheduler(models, self.send, StepLimits(rows=rows, memory=2**30))

    def send(self, header: dict[str, Any], arrays: Sequence[Frames]) -> None:
        if header["op"] == "frame":
            self.frames[header["step"]] = [array.copy() for array in arrays]
        elif header["op"] in ("end", "problem"):
            self.ends.append(header["op"])

    def run(self, problem: Problem, given: list[Frames], step: int = 0, turns: int = 1000) -> None:
        spec = RolloutSpec("model", problem, STEPS, SAVE_EVERY, deterministic=True, durable=True)
        header = {"op": "rollout", "id": 1, "spec": spec.as_json(), "window": 2, "step": step, "ended": []}
        self.scheduler.handle(header, given)
        self.scheduler.handle({"op": "more", "id": 1, "frames": 100}, [])
        while turns and self.scheduler.step():
            turns -= 1


def check_resumed(solver: Solver, problem: Problem, initial: Frames, rows: int = 8, reach: int = 4) -> None:
    whole, killed, again = (Process(solver, rows) for _ in range(3))
    whole.run(problem, [initial])
    parts = -(-len(initial) // rows)
    killed.run(problem, [initial], turns=(reach + 1) * parts)
    assert max(killed.frames) == reach
    _, saved = killed.frames[reach]
    again.run(problem, [initial, saved], step=reach)
    assert again.ends == whole.ends == ["end"]
    assert sorted(again.frames) == [step for step in whole.frames if step > reach]
    for step, (values, place) in again.frames.items():
        np.testing.assert_array_equal(values, whole.frames[step][0])
        np.testing.assert_array_equal(place.view(np.int32), whole.frames[step][1].view(np.int32))


def initial_states(name: str, count: int, n: int = 16) -> tuple[Problem, Frames]:
    entry = family(name)
    grid = Grid((n,) * entry.ndim, entry.extent)
    states = entry.sample_initial(np.random.default_rng(5), count, grid).astype(np.float32)
    return Problem(name, entry.complete({}), grid, entry.boundary, 0.05), states


@pytest.mark.parametrize("refresh", [0, 1, 3])
@pytest.mark.parametrize("rows", [2, 8])
def test_a_trained_model_goes_on(language: Path, refresh: int, rows: int) -> None:
    check_resumed(trained(language, refresh), *initial_states("burgers", 5), rows=rows)


@pytest.mark.parametrize("model", sorted(BUILTIN))
@pytest.mark.parametrize("name", ["burgers", "shallow_water"])
def test_a_built_in_solver_goes_on(model: str, name: str) -> None:
    check_resumed(BUILTIN[model](), *initial_states(name, 2))


def test_what_cannot_go_on_says_so() -> None:
    class Fixed:
        name = "fixed"

        def dt(self, family: str) -> float:
            return 0.05

        def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> "Fixed":
            return self

        def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> None:
            return None

        def step(self) -> Frames:
            return np.zeros((2, 16, 1), dtype=np.float32)

    process = Process(Fixed())
    process.run(*_listed(initial_states("burgers", 2)))
    assert process.ends == ["problem"]


def _listed(problem: tuple[Problem, Frames]) -> tuple[Problem, list[Frames]]:
    return problem[0], [problem[1]]
