"""What the step benchmark compares: averages of cells, errors on the coarser grid, the solver at matched error."""

import numpy as np
import pytest

from benchmarks import rollout
from ups_server.solvers.classical import Numerical
from ups_server.solvers.solver import Frames
from ups_server.solvers.solver import rollout as steps


def test_cells_are_averaged() -> None:
    fine = np.arange(2 * 8 * 8, dtype=np.float32).reshape(2, 8, 8, 1)
    coarse = rollout.thinned(fine, 4)
    assert coarse.shape == (2, 4, 4, 1)
    assert coarse[0, 0, 0, 0] == fine[0, :2, :2].mean()
    np.testing.assert_allclose(coarse.mean((1, 2)), fine.mean((1, 2)))


def test_the_error_is_that_of_the_coarser_grid() -> None:
    truth = np.ones((1, 16, 1), dtype=np.float32)
    assert rollout.error(truth, truth) == 0
    assert np.isclose(rollout.error(1.1 * rollout.thinned(truth, 8), truth), 0.1)


def test_a_smaller_error_takes_a_finer_grid() -> None:
    case = rollout.Case("burgers", {"nu": 0.05}, 64, (8, 16, 32), 1)
    initial = rollout.states(case, 1)
    *_, truth = steps(Numerical().session(rollout.problem(case, 64), initial), rollout.STEPS)
    points = [rollout.matched(case, initial, allowed, truth) for allowed in (10.0, 0.02, 0.0)]
    assert points == sorted(points)
    assert (points[0], points[-1]) == (8, 32)


def test_a_step_costs_its_share_of_the_whole_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that does all of its work in the first step, or before it, is charged for it."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    class Hasty:
        def __init__(self) -> None:
            clock[0] += 2.0
            self.done = 0

        def step(self) -> Frames:
            clock[0] += 3.0 if self.done == 0 else 0.0
            self.done += 1
            return np.zeros((1, 8, 1), dtype=np.float32)

    assert rollout.rollout_seconds(Hasty) == 5.0 / rollout.STEPS
