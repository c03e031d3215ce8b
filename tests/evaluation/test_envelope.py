from pathlib import Path

import numpy as np
import pytest

from ups_server.evaluation.envelope import (
    Coverage,
    FamilyEnvelope,
    ModelEnvelopes,
    conformal_bounds,
    measured_coverage,
)


def errors(rng: np.random.Generator, count: int) -> np.ndarray:
    """Errors (N, 5, 2) that grow along a trajectory, with a heavy-tailed size of their own."""
    size = rng.lognormal(size=(count, 1, 2))
    growth = np.arange(1, 6)[:, None] * np.array([1.0, 30.0])
    return np.asarray(size * growth * rng.uniform(0.8, 1.2, (count, 5, 2)))


def test_new_trajectories_stay_inside_at_the_stated_level() -> None:
    """Over many calibrations the mean coverage is the level, and at most 1 / (m + 1) above it."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        bounds = conformal_bounds(errors(rng, 20), errors(rng, 39), 0.9)
        shares.append([coverage.share for coverage in measured_coverage(bounds, errors(rng, 100))])
    assert np.mean(shares, axis=0) == pytest.approx(0.9, abs=0.015)


def test_the_envelope_has_the_shape_of_the_median() -> None:
    rng = np.random.default_rng(1)
    bounds = conformal_bounds(errors(rng, 500), errors(rng, 500), 0.9)
    assert bounds / bounds[0] == pytest.approx(np.arange(1, 6)[:, None] * np.ones((1, 2)), rel=0.1)


def test_the_size_is_an_order_statistic() -> None:
    calibration = np.arange(1.0, 10.0)[:, None, None]
    assert conformal_bounds(np.ones((1, 1, 1)), calibration, 0.8) == 8.0
    assert np.isinf(conformal_bounds(np.ones((1, 1, 1)), calibration, 0.95)).all()


def test_coverage_counts_whole_trajectories_with_an_exact_interval() -> None:
    test = np.array([[0.5, 0.5], [0.5, 2.0], [0.1, 0.2]])[..., None]
    (coverage,) = measured_coverage(np.ones((2, 1)), test)
    assert coverage.share == pytest.approx(2 / 3)
    assert Coverage.of(0, 10).low == 0.0
    assert Coverage.of(0, 10).high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert Coverage.of(10, 10).low == pytest.approx(0.025 ** (1 / 10))


def test_bounds_come_in_physical_units(tmp_path: Path) -> None:
    envelope = FamilyEnvelope(
        family="compressible_ns_1d", coefficients={}, boundary=(("periodic", "periodic"),),
        dt=0.05, n=128, offset=(None,), level=0.9,
        bounds={"Vx": (0.1, 0.2), "density": (0.01, 0.02)}, spread={"Vx": 3.0, "density": 0.5}, relative=("density",),
        calibration=10, test=10, coverage={"Vx": Coverage.of(9, 10), "density": Coverage.of(9, 10)},
    )  # fmt: skip
    assert envelope.steps == 2
    physical = envelope.physical({"Vx": 7.0, "density": 8.0})
    assert physical["Vx"] == pytest.approx((0.3, 0.6))
    assert physical["density"] == pytest.approx((0.04, 0.08))
    assert ModelEnvelopes.load(tmp_path) is None
    written = ModelEnvelopes(command="measured", families={"compressible_ns_1d": (envelope,)})
    written.save(tmp_path)
    assert ModelEnvelopes.load(tmp_path) == written
