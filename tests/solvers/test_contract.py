"""What every solver that needs no training promises, those of plug-ins included."""

import numpy as np
import pytest

from ups_server.catalog import builtin_solvers
from ups_server.pde import family
from ups_server.solvers.registry import load, untrained_solvers
from ups_server.solvers.solver import Frames, Problem, Resumable, Solver, rollout

NAMES = ("burgers", "incompressible_ns_2d")


def started(name: str, count: int = 2) -> tuple[Problem, Frames, Frames | None]:
    entry = family(name)
    grid = entry.default_grid(16)
    states = entry.sample_initial(np.random.default_rng(3), count, grid).astype(np.float32)
    static = entry.draw_static(np.random.default_rng(4), count, grid)
    problem = Problem(name, entry.complete({}), grid, entry.boundary, entry.dt)
    return problem, states, None if static is None else static.astype(np.float32)


def test_what_the_catalog_lists_is_what_is_loaded() -> None:
    assert set(untrained_solvers()) == set(builtin_solvers())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver_id", untrained_solvers())
def test_states_keep_their_shape_and_stay_finite(solver_id: str, name: str) -> None:
    solver: Solver = load(solver_id)
    problem, states, static = started(name)
    assert solver.name == solver_id
    assert solver.dt(name) > 0.0
    frames = list(rollout(solver.session(problem, states, static), 3))
    assert [frame.shape for frame in frames] == [states.shape] * 3
    assert all(np.isfinite(frame).all() for frame in frames)
    again = list(rollout(solver.session(problem, states, static), 3))
    np.testing.assert_array_equal(frames, again)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver_id", untrained_solvers())
def test_one_step_is_the_first_of_a_rollout(solver_id: str, name: str) -> None:
    solver: Solver = load(solver_id)
    problem, states, static = started(name)
    truth = np.stack([states, *rollout(load("numerical").session(problem, states, static), 2)], axis=1)
    predicted = solver.one_step(problem, truth, static)
    if predicted is None:
        return
    assert predicted.shape == truth[:, 1:].shape
    first = solver.session(problem, states, static).step()
    np.testing.assert_allclose(predicted[:, 0], first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver_id", untrained_solvers())
def test_a_rollout_goes_on_in_another_session(solver_id: str) -> None:
    problem, states, static = started("burgers")
    solver: Solver = load(solver_id)
    whole, other = solver.session(problem, states, static), solver.session(problem, states, static)
    assert isinstance(whole, Resumable)
    assert isinstance(other, Resumable)
    frames = list(rollout(whole, 2))
    other.restore(2, whole.saved())
    np.testing.assert_array_equal(other.step(), whole.step())
    assert len(frames) == 2
