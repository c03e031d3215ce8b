"""The true error, against solutions known in closed form, and who is called the faster one."""

from pathlib import Path

import numpy as np
import pytest

from tests.rollout.planning import observed, planned, write_card
from ups_server.errors import UserError
from ups_server.pde.metrics import error_moments, nrmse_trajectory
from ups_server.rollout.reference import ReferenceQuality, TrueError, comparison_flags, reference_spec


def solved(reason: str | None, seconds: float | None) -> ReferenceQuality:
    return ReferenceQuality(reason, seconds, (32,), None, None, None, "", "")


def test_persistence_of_a_wave_that_travels(tmp_path: Path) -> None:
    """|sin(x) - sin(x - c)| has the norm 2 |sin(c / 2)| of the wave's own."""
    x = (np.arange(64) + 0.5) / 64
    wave = {"values": np.sin(2 * np.pi * x).tolist()}
    todo = planned(
        tmp_path, model="persistence", family="advection", coefficients={"beta": 1.0}, initial_condition=wave,
        n_steps=4, reference=True,
    )  # fmt: skip
    frames, observation = observed(todo)
    assert len(frames) == 5
    found = observation.attributes()["reference"]
    phases = 2 * np.pi * 0.05 * np.arange(5)
    expected = 2 * np.abs(np.sin(phases / 2))
    np.testing.assert_allclose(found["nrmse"], expected, atol=2e-4)
    np.testing.assert_allclose(found["rmse_per_field"]["u"], expected / np.sqrt(2), atol=2e-4)
    assert found["nrmse_trajectory"] == pytest.approx(np.sqrt((expected[1:] ** 2).mean()), rel=1e-3)
    assert found["complete"]
    assert found["seconds"]["model"] > 0.0


def test_errors_of_single_frames_and_of_the_whole_are_the_metrics(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, initial_condition={"sample": {"count": 2}}, reference=True)
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((2, 4, 32, 1)).astype(np.float32)
    prediction = truth + 0.1 * rng.standard_normal(truth.shape).astype(np.float32)
    errors = TrueError(todo)
    singles = [errors.add(prediction[:, frame], truth[:, frame]) for frame in range(4)]
    found = errors.summary(solved(None, 2.0), 1.0)
    np.testing.assert_allclose(np.transpose([single["nrmse"] for single in singles]), found.nrmse)
    whole = nrmse_trajectory(error_moments(prediction[:, 1:], truth[:, 1:]))
    np.testing.assert_allclose(found.nrmse_trajectory, whole)
    assert np.shape(found.nrmse_per_field["u"]) == (2, 4)


def test_the_solver_steps_from_frame_to_frame(tmp_path: Path) -> None:
    write_card(tmp_path)
    spec = reference_spec(planned(tmp_path, n_steps=7, dt=0.1, save_every=3, reference=True))
    assert (spec.model, spec.n_steps, spec.save_every) == ("numerical", 2, 1)
    assert spec.problem.dt == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("reason", "model", "solver", "faster"),
    [
        (None, 0.5, 0.1, "solver"),
        (None, 0.1, 0.5, "model"),
        ("it took too long", 0.1, 0.5, None),
        (None, 0.1, None, None),
    ],
)
def test_who_is_faster_is_measured_or_not_said(
    tmp_path: Path, reason: str | None, model: float, solver: float | None, faster: str | None
) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, reference=True)
    errors = TrueError(todo)
    errors.add(todo.initial, todo.initial)
    found = errors.summary(solved(reason, solver), model)
    assert (found.faster, found.reason) == (faster, reason)
    assert [flag.code for flag in comparison_flags(found)] == (
        ["numerical_solver_is_faster"] if faster == "solver" else []
    )
    assert (found.remark is None) == (faster is None)


def test_a_shock_too_thin_for_the_solver_is_a_reason_and_no_failure(tmp_path: Path) -> None:
    todo = planned(tmp_path, model="persistence", coefficients={"nu": 1e-12}, grid={"n": [32]}, reference=True)
    frames, observation = observed(todo)
    assert len(frames) == 4
    found = observation.attributes()["reference"]
    assert not found["complete"]
    assert "too thin" in found["reason"]
    assert found["nrmse"] == [0.0]


def test_the_reference_has_no_reference(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reference itself"):
        planned(tmp_path, model="numerical", reference=True)
