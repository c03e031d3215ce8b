"""The exponential integrator on equations with closed solutions."""

import numpy as np
import pytest

from ups_server.pde.integrators import ETDRK4, Spectrum

GROWTH = np.array([[0.5, 2.0], [-3.0, -40.0]], dtype=np.complex128)
START = np.full(GROWTH.shape, 0.8, dtype=np.complex128)


def logistic(time: float) -> Spectrum:
    """v' = r v - v^2 from v(0) = 0.8."""
    factor = np.exp(GROWTH * time)
    solution: Spectrum = GROWTH * START * factor / (GROWTH + START * (factor - 1.0))
    return solution


def error(steps: int) -> Spectrum:
    method, v = ETDRK4.prepare(GROWTH, 1.0 / steps), START
    for _ in range(steps):
        v = method.advance(v, lambda state: -(state**2))
    gap: Spectrum = np.abs(v - logistic(1.0))
    return gap


def test_order_four() -> None:
    orders = np.log2(np.max(error(16)[:, :1] / error(32)[:, :1]))
    assert orders == pytest.approx(4.0, abs=0.3)


def test_the_linear_part_is_exact_at_any_step() -> None:
    linear = np.array([-1e4, -3.0 + 200.0j, 0.0, 1e-9j])
    v = ETDRK4.prepare(linear, 0.7).advance(np.ones(4, dtype=np.complex128), np.zeros_like)
    np.testing.assert_allclose(v, np.exp(0.7 * linear), rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("rate", [0.0, 1e-12, 1e-4, 1e-2, 1.0, 30.0])
def test_a_constant_force_is_exact_without_cancellation(rate: float) -> None:
    v = ETDRK4.prepare(np.array([-rate + 0j]), 1.0).advance(np.zeros(1, dtype=np.complex128), np.ones_like)
    exact = 1.0 if rate == 0.0 else -np.expm1(-rate) / rate
    np.testing.assert_allclose(v, exact, rtol=1e-13)
