"""Requests that name times: of models that go ahead by any time at once, and of those that step."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.rollout.planning import planned
from ups_server.errors import UserError
from ups_server.rollout.reference import reference_spec


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """With a model that goes ahead by 0.01 to 1 at once, and one that steps by 0.05; nobody runs them."""
    families: dict[str, dict[str, Any]] = {
        "lead": {"dt": 0.05, "shortest": 0.01, "horizon": 1.0},
        "steps": {"dt": 0.05},
    }
    for name, support in families.items():
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(
            json.dumps({"name": name, "resolution": 32, "families": {"burgers": support}})
        )
    return tmp_path


START: dict[str, Any] = {
    "family": "burgers",
    "initial_condition": {"sample": {"seed": 1}},
    "coefficients": {"nu": 0.01},
}


def test_one_call_reaches_any_time_within_the_horizon(data_dir: Path) -> None:
    plan = planned(data_dir, model="lead", n_steps=None, t_final=0.73, **START)
    assert (plan.spec.n_steps, plan.spec.problem.dt) == (1, 0.73)
    assert plan.times().tolist() == [0.0, 0.73]


def test_longer_times_take_equal_calls(data_dir: Path) -> None:
    plan = planned(data_dir, model="lead", n_steps=None, t_final=1.5, **START)
    assert plan.spec.n_steps * plan.spec.problem.dt == pytest.approx(1.5)
    assert plan.spec.problem.dt <= 1.0
    assert plan.times().tolist() == [0.0, 1.5]


def test_too_short_a_lead_time_is_refused(data_dir: Path) -> None:
    with pytest.raises(UserError, match="shorter than any lead time") as error:
        planned(data_dir, model="lead", n_steps=3, dt=0.001, **START)
    assert error.value.code == "dt_mismatch"


def test_a_model_that_steps_reaches_multiples_of_its_step(data_dir: Path) -> None:
    plan = planned(data_dir, model="steps", n_steps=None, t_final=0.7, **START)
    assert plan.spec.n_steps == 14
    assert plan.times().tolist() == [0.0, 0.7]
    with pytest.raises(UserError, match="multiple of the step"):
        planned(data_dir, model="steps", n_steps=None, t_final=0.73, **START)


def test_times_are_said_in_one_way(data_dir: Path) -> None:
    with pytest.raises(UserError, match="not two of them"):
        planned(data_dir, model="lead", t_final=0.5, n_steps=4, **START)


def test_uneven_times_are_steps_of_which_those_are_kept(data_dir: Path) -> None:
    times = [0.1, 0.25, 1.0]
    plan = planned(data_dir, model="lead", n_steps=None, times=times, **START)
    assert (plan.spec.n_steps, plan.spec.problem.dt, plan.spec.kept) == (20, 0.05, (2, 5, 20))
    assert plan.times().tolist() == [0.0, *times]
    assert [plan.spec.step_of(frame) for frame in range(plan.n_frames)] == [0, 2, 5, 20]
    assert [step for step in range(1, 21) if plan.spec.keeps(step)] == [2, 5, 20]
    assert [plan.spec.frames_by(step) for step in (0, 1, 2, 4, 5, 19, 20)] == [0, 0, 1, 1, 2, 2, 3]


def test_uneven_times_of_a_model_that_steps_are_multiples_of_its_step(data_dir: Path) -> None:
    plan = planned(data_dir, model="steps", n_steps=None, times=[0.2, 0.5], **START)
    assert (plan.spec.n_steps, plan.spec.kept, plan.times().tolist()) == (10, (4, 10), [0.0, 0.2, 0.5])
    with pytest.raises(UserError, match="multiple of the step"):
        planned(data_dir, model="steps", n_steps=None, times=[0.2, 0.51], **START)


def test_a_reference_is_looked_at_at_the_same_uneven_times(data_dir: Path) -> None:
    spec = reference_spec(planned(data_dir, model="lead", n_steps=None, times=[0.1, 0.25, 1.0], **START), 2)
    assert (spec.n_steps, spec.problem.dt, spec.kept, spec.problem.grid.n) == (20, 0.05, (2, 5, 20), (64,))
