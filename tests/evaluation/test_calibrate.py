from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small_models import SMALL, card_of, make
from ups_server.data.simulate import build_store
from ups_server.errors import UserError
from ups_server.evaluation.calibrate import Observed, calibrate, rollout_errors
from ups_server.pde import Grid, family
from ups_server.solvers.neural import UPSSolver
from ups_server.solvers.solver import Problem


@pytest.fixture
def solver(language_model: Path) -> UPSSolver:
    entry = card_of(family("burgers"))
    return UPSSolver(make(SMALL.changed(families={"burgers": entry}), language_model))


def test_errors_are_those_of_rollouts_in_units_of_the_spread(solver: UPSSolver, tmp_path: Path) -> None:
    store = build_store(family("burgers"), {"nu": 0.01}, 24, 32, 0, tmp_path / "store", frame_dt=0.05, t_final=0.15)
    entry = solver.model.config.families["burgers"]
    seen, rows = Observed(store), np.arange(24)
    errors = rollout_errors(solver, entry, seen, rows)
    assert errors.shape == (24, 3, 1)
    single = rollout_errors(solver, entry, seen, rows[20:21])
    assert single[0] == pytest.approx(errors[20], rel=1e-3)
    truth = seen.frames([0], 0.05)
    session = solver.session(Problem("burgers", {"nu": [0.01]}, store.grid, store.boundary, 0.05), truth[:, 0])
    first = np.sqrt(np.mean((session.step() - truth[:, 1]) ** 2)) / entry.statistics.std[0]
    assert errors[0, 0, 0] == pytest.approx(first, rel=1e-4)
    done = list[int]()
    envelope = calibrate(solver, entry, [seen, seen], test=8, level=0.8, progress=done.append)
    assert done == [16, 24, 40, 48]
    assert (envelope.steps, envelope.calibration, envelope.test) == (3, 32, 16)
    assert (envelope.n, envelope.offset) == (32, (None,))
    assert envelope.coefficients == {"nu": (0.01, 0.01)}
    with pytest.raises(UserError, match="more trajectories"):
        calibrate(solver, entry, [seen], test=20, level=0.8)


def test_the_points_of_a_request_are_found_among_those_of_the_truth(tmp_path: Path) -> None:
    """A store whose first point lies on the edge has cell centres, one that lies in cells PDEBench's strided points."""
    equation, box = family("diffusion_sorption"), ((0.0, 1.0),)
    centres, strided = Grid((32,), box), Grid((32,), box, (0.0625,))
    stores = [
        build_store(equation, {}, 1, 256, 0, tmp_path / f"{offset}", frame_dt=25.0, t_final=50.0, offset=offset)
        for offset in (0.0, 0.5)
    ]
    for store, grid, other in ((stores[0], centres, strided), (stores[1], strided, centres)):
        seen = Observed.at(store, grid)
        np.testing.assert_allclose(seen.grid.axes[0], grid.axes[0])
        again = equation.solve(seen.frames([0], 25.0)[:, 0].astype(float), store.times, grid, {})
        np.testing.assert_allclose(seen.frames([0], 25.0), again, atol=2e-3)
        with pytest.raises(UserError, match="no such points"):
            Observed.at(store, other)


def test_one_envelope_is_for_one_kind_of_points(solver: UPSSolver, tmp_path: Path) -> None:
    """Places along a bounded axis are not mixed; rollouts that stop being finite give no bounds."""
    store = build_store(family("diffusion_sorption"), {}, 24, 64, 0, tmp_path / "store", frame_dt=25.0, t_final=50.0)
    entry = solver.model.config.families["burgers"]
    with pytest.raises(UserError, match="one kind of grid"):
        calibrate(solver, entry, [Observed(store), Observed(store, 2)], test=4)


def test_rollouts_that_stop_being_finite_give_no_bounds(solver: UPSSolver, tmp_path: Path) -> None:
    store = build_store(family("burgers"), {"nu": 0.01}, 24, 32, 0, tmp_path / "store", frame_dt=0.05, t_final=0.1)
    entry = solver.model.config.families["burgers"]
    with torch.no_grad():
        for parameter in solver.model.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(UserError, match="stop being finite"):
        calibrate(solver, entry, [Observed(store)], test=4)


def test_an_interrupted_measurement_goes_on_where_it_was(solver: UPSSolver, tmp_path: Path) -> None:
    store = build_store(family("burgers"), {"nu": 0.01}, 40, 32, 0, tmp_path / "store", frame_dt=0.05, t_final=0.15)
    entry, kept = solver.model.config.families["burgers"], tmp_path / "errors"
    seen, rows = Observed(store), np.arange(40)
    whole = rollout_errors(solver, entry, seen, rows)

    class Interrupted(Exception):
        pass

    def after(done: int) -> None:
        if done == 32:
            raise Interrupted

    with pytest.raises(Interrupted):
        rollout_errors(solver, entry, seen, rows, after, kept)
    files = sorted(file.name for file in kept.iterdir())
    assert files == ["000000-000015.npy", "000016-000031.npy"]
    # What is kept is not rolled out again.
    np.save(kept / files[0], whole[:16] + 1)
    resumed = rollout_errors(solver, entry, seen, rows, kept=kept)
    np.testing.assert_array_equal(resumed[:16], whole[:16] + 1)
    np.testing.assert_array_equal(resumed[16:], whole[16:])
