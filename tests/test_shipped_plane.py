"""The shipped model of lead times does what its card says."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.side_by_side import with_table
from ups_server.catalog import Catalog, shipped_folder
from ups_server.evaluation.evaluate import evaluate
from ups_server.pde import Grid, family
from ups_server.pde.gas import GAMMA
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Problem, Solver, rollout

FOLDER = shipped_folder() / "ups-plane"
GAS = "2D_CFD_Rand_M0.1_Eta0.1_Zeta0.1_periodic_128_Train.hdf5"


@pytest.fixture(scope="module")
def shipped() -> Solver:
    return load(FOLDER, device="cpu")


def test_it_is_the_default_of_what_it_is_better_at() -> None:
    catalog = Catalog()
    for name in ("compressible_ns_2d", "incompressible_ns_2d"):
        assert catalog.default("ups-mini", name) == "ups-plane"
    assert catalog.default("ups-mini", "shallow_water") == "ups-mini"


def test_the_card_holds_the_measured_table() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert with_table(card, json.loads((FOLDER / "side_by_side.json").read_text())) == card


def test_a_gas_of_pdebench(shipped: Solver, pdebench: Path) -> None:
    (scores,) = evaluate(shipped, [pdebench / GAS], resolution=128, trajectories=1)
    assert scores.one_step is not None
    assert scores.one_step.nrmse is not None
    assert scores.one_step.nrmse <= 0.0009
    assert all(value is not None and value <= 0.12 for value in scores.one_step.skill_per_field.values())
    assert all(value is not None and value <= 0.08 for value in scores.rollout.per_field.values())


@pytest.mark.parametrize(("mach", "eta"), [(0.1, 0.1), (1.0, 0.01)])
def test_five_hundred_steps_keep_mass_momentum_and_energy(shipped: Solver, mach: float, eta: float) -> None:
    entry, grid = family("compressible_ns_2d"), Grid((64, 64), ((0.0, 1.0),) * 2)
    numbers = {"M": np.array([mach]), "eta": np.array([eta]), "zeta": np.array([eta])}
    problem = Problem(entry.id, entry.complete({name: float(value[0]) for name, value in numbers.items()}), grid,
                      entry.boundary, entry.dt)  # fmt: skip
    initial = entry.sample_initial(np.random.default_rng(5), 1, grid).astype(np.float32)
    session = shipped.session(problem, initial)
    for last_frame in rollout(session, 500):
        assert np.isfinite(last_frame).all()
        assert (last_frame[..., 2:] > 0).all()

    def kept(u: np.ndarray) -> np.ndarray:
        velocity, density, pressure = u[..., :2].astype(float), u[..., 2:3].astype(float), u[..., 3:].astype(float)
        energy = pressure / (GAMMA - 1) + density * np.square(velocity).sum(-1, keepdims=True) / 2
        whole: np.ndarray = np.concatenate([density, density * velocity, energy], -1).mean((0, 1))
        return whole

    first, last = kept(initial[0]), kept(last_frame[0])
    size = np.abs(first[[0, 0, 0, 3]])
    assert (np.abs(last - first) < 2e-3 * size).all()
    # What is left of the flow is nearly nothing.
    assert np.square(last_frame[..., :2]).mean() < 0.05 * np.square(initial[..., :2]).mean()


def test_particles_keep_their_extremes(shipped: Solver) -> None:
    entry, grid = family("incompressible_ns_2d"), Grid((32, 32), ((0.0, 1.0),) * 2)
    rng = np.random.default_rng(6)
    initial = entry.sample_initial(rng, 1, grid).astype(np.float32)
    static = entry.sample_static(rng, 1, grid)
    assert static is not None
    problem = Problem(entry.id, {"nu": 0.018}, grid, entry.boundary, 0.5)
    low, high = initial[..., 2].min(), initial[..., 2].max()
    for frame in rollout(shipped.session(problem, initial, static.astype(np.float32)), 100):
        assert low <= frame[..., 2].min() <= frame[..., 2].max() <= high
