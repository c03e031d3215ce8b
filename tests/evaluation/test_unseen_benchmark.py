"""Coefficients that are not told are found by the model that is asked, from the context frames alone."""

import numpy as np
import pytest

from benchmarks import unseen
from ups_server.model.config import CoefficientRange
from ups_server.pde import family
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Problem

BETAS = [0.3, 1.1]
RANGES = {"beta": CoefficientRange(low=0.1, high=4.0)}


@pytest.fixture
def given() -> unseen.Trajectories:
    """Waves that move at the speeds `BETAS`, exactly."""
    entry = family("advection")
    grid = entry.default_grid(64)
    x = (np.arange(64) + grid.offset[0]) / 64
    times = np.arange(8)[None, :, None] * entry.dt
    truth = np.sin(2 * np.pi * (x - np.array(BETAS)[:, None, None] * times))[..., None].astype(np.float32)
    problem = Problem("advection", {"beta": BETAS}, grid, entry.boundary, entry.dt)
    return unseen.Trajectories(problem, truth)


def test_finds_the_coefficient_of_every_trajectory(given: unseen.Trajectories) -> None:
    found = unseen.fitted(load("numerical"), given, RANGES)
    assert found["beta"] == pytest.approx(BETAS, rel=5e-3)


def test_stays_in_the_range_and_sees_the_context_alone(given: unseen.Trajectories) -> None:
    narrow = {"beta": CoefficientRange(low=0.5, high=0.9)}
    assert unseen.fitted(load("numerical"), given, narrow)["beta"] == pytest.approx([0.5, 0.9])
    given.truth[:, unseen.CONTEXT + 1 :] = 0.0
    assert unseen.fitted(load("numerical"), given, RANGES)["beta"] == pytest.approx(BETAS, rel=5e-3)
