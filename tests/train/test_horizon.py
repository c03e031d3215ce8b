"""Adaptations to the last state: from u(0) to u(T) by one call, and steady problems."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.small_models import SMALL, make, write_language_model
from tests.train.test_adapt import Recorder
from ups_server.catalog import read_card
from ups_server.data.simulate import build_store
from ups_server.data.splits import few_shot_split
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.evaluation.evaluate import evaluate_source
from ups_server.model.checkpoint import from_pretrained, save_pretrained
from ups_server.pde import family
from ups_server.solvers.neural import UPSSolver
from ups_server.solvers.solver import Problem
from ups_server.train.adapt import Interrupted, Place, PreparedAdaptation, deliver
from ups_server.train.few_shot import AdaptationSettings, FewShotData


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("waves") / "store"
    return build_store(family("burgers"), {"nu": 0.1}, 12, 32, 0, folder, frame_dt=0.05, t_final=0.5)


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build_store(family("darcy"), {}, 24, 16, 0, tmp_path_factory.mktemp("flow") / "store")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(autouse=True)
def small_language_model(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ups_server.model.body.default_folder", lambda: pretrained)


def adaptation(
    model: Path | None, store: Store, folder: Path, stop_after: int | None = None, **changes: Any
) -> PreparedAdaptation:
    calls = iter(range(10_000))
    place = Place(folder, Recorder(), lambda: stop_after is not None and next(calls) >= stop_after)
    asked: dict[str, Any] = {"n_trajectories": 6, "max_steps": 8, "horizon": "final", **changes}
    settings = AdaptationSettings.model_validate(asked)
    return PreparedAdaptation(model, FewShotData(store, "file.h5"), settings, "tuned", place)


@pytest.fixture(scope="module")
def parent(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that knows Burgers' equation by steps of 0.05."""
    from tests.small_models import card_of

    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = SMALL.changed(name="tiny", families={"burgers": card_of(family("burgers"))})
    save_pretrained(make(config, language_model), folder)
    return folder


@pytest.mark.parametrize("start", ["lm", "model"])
def test_one_call_leads_to_the_last_state(parent: Path, waves: Store, tmp_path: Path, start: str) -> None:
    """What it learns from are the first and the last frame of the K; the scores are of the last frame of the test."""
    changes: dict[str, Any] = {"from": start, "max_steps": 40, "learning_rate": 5e-3}
    if start == "lm":
        changes["embedder"] = "patch"
    run = adaptation(parent if start == "model" else None, waves, tmp_path, **changes)
    assert run.config.stage2.unroll == ((0.0, 1),)
    batch = run.windows.batch(np.random.default_rng(0), 1, run.parent, torch.device("cpu"))
    assert batch.frames.shape[:2] == (6, 2)
    report = run.run()
    assert (report["horizon"], report["dt"]) == ("final", pytest.approx(0.5))
    assert report["tuned"]["one_step"]["nrmse"] == pytest.approx(report["tuned"]["rollout"]["nrmse"], rel=1e-6)
    card = from_pretrained(tmp_path / "best").config.families["burgers"]
    split = few_shot_split(12, 6)
    whole = waves.read(split.training)
    moved = (whole[:, -1] - whole[:, 0]).astype(np.float64)
    assert card.dt == card.statistics.dt == pytest.approx(0.5)
    assert card.statistics.increment_std[0] == pytest.approx(float(np.sqrt((moved**2).mean())), rel=1e-5)
    # By hand: the error of the one call, on the trajectories of the test.
    solver, truth = UPSSolver(from_pretrained(tmp_path / "best")), waves.read(split.test)
    problem = Problem("burgers", {"nu": 0.1}, waves.grid, waves.boundary, 0.5)
    reached = solver.session(problem, truth[:, 0]).step()
    error = np.sqrt(((reached - truth[:, -1]) ** 2).sum((1, 2)) / (truth[:, -1] ** 2).sum((1, 2))).mean()
    best = run._score_best()
    assert best["one_step"]["nrmse"] == pytest.approx(float(error), rel=1e-4)
    assert best["horizon"] == "final"
    if start == "model":  # before, by ten steps of its own
        before = evaluate_source(UPSSolver(from_pretrained(parent)), waves, "file.h5", horizon="final")
        assert before.steps == 1
        assert report["zero_shot"]["rollout"]["nrmse"] is not None
        assert report["base"] != report["zero_shot"]
    assert report["tuned"]["one_step"]["nrmse"] < report["persistence"]["one_step"]["nrmse"]


@pytest.mark.parametrize("embedder", ["patch", pytest.param("fno", marks=pytest.mark.slow)])
def test_a_steady_problem_from_its_permeability(flow: Store, tmp_path: Path, embedder: str) -> None:
    changes: dict[str, Any] = {"from": "lm", "embedder": embedder, "max_steps": 40, "learning_rate": 3e-3}
    run = adaptation(None, flow, tmp_path / "work", n_trajectories=16, **changes)
    report = run.run()
    assert report["persistence"]["one_step"]["nrmse"] == pytest.approx(1)
    assert report["tuned"]["one_step"]["nrmse"] < 0.8
    deliver(report, run.chosen(report), tmp_path / "out", run.about("lm"))
    card = read_card(tmp_path / "out")
    assert card.adaptation is not None
    assert card.adaptation.horizon == "final"
    assert card.families["darcy"].dt == family("darcy").dt
    solver, static = UPSSolver(from_pretrained(tmp_path / "out")), flow.read_static([0, 1])
    assert static is not None
    problem = Problem("darcy", {"beta": 1.0}, flow.grid, flow.boundary, 1.0)
    nothing = np.zeros((2, 16, 16, 1), np.float32)
    found = solver.session(problem, nothing, static).step()
    assert not np.allclose(found[0], found[1])  # the permeability is read
    assert np.abs(solver.session(problem, nothing, static[::-1].copy()).step() - found[::-1]).max() < 1e-4


def test_a_model_that_never_saw_it_is_tuned_to_a_steady_problem(parent: Path, flow: Store, tmp_path: Path) -> None:
    report = adaptation(parent, flow, tmp_path, n_trajectories=12, max_steps=10, learning_rate=5e-3).run()
    assert report["tuned"]["one_step"]["nrmse"] < report["persistence"]["one_step"]["nrmse"]


def test_resumed_equals_uninterrupted(waves: Store, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"from": "lm", "embedder": "patch", "alignment": "mmd"}
    expected = adaptation(None, waves, tmp_path / "whole", **changes).run()
    with pytest.raises(Interrupted):
        adaptation(None, waves, tmp_path / "parts", 3, **changes).run()
    report = adaptation(None, waves, tmp_path / "parts", **changes).run()
    assert {**report, "seconds": 0} == {**expected, "seconds": 0}


def test_a_steady_problem_is_not_learned_in_steps(flow: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one frame") as caught:
        adaptation(None, flow, tmp_path / "work", horizon="step", start="lm")
    assert "`final`" in str(caught.value.hint)
    assert not (tmp_path / "work").exists()


def test_the_horizon_is_part_of_what_was_asked(waves: Store, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"from": "lm", "embedder": "patch"}
    asked = AdaptationSettings.model_validate({"n_trajectories": 6, "horizon": "final", **changes})
    assert asked.document()["horizon"] == "final"
    assert "horizon" not in AdaptationSettings.model_validate({"n_trajectories": 6, **changes}).document()
    adaptation(None, waves, tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        adaptation(None, waves, tmp_path, **changes, horizon="step")
    assert caught.value.code == "run_exists"
