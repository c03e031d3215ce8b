"""Expected errors: where a calibration fits, and the words where it does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.solve.planning import planned, write_card
from ups_server.model.envelope import Coverage, FamilyEnvelope, ModelEnvelopes
from ups_server.solve.expectation import expected_error
from ups_server.specs import ExpectedError

BOUNDS = (0.1, 0.2, 0.3, 0.4)


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    """A data folder whose model has an envelope of four steps at 32 points, with nu from 0.01 to 0.1."""
    envelope = FamilyEnvelope(
        family="burgers", coefficients={"nu": (0.01, 0.1)}, dt=0.05, n=32, level=0.9, bounds={"u": BOUNDS},
        spread={"u": 2.0}, calibration=40, test=20, coverage={"u": Coverage.of(18, 20)},
    )  # fmt: skip
    ModelEnvelopes(command="measured", families={"burgers": envelope}).save(write_card(tmp_path))
    return tmp_path


def expected(data_dir: Path, **changes: Any) -> ExpectedError:
    todo = planned(data_dir, **{"coefficients": {"nu": 0.02}, **changes})
    return expected_error(todo, todo.n_frames)


def test_bounds_are_those_of_the_frames_in_physical_units(calibrated: Path) -> None:
    found = expected(calibrated, n_steps=4, save_every=2)
    assert found.available
    assert found.reason is None
    assert found.level == 0.9
    assert found.bounds["u"] == pytest.approx([0.0, 2 * 0.2, 2 * 0.4])
    assert found.coverage["u"]["share"] == pytest.approx(0.9)
    assert found.valid_for["steps"] == 4
    batched = expected(calibrated, initial_condition={"sample": {"count": 3}})
    assert np.shape(batched.bounds["u"]) == (3, 4)


def test_beyond_the_calibrated_steps_nothing_is_said(calibrated: Path) -> None:
    assert expected(calibrated, n_steps=6).bounds["u"][4:] == [pytest.approx(0.8), None, None]


def test_another_box_scales_the_bounds(calibrated: Path) -> None:
    found = expected(calibrated, coefficients={"nu": 0.08}, grid={"extent": [[0.0, 2.0]]})
    assert found.bounds["u"][1] == pytest.approx(2 * 2 * 0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": {"n": [64]}}, "64 points instead of 32"),
        ({"coefficients": {"nu": 0.3}}, "nu = 0.3 instead of 0.01 to 0.1"),
        ({"model": "persistence"}, "no trained model"),
    ],
)
def test_outside_of_the_calibration_it_says_so(calibrated: Path, changes: dict[str, Any], words: str) -> None:
    found = expected(calibrated, **changes)
    assert not found.available
    assert found.bounds == {}
    assert words in str(found.reason)


def test_given_states_are_a_caveat(calibrated: Path) -> None:
    found = expected(calibrated, initial_condition={"values": [0.5] * 32})
    assert found.available
    assert "as far as" in str(found.reason)


def test_a_model_without_a_calibration_says_so(tmp_path: Path) -> None:
    write_card(tmp_path)
    found = expected(tmp_path)
    assert not found.available
    assert "no calibration for burgers" in str(found.reason)
