"""A model on a family it does not know: all it is told comes from the given initial state."""

from pathlib import Path

import numpy as np
import pytest

from tests.small_models import SMALL, card, make, write_parent
from ups_server.errors import UserError
from ups_server.model.checkpoint import from_pretrained
from ups_server.pde import Grid, family
from ups_server.solvers.neural import ZeroShotSolver, typical_increment, unseen_card
from ups_server.solvers.solver import Frames, Problem, rollout


@pytest.fixture(scope="module")
def solver(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ZeroShotSolver:
    return ZeroShotSolver(from_pretrained(write_parent(tmp_path_factory.mktemp("models") / "tiny", language_model)))


def problem(count: int) -> Problem:
    burgers = family("burgers")
    nu = np.geomspace(0.01, 0.1, count).tolist()
    return Problem("burgers", {"nu": nu}, Grid((32,), burgers.extent), burgers.boundary, burgers.dt)


def trajectories(count: int, steps: int = 4) -> Frames:
    rng = np.random.default_rng(0)
    frames: Frames = np.cumsum(rng.normal(size=(count, steps, 32, 1)), axis=1).astype(np.float32)
    return frames


def test_a_batch_is_its_states_one_by_one(solver: ZeroShotSolver) -> None:
    truth = trajectories(3)
    together = np.stack(list(rollout(solver.session(problem(3), truth[:, 0]), 3)), axis=1)
    for row in range(3):
        one = Problem("burgers", {"nu": problem(3).coefficient_arrays(3)["nu"][row]}, problem(3).grid,
                      problem(3).boundary, problem(3).dt)  # fmt: skip
        alone = np.stack(list(rollout(solver.session(one, truth[row : row + 1, 0]), 3)), axis=1)
        np.testing.assert_array_equal(together[row], alone[0])


def test_later_states_lend_nothing(solver: ZeroShotSolver) -> None:
    truth = trajectories(2)
    changed = truth.copy()
    changed[:, 2:] *= 100
    first, second = (solver.one_step(problem(2), frames) for frames in (truth, changed))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first[:, :2], second[:, :2])


def test_units_do_not_matter(solver: ZeroShotSolver) -> None:
    """Under statistics of its own state the model commutes with u -> a u."""
    truth, a = trajectories(2), 40.0
    plain = next(rollout(solver.session(problem(2), truth[:, 0]), 1))
    scaled = next(rollout(solver.session(problem(2), a * truth[:, 0]), 1))
    np.testing.assert_allclose(scaled, a * plain, rtol=1e-3, atol=1e-3 * a)


def test_a_constant_state_stays_finite(solver: ZeroShotSolver) -> None:
    still = np.full((1, 32, 1), 3.0, dtype=np.float32)
    assert np.isfinite(next(rollout(solver.session(problem(1), still), 1))).all()


def test_what_does_not_fit_is_refused(language_model: Path) -> None:
    config = SMALL.changed(max_dimensions=1, joint_modes=0, families={"burgers": card()})
    solver = ZeroShotSolver(make(config, language_model))
    shallow = family("shallow_water")
    flat = Problem("shallow_water", {}, Grid((32, 32), shallow.extent), shallow.boundary, shallow.dt)
    with pytest.raises(UserError, match="does not fit"):
        solver.session(flat, np.ones((1, 32, 32, 1), dtype=np.float32))


def test_the_increment_is_typical_of_what_the_model_knows() -> None:
    config = SMALL.changed(families={"burgers": card()})
    assert typical_increment(config) == pytest.approx(0.25)
    state = np.array([[0.0], [2.0]], dtype=np.float32)
    statistics = unseen_card(config, "burgers", state).statistics
    assert (statistics.mean, statistics.std) == ((1.0,), (1.0,))
    assert statistics.increment_std == pytest.approx((0.25,))
