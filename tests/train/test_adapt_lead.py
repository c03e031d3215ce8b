"""Adaptation of a model of lead times: it learns, says so, and one that is stopped and resumed is the same."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.train.test_adapt import Recorder
from tests.train.test_lead_time import training
from ups_server.data.simulate import build_store
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.model.checkpoint import save_lead
from ups_server.model.lead_config import LeadConfig
from ups_server.pde import family
from ups_server.solvers.lead import load_lead_solver
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Problem
from ups_server.train.adapt import BEST, Interrupted, Place, deliver
from ups_server.train.adapt_lead import LeadAdaptation, adaptation_of
from ups_server.train.few_shot import AdaptationSettings, FewShotData
from ups_server.train.lead_few_shot import check_lead
from ups_server.train.lead_loop import STATE
from ups_server.train.lead_release import released
from ups_server.train.lead_time import LeadRun


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for a moment on advection at speed 0.5, on 64 and 128 points."""
    folder = tmp_path_factory.mktemp("parent")
    run = LeadRun(training(30), folder / "run", folder / "data")
    run.train(float("inf"))
    save_lead(released({1: run}, "small", 1), folder / "small")
    return folder / "small"


def stored(folder: Path, family_id: str = "advection", n: int = 128, dt: float = 0.05, **coefficients: float) -> Store:
    return build_store(family(family_id), coefficients, 14, n, 3, folder, frame_dt=dt, t_final=20 * dt)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Trajectories three times as fast."""
    return stored(tmp_path_factory.mktemp("data") / "advection", beta=1.5)


def settings(**changes: Any) -> AdaptationSettings:
    return AdaptationSettings.model_validate({"n_trajectories": 6, "max_steps": 40, "learning_rate": 3e-3, **changes})


def adaptation(
    parent: Path, store: Store, folder: Path, stop_after: int | None = None, **changes: Any
) -> tuple[LeadAdaptation, Recorder]:
    recorder, calls = Recorder(), iter(range(10_000))
    place = Place(folder, recorder, lambda: stop_after is not None and next(calls) >= stop_after)
    found = adaptation_of(parent, FewShotData(store, "fast.h5"), settings(**changes), "tuned", place)
    assert isinstance(found, LeadAdaptation)
    return found, recorder


def test_it_learns_and_is_a_model_of_its_own(parent: Path, store: Store, tmp_path: Path) -> None:
    run, recorder = adaptation(parent, store, tmp_path / "run")
    report = run.run()
    errors = {name: report[name]["one_step"]["nrmse"] for name in ("zero_shot", "tuned", "persistence")}
    assert report["helped"] is True
    assert errors["tuned"] < 0.9 * errors["zero_shot"]
    assert recorder.phases == ["zero_shot", "training", "scores"]
    assert recorder.validations == sorted(set(recorder.validations))
    deliver(report, run.chosen(report), tmp_path / "tuned", run.about("small"))
    tuned = LeadConfig.load(tmp_path / "tuned")
    assert (tuned.name, list(tuned.families), tuned.preferred) == ("tuned", ["advection"], ())
    assert tuned.families["advection"].coefficients["beta"].high == 1.5
    solver = load(tmp_path / "tuned", "cpu")
    grid = store.grid
    problem = Problem("advection", {"beta": 1.5}, grid, store.boundary, 0.05)
    rows = run.split.test
    truth = store.read(rows, slice(None), 1)
    found = solver.one_step(problem, truth)
    assert found is not None
    norm = (truth[:, 1:] ** 2).mean((1, 2, 3))
    error = np.sqrt(((found - truth[:, 1:]) ** 2).mean((1, 2, 3)) / norm).mean()
    assert error == pytest.approx(errors["tuned"], rel=0.2)


def test_a_stopped_one_is_the_uninterrupted_one(parent: Path, store: Store, tmp_path: Path) -> None:
    whole, _ = adaptation(parent, store, tmp_path / "whole", max_steps=12)
    report = whole.run()
    stopped, _ = adaptation(parent, store, tmp_path / "parts", stop_after=12, max_steps=12)
    with pytest.raises(Interrupted):
        stopped.run()
    again, recorder = adaptation(parent, store, tmp_path / "parts", max_steps=12)
    resumed = again.run()
    assert recorder.saves[0] > 0
    assert {**resumed, "seconds": 0} == {**report, "seconds": 0}
    one, other = load_file(tmp_path / "whole" / STATE), load_file(tmp_path / "parts" / STATE)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    assert (tmp_path / "whole" / BEST / "model.safetensors").read_bytes() == (
        tmp_path / "parts" / BEST / "model.safetensors"
    ).read_bytes()


def test_worse_weights_are_turned_down(parent: Path, store: Store, tmp_path: Path) -> None:
    run, _ = adaptation(parent, store, tmp_path / "run", learning_rate=0.1, max_steps=8)
    report = run.run()
    assert report["helped"] is False
    assert report["tuned"] == report["zero_shot"]


def test_the_step_of_the_file_is_learned(parent: Path, tmp_path: Path) -> None:
    """Frames 0.08 apart make no step of 0.05."""
    slower = stored(tmp_path / "slower", dt=0.08, beta=1.5)
    run, _ = adaptation(parent, slower, tmp_path / "run", max_steps=4)
    assert run.dt == pytest.approx(0.08)
    report = run.run()
    assert report["tuned"]["one_step"]["nrmse"] > 0


def test_points_of_the_model_are_learned_on(parent: Path, tmp_path: Path) -> None:
    run, _ = adaptation(parent, stored(tmp_path / "fine", n=512, beta=1.5), tmp_path / "run")
    assert run.n == 128


def test_refused(parent: Path, store: Store, tmp_path: Path) -> None:
    config = LeadConfig.load(parent)
    cases = {
        "family_not_in_model": (settings(), stored(tmp_path / "burgers", "burgers", nu=0.1)),
        "alignment_not_offered": (settings(alignment="otdd"), store),
        "tuning_not_offered": (settings(tuning="lora"), store),
        "resolution_not_supported": (settings(), stored(tmp_path / "odd", n=72, beta=1.5)),
        "dt_mismatch": (settings(), stored(tmp_path / "slow", dt=0.8, beta=1.5)),
    }
    for code, (asked, data) in cases.items():
        with pytest.raises(UserError) as refused:
            check_lead(config, asked, data)
        assert refused.value.code == code


def test_controls_read_other_features(parent: Path, store: Store) -> None:
    """Without text or with a body of random weights, the answer is another one; twice the same."""
    problem = Problem("advection", {"beta": 0.5}, store.grid, store.boundary, 0.05)
    truth = store.read(np.arange(2), slice(0, 3), 1)
    plain = load_lead_solver(parent)
    own = plain.one_step(problem, truth)
    features = dict(plain.system.features)
    bodies: tuple[Literal["none", "random"], ...] = ("none", "random")
    for body in bodies:
        solver = load_lead_solver(parent, "cpu", body)
        found = solver.one_step(problem, truth)
        assert np.abs(found - own).max() > 0
        np.testing.assert_array_equal(found, load_lead_solver(parent, "cpu", body).one_step(problem, truth))
        changed = {text for text, feature in solver.system.features.items() if not torch.equal(feature, features[text])}
        assert changed == {term.text for term in plain.system.config.families["advection"].equation.terms}
