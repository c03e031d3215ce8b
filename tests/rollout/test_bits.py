"""A deterministic rollout has one set of bits: resumed at any step after a kill, after a cancel, in a new engine."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_models import SMALL, card_of, make
from ups_server.catalog import shipped_folder
from ups_server.engine.engine import RolloutSpec
from ups_server.engine.scheduler import Scheduler, StepLimits
from ups_server.model.checkpoint import save_pretrained
from ups_server.pde import Grid, families, family
from ups_server.solvers.limits import Ended, StateLimit
from ups_server.solvers.registry import ModelCache, load
from ups_server.solvers.solver import Frames, Problem, Solver

STEPS, POINTS = 6, 16
FAMILIES = sorted(name for name, entry in families().items() if entry.t_final > 0)
SHIPPED = shipped_folder() / "ups-mini"
KNOWN = sorted(json.loads((SHIPPED / "config.json").read_text())["families"])

Kept = dict[int, tuple[bytes, bytes]]
"""By step: the bits of the frame, and of what going on from it takes."""


class EngineProcess:
    """The scheduler of an engine process and what it sends of each rollout."""

    def __init__(self, solver: Solver, rows: int) -> None:
        self.kept: dict[int, Kept] = {}
        self.saved: dict[int, Frames] = {}
        self.ended: list[Ended] = []
        self.others = 100
        models = ModelCache(lambda model: solver, 1, lambda model, here: None, lambda model: 0)
        self.scheduler = Scheduler(models, self.send, StepLimits(rows=rows, memory=2**40))

    def send(self, header: dict[str, Any], arrays: Sequence[Frames]) -> None:
        assert header["op"] != "problem", header
        if header["op"] == "frame" and header["id"] == 1:
            values, saved = arrays
            self.kept.setdefault(1, {})[header["step"]] = (values.tobytes(), saved.tobytes())
            self.saved[header["step"]] = saved.copy()
        elif header["op"] == "ended":
            self.ended.append(Ended.from_json(header["states_ended"]))

    def start(
        self, problem: Problem, given: list[Frames], step: int = 0, limits: tuple[StateLimit, ...] = (),
        ended: Sequence[int] = (),
    ) -> None:  # fmt: skip
        spec = RolloutSpec("model", problem, STEPS, deterministic=True, durable=True, limits=limits).as_json()
        arrays = [*given, self.saved[step]] if step else given
        header = {"op": "rollout", "id": 1, "spec": spec, "window": 1000, "step": step, "ended": list(ended)}
        self.scheduler.handle(header, list(arrays))

    def company(self, problem: Problem, given: list[Frames]) -> None:
        """Another rollout of the same problem, which does not ask to be alone."""
        self.others += 1
        spec = RolloutSpec("model", problem, STEPS).as_json()
        self.scheduler.handle({"op": "rollout", "id": self.others, "spec": spec, "window": 1000}, list(given))

    def run(self, until: int = STEPS) -> Kept:
        while until not in self.kept.get(1, {}) and self.scheduler.step():
            pass
        return self.kept.get(1, {})


def started(name: str, dt: float, count: int = 3) -> tuple[Problem, list[Frames]]:
    """A problem of a family on a small grid, and `count` of its initial states, with static fields where it has any."""
    entry = family(name)
    grid = Grid((POINTS,) * entry.ndim, entry.extent)
    rng = np.random.default_rng(7)
    given = [entry.sample_initial(rng, count, grid), entry.sample_static(rng, count, grid)]
    problem = Problem(name, entry.complete({}), grid, entry.boundary, dt)
    return problem, [array.astype(np.float32) for array in given if array is not None]


def check_bits(solver: Solver, fresh: Solver, name: str, rows: int) -> None:
    problem, given = started(name, solver.dt(name))
    whole = EngineProcess(solver, rows)
    whole.start(problem, given)
    expected = whole.run()
    assert sorted(expected) == list(range(1, STEPS + 1))
    for step in range(1, STEPS):
        resumed = EngineProcess(fresh if step % 2 else solver, rows)
        resumed.saved = whole.saved
        resumed.start(problem, given, step)
        assert resumed.run() == {later: bits for later, bits in expected.items() if later > step}, step
    cancelled = EngineProcess(fresh, rows)
    cancelled.company(problem, given)
    cancelled.start(problem, given)
    first = dict(cancelled.run(until=3))
    cancelled.scheduler.handle({"op": "cancel", "id": 1}, [])
    cancelled.company(problem, given)
    cancelled.start(problem, given, step=3)
    assert first | cancelled.run() == expected


@pytest.fixture(scope="module")
def small(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Solver, Solver]:
    """The same model twice, loaded from its folder as two engines do."""
    folder = tmp_path_factory.mktemp("small")
    cards = {name: card_of(family(name)) for name in FAMILIES}
    save_pretrained(make(SMALL.changed(families=cards), language_model), folder)
    return load(folder, device="cpu"), load(folder, device="cpu")


@pytest.mark.parametrize("rows", [2, 8])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_way_to_the_end_gives_the_same_bits(small: tuple[Solver, Solver], name: str, rows: int) -> None:
    """With rows = 2 the three states are cut into two parts."""
    check_bits(*small, name, rows)


@pytest.mark.parametrize("rows", [1, 8])
def test_a_state_that_has_ended_stays_so_after_a_kill(small: tuple[Solver, Solver], rows: int) -> None:
    """Its numbers may still be within its limits: that it ended is part of the place a rollout has come to."""
    solver, fresh = small
    problem, given = started("burgers", solver.dt("burgers"))
    free = EngineProcess(solver, rows)
    free.start(problem, given)
    frames = [np.frombuffer(free.run()[step][0], np.float32).reshape(given[0].shape) for step in range(1, STEPS + 1)]
    largest = np.stack([frame.max((1, 2)) for frame in frames])
    reached = float(largest[1, 1]) - 1e-3  # the second state is beyond it after two steps, if not after one
    limits = (StateLimit(0, "greatest", (1e9, reached, 1e9), "outside_bounds", "so much"),)
    whole = EngineProcess(solver, rows)
    whole.start(problem, given, limits=limits)
    expected = whole.run()
    (ended,) = whole.ended
    assert ended.states == (1,)
    assert ended.step <= 2
    last = np.frombuffer(expected[STEPS][0], np.float32).reshape(given[0].shape)
    np.testing.assert_array_equal(last[[0, 2]], frames[-1][[0, 2]])
    assert np.isnan(last[1]).all()
    for step in range(3, STEPS):
        resumed = EngineProcess(fresh, rows)
        resumed.saved = whole.saved
        resumed.start(problem, given, step, limits, ended=[1])
        found = resumed.run()
        assert {later: bits[0] for later, bits in found.items()} == {
            later: bits[0] for later, bits in expected.items() if later > step
        }
        assert not resumed.ended


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_numerical_solvers_too(name: str) -> None:
    check_bits(load("numerical"), load("numerical"), name, 8)


@pytest.fixture(scope="module")
def shipped() -> tuple[Solver, Solver]:
    return load(SHIPPED, device="cpu"), load(SHIPPED, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_the_shipped_model_too(shipped: tuple[Solver, Solver], name: str) -> None:
    check_bits(*shipped, name, 8)
