"""The shipped model of lead times on a line does what its card says."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import language_prediction
from benchmarks.equations import STEPS, Equations
from benchmarks.side_by_side import with_table
from ups_server.catalog import Catalog, shipped_folder
from ups_server.evaluation.evaluate import evaluate
from ups_server.pde import Grid, family
from ups_server.pde.families.evolution_1d import held_out_sets
from ups_server.solvers.lead import LeadSolver, load_lead_solver
from ups_server.solvers.solver import Problem, rollout

FOLDER = shipped_folder() / "ups-line"
GAS = "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5"


@pytest.fixture(scope="module")
def shipped() -> LeadSolver:
    return load_lead_solver(FOLDER)


def test_it_is_the_default_of_what_it_is_better_at() -> None:
    catalog = Catalog()
    for name in ("compressible_ns_1d", "evolution_1d"):
        assert catalog.default("ups-mini", name) == "ups-line"
    assert catalog.default("ups-mini", "burgers") == "ups-mini"


def test_the_card_holds_the_measured_table() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert with_table(card, json.loads((FOLDER / "side_by_side.json").read_text())) == card
    assert language_prediction.with_table(card, json.loads((FOLDER / "language.json").read_text())) == card


def test_a_gas_of_pdebench(shipped: LeadSolver, pdebench: Path) -> None:
    (scores,) = evaluate(shipped, [pdebench / GAS], resolution=128)
    assert scores.one_step is not None
    assert scores.one_step.nrmse is not None
    assert scores.one_step.nrmse <= 0.0015
    assert all(value is not None and value <= 0.04 for value in scores.rollout.per_field.values())


def test_equations_that_nobody_trained_on(shipped: LeadSolver) -> None:
    """Half of them within a tenth; without what the equation says they are no better than standing still."""
    problems = Equations.drawn(sorted(held_out_sets(), key=sorted), 24, 5)
    told = problems.scores(problems.rollout(shipped))
    untold = problems.scores(problems.rollout(shipped, known=False))
    assert told["median"] <= 0.10
    assert told["finite"] >= 0.95
    assert told["median"] <= 0.2 * untold["median"]


def test_five_hundred_steps_keep_mass_and_energy(shipped: LeadSolver) -> None:
    entry, grid = family("compressible_ns_1d"), Grid((128,), ((-1.0, 1.0),))
    problem = Problem(entry.id, entry.complete({"eta": 0.01, "zeta": 0.01}), grid, entry.boundary, entry.dt)
    initial = entry.sample_initial(np.random.default_rng(5), 2, grid).astype(np.float32)
    for last_frame in rollout(shipped.session(problem, initial), 25 * STEPS):
        assert np.isfinite(last_frame).all()
    mass = last_frame[..., 1].mean(1, dtype=float) / initial[..., 1].mean(1, dtype=float)
    np.testing.assert_allclose(mass, 1, atol=2e-3)


def test_density_does_not_grow_without_end(shipped: LeadSolver) -> None:
    """Ten times as long as training goes: as entropy does not fall, peaks stay what pressure makes of them."""
    entry, grid = family("compressible_ns_1d"), Grid((64,), ((-1.0, 1.0),))
    problem = Problem(entry.id, entry.complete({"eta": 0.028, "zeta": 0.0033}), grid, entry.boundary, 0.25)
    initial = entry.sample_initial(np.random.default_rng(6), 8, grid).astype(np.float32)
    *_, last_frame = rollout(shipped.session(problem, initial), 40)
    assert (last_frame[..., 1].max(1) < 2 * initial[..., 1].max(1)).all()


def test_a_gas_in_a_uniform_stream_keeps_its_density(shipped: LeadSolver) -> None:
    """Pressure is even and nothing varies in the velocity, so that the density is carried along and no more."""
    entry, grid = family("compressible_ns_1d"), Grid((64,), ((0.0, 1.0),))
    (x,) = grid.axes
    stream, call, calls = 0.25, 0.25, 64

    def density(shift: float) -> np.ndarray:
        whole: np.ndarray = 1.5 + np.sin(2 * np.pi * (x - shift)) + 0.2 * np.cos(6 * np.pi * (x - shift))
        return whole

    initial = np.stack([np.full(64, stream), density(0.0), np.full(64, 10.0)], -1)[None].astype(np.float32)
    problem = Problem(entry.id, {"eta": 0.16, "zeta": 0.03}, grid, entry.boundary, call)
    *_, last_frame = rollout(shipped.session(problem, initial), calls)
    np.testing.assert_allclose(last_frame[0, :, 1], density(stream * call * calls), atol=0.02)
    np.testing.assert_allclose(last_frame[0, :, 0], stream, atol=1e-3)
