"""Persistence stays, the reference method advances; both through the interface that models share."""

from collections.abc import Mapping

import numpy as np
import pytest

from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, Family, Field, Grid, family
from ups_server.pde.grid import Array
from ups_server.pde.solution import Exact, Solution
from ups_server.solvers import classical
from ups_server.solvers.classical import Numerical, Persistence
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Frames, Problem, rollout


class Pendulum(Family):
    """u_tt = -u at every point, u_t = 0 at the start: the velocity is part of the state and not a field."""

    id = "pendulum"
    name = "Pendulum"
    equation = "u_tt = -u"
    fields = (Field("u", slot=0),)
    extent = ((0.0, 1.0),)
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
    dt = 0.5
    frame_dt = 0.5
    t_final = 5.0
    n = 8
    full_state = False

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return rng.normal(size=(count, *grid.n, 1))

    def begin(
        self, initial: Array, grid: Grid, coefficients: Mapping[str, Array], static: Array | None = None
    ) -> Solution:
        return Exact(initial, lambda elapsed: initial * np.cos(elapsed))


def advection(count: int, n: int = 64, dt: float = 0.05) -> tuple[Problem, Frames]:
    """A problem with a speed of its own for every state, and smooth states."""
    grid = Grid((n,), ((0.0, 1.0),))
    x = grid.axes[0]
    states = np.stack([np.sin(2 * np.pi * (x - row / 7)) + 0.3 * np.cos(6 * np.pi * x) for row in range(count)])
    speeds = np.linspace(0.2, 1.4, count).tolist()
    boundary = family("advection").boundary
    return Problem("advection", {"beta": speeds}, grid, boundary, dt), states[..., None].astype(np.float32)


def exact(problem: Problem, states: Frames, n_steps: int) -> Array:
    speeds = problem.coefficient_arrays(len(states))
    times = np.arange(n_steps + 1, dtype=np.float64) * problem.dt
    return family(problem.family).solve(states.astype(np.float64), times, problem.grid, speeds)


def unrolled(solver: Numerical | Persistence, problem: Problem, states: Frames, n_steps: int) -> Frames:
    return np.stack(list(rollout(solver.session(problem, states), n_steps)), axis=1)


def test_persistence_repeats() -> None:
    problem, states = advection(3)
    assert (unrolled(Persistence(), problem, states, 4) == states[:, None]).all()
    truth = exact(problem, states, 5).astype(np.float32)
    np.testing.assert_array_equal(Persistence().one_step(problem, truth), truth[:, :-1])


def test_numerical_rollout_is_the_reference_solution() -> None:
    problem, states = advection(3)
    truth = exact(problem, states, 6)
    np.testing.assert_allclose(unrolled(Numerical(), problem, states, 6), truth[:, 1:], atol=1e-6)


def test_numerical_rollout_carries_its_state_in_double_precision() -> None:
    """After one period the shift is the identity: 400 steps of float32 rounding would show, float64 does not."""
    problem, states = advection(1, dt=1 / 80)
    last = unrolled(Numerical(), problem, states, 400)[:, -1]
    np.testing.assert_array_equal(last, states)


@pytest.mark.parametrize("chunk", [1, 64 * 3 * 2, 2**22])
def test_numerical_one_step_starts_from_every_frame(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "CHUNK_VALUES", chunk)
    problem, states = advection(3)
    truth = exact(problem, states, 5).astype(np.float32)
    truth[1, 2] += 0.5
    predicted = Numerical().one_step(problem, truth)
    assert predicted is not None
    assert predicted.dtype == np.float32
    speeds = problem.coefficient_arrays(3)
    for step in range(5):
        given = truth[:, step].astype(np.float64)
        after = family("advection").solve(given, np.array([0.0, 0.05]), problem.grid, speeds)[:, 1]
        np.testing.assert_allclose(predicted[:, step], after, atol=1e-6)


def test_hidden_state_survives_a_rollout_and_has_no_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "family", lambda _: Pendulum())
    grid = Grid((8,), Pendulum.extent)
    problem = Problem("pendulum", {}, grid, Pendulum.boundary, 0.5)
    states = np.ones((2, 8, 1), dtype=np.float32)
    predicted = unrolled(Numerical(), problem, states, 9)
    np.testing.assert_allclose(predicted[1, :, 3, 0], np.cos(0.5 * np.arange(1, 10)), atol=1e-6)
    assert Numerical().one_step(problem, np.ones((2, 4, 8, 1), dtype=np.float32)) is None


@pytest.mark.parametrize("dt", [0.0, -0.1, np.nan, np.inf])
def test_steps_go_forward(dt: float) -> None:
    problem, states = advection(1, dt=dt)
    with pytest.raises(UserError) as caught:
        Numerical().session(problem, states)
    assert caught.value.code == "invalid_dt"


@pytest.mark.parametrize("name", ["persistence", "numerical"])
def test_built_in_solvers_load_by_name(name: str) -> None:
    solver = load(name)
    assert solver.name == name
    assert solver.dt("advection") == 0.05
    with pytest.raises(UserError) as caught:
        solver.dt("cheese")
    assert caught.value.code == "unknown_family"


@pytest.mark.parametrize("model", ["no-such-model", "../no/such/folder"])
def test_unknown_models_are_the_users_mistake(model: str) -> None:
    with pytest.raises(UserError) as caught:
        load(model)
    assert caught.value.code == "unknown_model"
