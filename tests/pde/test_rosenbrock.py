"""RODAS: order, damping of what is stiff, and its estimate of the error."""

import numpy as np
import pytest

from ups_server.pde.grid import Array
from ups_server.pde.integrators import RODAS_GAMMA, rodas_step


def logistic(u: Array, step: float) -> tuple[Array, Array]:
    """One step of u' = u (1 - u)."""
    slope = 1.0 - 2.0 * u
    return rodas_step(u, step, lambda at: at * (1.0 - at), lambda right: right / (1.0 / (RODAS_GAMMA * step) - slope))


def test_fourth_order_and_an_estimate_of_third() -> None:
    start = np.array([0.1, 0.5, 1.7])
    errors, estimates = [], []
    for steps in (8, 32, 64):
        u = start
        for _ in range(steps):
            u, _ = logistic(u, 2.0 / steps)
        exact = start * np.exp(2.0) / (1.0 + start * (np.exp(2.0) - 1.0))
        errors.append(np.abs(u - exact).max())
        estimates.append(np.abs(logistic(start, 2.0 / steps)[1]).max())
    assert np.log2(errors[1] / errors[2]) == pytest.approx(4.0, abs=0.3)
    assert np.log2(estimates[1] / estimates[2]) == pytest.approx(4.0, abs=0.3)


def test_stiff_components_are_gone_after_a_step() -> None:
    rate = np.array([1e3, 1e6, 1e9])
    u, _ = rodas_step(np.ones(3), 1.0, lambda at: -rate * at, lambda right: right / (1.0 / RODAS_GAMMA + rate))
    assert (np.abs(u) < 1e-2).all()
    assert np.abs(u[2]) < 1e-8
