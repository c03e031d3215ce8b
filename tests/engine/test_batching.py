"""Continuous batching of a trained model: rollouts of other families and lengths share steps and change nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from tests.small_models import SMALL, card, make
from ups_server.engine.engine import RolloutSpec
from ups_server.engine.scheduler import Scheduler, StepLimits
from ups_server.model.conditioning import Conditions
from ups_server.model.config import KnownFamily
from ups_server.model.context import Context
from ups_server.pde import BoundaryCondition, Grid, family
from ups_server.solvers.neural import UPSSolver
from ups_server.solvers.registry import ModelCache
from ups_server.solvers.solver import BatchedSession, Frames, Problem, Solver, rollout

STEPS = 50
FAMILIES: dict[str, tuple[KnownFamily, dict[str, float]]] = {
    "burgers": (card(), {"nu": 0.02}),
    "advection": (card("1D Advection Equation").model_copy(update={"symbols": {"beta": "Beta"}}), {"beta": 0.4}),
    "diffusion_sorption": (card("1D Diffusion-Sorption Equation").model_copy(update={"symbols": {}}), {}),
    "shallow_water": (card("2D Shallow Water", ndim=2, slots=(2,)).model_copy(update={"symbols": {}}), {}),
    "incompressible_ns_2d": (
        card("2D Incompressible", ndim=2, slots=(0, 1, 2)).model_copy(
            update={"symbols": {}, "static_fields": ("force_x", "force_y"), "solenoidal": True}
        ),
        {},
    ),
}


def statics(entry: KnownFamily) -> KnownFamily:
    count = len(entry.static_fields)
    changed = entry.statistics.model_copy(update={"static_mean": (0.0,) * count, "static_std": (1.0,) * count})
    return entry.model_copy(update={"statistics": changed})


@pytest.fixture(scope="module")
def solver(language_model: Path) -> UPSSolver:
    cards = {name: statics(entry) for name, (entry, _) in FAMILIES.items()}
    return UPSSolver(make(SMALL.changed(families=cards), language_model))


def problem(name: str, n: int = 16, boundary: BoundaryCondition | None = None) -> Problem:
    equation, values = family(name), FAMILIES[name][1]
    grid = Grid((n,) * equation.ndim, equation.extent)
    return Problem(name, values, grid, boundary or equation.boundary, 0.05)


def states(name: str, count: int, n: int = 16, seed: int = 0) -> list[Frames]:
    """Initial states, and static fields where the family has them."""
    entry = FAMILIES[name][0]
    rng = np.random.default_rng(seed)
    shapes = [(count, *(n,) * entry.ndim, width) for width in (len(entry.fields), len(entry.static_fields)) if width]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


class Wire:
    """A scheduler of one model, and the frames it sent, by rollout."""

    def __init__(self, solver: Solver, **limits: int) -> None:
        self.frames: dict[int, list[Frames]] = {}
        self.sent: list[dict[str, Any]] = []
        models = ModelCache(lambda model: solver, 1, lambda model, here: None, lambda model: 0)
        self.scheduler = Scheduler(models, self.send, StepLimits(**{"rows": 8, "memory": 2**30, **limits}))

    def send(self, header: dict[str, Any], arrays: Sequence[Frames]) -> None:
        self.sent.append(header)
        for array in arrays:
            self.frames.setdefault(header["id"], []).append(array.copy())

    def start(self, rollout_id: int, todo: Problem, given: list[Frames], n_steps: int, **spec: Any) -> None:
        document = RolloutSpec("model", todo, n_steps, **spec).as_json()
        self.scheduler.handle({"op": "rollout", "id": rollout_id, "spec": document, "window": 1000}, given)

    def run(self) -> None:
        while self.scheduler.step():
            pass

    def codes(self) -> list[str]:
        return [header["problem"]["code"] for header in self.sent if header["op"] == "problem"]


def alone(solver: UPSSolver, todo: Problem, given: list[Frames], n_steps: int) -> list[Frames]:
    return list(rollout(solver.session(todo, *given), n_steps))


def same(got: list[Frames], expected: list[Frames]) -> None:
    assert len(got) == len(expected)
    scale = max(float(np.abs(frame).max()) for frame in expected)
    np.testing.assert_allclose(np.stack(got), np.stack(expected), rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("ahead", [0, 1])
def test_batched_is_single_on_every_family(solver: UPSSolver, ahead: int) -> None:
    wire = Wire(solver, ahead=ahead)
    names = [name for name in FAMILIES for _ in range(2)]
    given = [states(name, 1 + number % 2, seed=number) for number, name in enumerate(names)]
    lengths = [STEPS - 7 * (number % 3) for number in range(len(names))]
    for number, name in enumerate(names):
        wire.start(number, problem(name), given[number], lengths[number])
        wire.scheduler.step()  # they join at different steps
    wire.run()
    for number, name in enumerate(names):
        same(wire.frames[number], alone(solver, problem(name), given[number], lengths[number]))


def test_those_that_come_together_are_read_in_one_pass_a_family(
    solver: UPSSolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = list[tuple[str, ...]]()
    read = solver.model.read

    def counted(initial: Tensor, given: Conditions) -> Context:
        passes.append(given.names)
        return read(initial, given)

    monkeypatch.setattr(solver.model, "read", counted)
    wire, names = Wire(solver), ["burgers", "advection", "burgers", "incompressible_ns_2d", "incompressible_ns_2d"]
    given = [states(name, 1 + number, seed=number) for number, name in enumerate(names)]
    for number, name in enumerate(names):
        wire.start(number, problem(name), given[number], 6)
    wire.run()
    burgers, advection, incompressible = (FAMILIES[name][0].name for name in (names[0], names[1], names[3]))
    # Rows: 1 + 3 of Burgers beside 2 of advection; 4 + 5 of the plane are more than the 8 of a batch.
    assert passes == [(burgers,) * 4, (advection,) * 2, (incompressible,) * 4, (incompressible,) * 5]
    monkeypatch.undo()
    for number, name in enumerate(names):
        same(wire.frames[number], alone(solver, problem(name), given[number], 6))


def test_families_of_one_boundary_share_a_batch(solver: UPSSolver) -> None:
    first, second = (solver.session(problem(name), *states(name, 1)) for name in ("burgers", "advection"))
    other = solver.session(problem("diffusion_sorption"), *states("diffusion_sorption", 1))
    finer = solver.session(problem("burgers", 32), *states("burgers", 1, 32))
    assert first.bucket == second.bucket
    assert len({first.bucket, other.bucket, finer.bucket}) == 3


def test_a_deterministic_rollout_is_the_same_to_the_bit_in_any_company(solver: UPSSolver) -> None:
    results = []
    for company in (0, 5):
        wire = Wire(solver)
        for number in range(company):
            wire.start(1 + number, problem("advection"), states("advection", 1, seed=number), 30)
        wire.start(0, problem("burgers"), states("burgers", 1), 20, deterministic=True)
        wire.run()
        results.append(np.stack(wire.frames[0]))
    np.testing.assert_array_equal(results[0], results[1])


def test_a_large_batch_of_states_is_cut_and_put_together(solver: UPSSolver) -> None:
    wire, given = Wire(solver, rows=4), states("burgers", 11)
    wire.start(0, problem("burgers"), given, 6, save_every=2)
    wire.run()
    same(wire.frames[0], alone(solver, problem("burgers"), given, 6)[1::2])


@pytest.mark.parametrize("broken", [[4], [4, 5], [0, 2, 4, 5]])
@pytest.mark.parametrize("rows", [2, 8])
def test_states_that_blow_up_end_and_change_no_other(solver: UPSSolver, rows: int, broken: list[int]) -> None:
    """Also where all states of a part end; `rows` = 2 cuts the six states into three parts."""
    given = states("burgers", 6)
    fine = [state for state in range(6) if state not in broken]
    expected = alone(solver, problem("burgers"), [given[0][fine]], 9)
    given[0][broken] = 3e38 * np.where(np.arange(16) % 2, 1, -1)[:, None]
    wire = Wire(solver, rows=rows)
    wire.start(0, problem("burgers"), given, 9)
    wire.run()
    ended = [header["states_ended"] for header in wire.sent if header["op"] == "ended"]
    assert sorted(state for event in ended for state in event["states"]) == broken
    assert wire.sent[-1]["op"] == "end"
    frames = np.stack(wire.frames[0])
    assert frames.shape == (9, 6, 16, 1)
    same(list(frames[:, fine]), expected)
    for event in ended:
        assert np.isnan(frames[event["step"] - 1 :, list(event["states"])]).all()
        assert np.isfinite(frames[: event["step"] - 1, list(event["states"])]).all()


def test_a_short_rollout_does_not_wait_for_long_ones(solver: UPSSolver) -> None:
    wire = Wire(solver, rows=4)
    for number in range(1, 17):
        wire.start(number, problem("advection"), states("advection", 1), 1000)
    for _ in range(20):
        wire.scheduler.step()
    wire.start(0, problem("burgers"), states("burgers", 1), 1)
    turns = 0
    while 0 not in wire.frames:
        wire.scheduler.step()
        turns += 1
    assert turns <= 3


def test_long_rollouts_have_two_of_three_turns_beside_a_crowd_of_short_ones(solver: UPSSolver) -> None:
    wire = Wire(solver, rows=4)
    for number in range(4):
        wire.start(number, problem("advection"), states("advection", 1), 1000)
    wire.scheduler.step()
    for turn in range(60):
        for number in range(4):
            wire.start(100 + 4 * turn + number, problem("burgers"), states("burgers", 1), 1)
        wire.scheduler.step()
    assert [len(wire.frames[number]) for number in range(4)] == [41] * 4
    answered = [number for number in wire.frames if number >= 100]
    assert answered == list(range(100, 180)), "four in every third turn, in the order in which they came"


def test_a_first_step_is_made_beside_the_full_batch(solver: UPSSolver) -> None:
    wire, given = Wire(solver, rows=4), states("burgers", 1)
    for number in range(1, 5):
        wire.start(number, problem("advection"), states("advection", 1), 1000)
    for _ in range(7):
        wire.scheduler.step()
    wire.start(0, problem("burgers"), given, 3)
    before = wire.scheduler.work.rows
    wire.scheduler.step()
    assert wire.scheduler.work.rows - before == 1
    assert len(wire.frames[0]) == 1
    for _ in range(40):
        wire.scheduler.step()
    same(wire.frames[0], alone(solver, problem("burgers"), given, 3))
    same(wire.frames[4], alone(solver, problem("advection"), states("advection", 1), len(wire.frames[4])))


def test_long_rollouts_share_the_batch_by_turns(solver: UPSSolver) -> None:
    wire = Wire(solver, rows=2)
    for number in range(6):
        wire.start(number, problem("advection"), states("advection", 1), 1000)
    for _ in range(96):
        wire.scheduler.step()
    made = [len(wire.frames[number]) for number in range(6)]
    assert max(made) - min(made) <= 8
    assert sum(made) >= 96 * 2 - 6


def test_a_cancelled_rollout_frees_its_place_at_the_next_step(solver: UPSSolver) -> None:
    wire = Wire(solver, rows=1)
    wire.start(0, problem("advection"), states("advection", 1), 1000)
    wire.scheduler.step()
    wire.start(1, problem("advection"), states("advection", 1), 2)
    wire.scheduler.handle({"op": "cancel", "id": 0}, [])
    wire.scheduler.step()
    wire.scheduler.step()
    assert (len(wire.frames[0]), len(wire.frames[1])) == (1, 2)
    assert not wire.scheduler.step()


def test_a_grid_beyond_the_memory_is_refused(solver: UPSSolver) -> None:
    session = solver.session(problem("burgers"), *states("burgers", 1))
    assert isinstance(session, BatchedSession)
    wire = Wire(solver, memory=session.row_bytes - 1)
    wire.start(0, problem("burgers"), states("burgers", 1), 2)
    assert wire.codes() == ["grid_too_large"]


def test_one_that_fails_in_a_batch_fails_alone(solver: UPSSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = solver.model.forward

    def brittle(u: Any, context: Any) -> Any:
        if (u > 1e3).any():
            raise RuntimeError("broken")
        return forward(u, context)

    monkeypatch.setattr(solver.model, "forward", brittle)
    wire = Wire(solver)
    given = [states("advection", 1, seed=number) for number in range(3)]
    given[1][0][:] = 1e5
    for number in range(3):
        wire.start(number, problem("advection"), given[number], 5)
    wire.run()
    assert wire.codes() == ["internal_error"]
    assert [len(wire.frames.get(number, [])) for number in range(3)] == [5, 0, 5]
