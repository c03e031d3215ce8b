from pathlib import Path

import numpy as np
import pytest

from tests.small_models import SMALL, card, make
from ups_server.data.build import build_store
from ups_server.data.windows import Windows
from ups_server.errors import UserError
from ups_server.pde import family
from ups_server.solve.calibrate import calibrate, rollout_errors
from ups_server.solve.neural import UPSSolver
from ups_server.solve.solver import Problem


@pytest.fixture
def solver(language_model: Path) -> UPSSolver:
    entry = card().model_copy(update={"fields": ("u",)})
    return UPSSolver(make(SMALL.model_copy(update={"families": {"burgers": entry}}), language_model))


def test_errors_are_those_of_rollouts_in_units_of_the_spread(solver: UPSSolver, tmp_path: Path) -> None:
    store = build_store(family("burgers"), {"nu": 0.01}, 24, 32, 0, tmp_path / "store", frame_dt=0.05, t_final=0.15)
    entry = solver.model.config.families["burgers"]
    windows = Windows(store, 0.05, 32, split=None, augment=False)
    errors = rollout_errors(solver, entry, windows, windows.rows)
    assert errors.shape == (24, 3, 1)
    single = rollout_errors(solver, entry, windows, windows.rows[20:21])
    assert single[0] == pytest.approx(errors[20], rel=1e-3)
    truth = windows.trajectories(windows.rows[:1])
    session = solver.session(Problem("burgers", {"nu": [0.01]}, windows.grid, store.boundary, 0.05), truth[:, 0])
    first = np.sqrt(np.mean((session.step() - truth[:, 1]) ** 2)) / entry.statistics.std[0]
    assert errors[0, 0, 0] == pytest.approx(first, rel=1e-4)
    done = list[int]()
    envelope = calibrate(solver, entry, store, 32, test=8, level=0.8, progress=done.append)
    assert done == [16, 24]
    assert (envelope.steps, envelope.calibration, envelope.test) == (3, 16, 8)
    assert envelope.coefficients == {"nu": (0.01, 0.01)}
    with pytest.raises(UserError, match="more trajectories"):
        calibrate(solver, entry, store, 32, test=20, level=0.8)


def test_an_interrupted_measurement_goes_on_where_it_was(solver: UPSSolver, tmp_path: Path) -> None:
    store = build_store(family("burgers"), {"nu": 0.01}, 40, 32, 0, tmp_path / "store", frame_dt=0.05, t_final=0.15)
    entry, kept = solver.model.config.families["burgers"], tmp_path / "errors"
    windows = Windows(store, 0.05, 32, split=None, augment=False)
    whole = rollout_errors(solver, entry, windows, windows.rows)

    class Interrupted(Exception):
        pass

    def after(done: int) -> None:
        if done == 32:
            raise Interrupted

    with pytest.raises(Interrupted):
        rollout_errors(solver, entry, windows, windows.rows, after, kept)
    files = sorted(file.name for file in kept.iterdir())
    assert files == ["000000-000015.npy", "000016-000031.npy"]
    # What is kept is not rolled out again.
    np.save(kept / files[0], whole[:16] + 1)
    resumed = rollout_errors(solver, entry, windows, windows.rows, kept=kept)
    np.testing.assert_array_equal(resumed[:16], whole[:16] + 1)
    np.testing.assert_array_equal(resumed[16:], whole[16:])
