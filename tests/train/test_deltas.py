"""Training weights of a family's own beside a model, and adapting what has them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tests.model.test_deltas import moved
from tests.train.test_adapt import adaptation
from tests.train.test_run import SMALL_MODEL, recipe, train, weights
from ups_server.data.simulate import build_store
from ups_server.errors import UserError
from ups_server.model.checkpoint import TrainedModel, from_pretrained, save_pretrained
from ups_server.model.deltas import deltas_between
from ups_server.pde import Grid, family
from ups_server.solvers.neural import UPSSolver
from ups_server.solvers.solver import Frames, Problem
from ups_server.train.adapt import deliver
from ups_server.train.config import TrainConfig

STAGES = {
    "stage1": {"steps": 6, "learning_rate": 5e-3, "warmup": 1, "alignment": "mmd"},
    "stage2": {"steps": 0},
    "validate_every": 3,
}


@pytest.fixture(scope="module")
def shared(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    train(recipe(language_model, **STAGES), folder)
    return folder / "best"


def own_recipe(shared: Path, language_model: Path, name: str) -> dict[str, object]:
    plain = recipe(language_model, **STAGES)
    return plain | {
        "name": f"own-{name}",
        "init": str(shared),
        "own": True,
        "families": {name: plain["families"][name]},
    }


def predicted(model: TrainedModel, name: str, values: dict[str, float]) -> Frames:
    equation = family(name)
    grid = Grid((32,), equation.extent)
    x = np.sin(2 * np.pi * grid.axes[0])[None, :, None].astype(np.float32)
    return UPSSolver(model).session(Problem(name, values, grid, equation.boundary, 0.05), x).step()


def test_one_family_after_another(shared: Path, language_model: Path, tmp_path: Path) -> None:
    first = train(own_recipe(shared, language_model, "burgers"), tmp_path / "a")
    second = train(own_recipe(tmp_path / "a" / "best", language_model, "advection"), tmp_path / "b")
    assert set(first.scores[-1]) == {"burgers"}
    assert set(second.scores[-1]) == {"advection"}
    before, one, both = (from_pretrained(folder) for folder in (shared, tmp_path / "a/best", tmp_path / "b/best"))
    assert set(one.deltas) == {"burgers"}
    assert set(both.deltas) == {"burgers", "advection"}
    assert set(both.config.families) == {"burgers", "advection"}
    assert both.config.name == "own-advection"
    burgers, advection = ("burgers", {"nu": 0.2}), ("advection", {"beta": 0.7})
    np.testing.assert_array_equal(predicted(before, *advection), predicted(one, *advection))
    np.testing.assert_array_equal(predicted(one, *burgers), predicted(both, *burgers))
    assert np.abs(predicted(before, *burgers) - predicted(one, *burgers)).max() > 1e-4
    assert np.abs(predicted(one, *advection) - predicted(both, *advection)).max() > 1e-4


def test_resumed_equals_uninterrupted(shared: Path, language_model: Path, tmp_path: Path) -> None:
    wanted = own_recipe(shared, language_model, "burgers")
    train(wanted, tmp_path / "whole")
    train(wanted, tmp_path / "parts", 4)
    train(wanted, tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all((whole[name] == parts[name]).all() for name in whole)


def test_further_training_starts_from_the_family_s_own(shared: Path, language_model: Path, tmp_path: Path) -> None:
    train(own_recipe(shared, language_model, "burgers"), tmp_path / "a")
    still = own_recipe(tmp_path / "a" / "best", language_model, "burgers")
    still["stage1"] = {"steps": 1, "learning_rate": 0.0}
    train(still, tmp_path / "b")
    first, second = (from_pretrained(tmp_path / name / "best") for name in ("a", "b"))
    values = {"nu": 0.2}
    np.testing.assert_allclose(predicted(first, "burgers", values), predicted(second, "burgers", values), atol=1e-5)


def test_shared_training_of_a_model_drops_them(shared: Path, language_model: Path, tmp_path: Path) -> None:
    train(own_recipe(shared, language_model, "burgers"), tmp_path / "a")
    train(recipe(language_model, **STAGES, init=str(tmp_path / "a" / "best")), tmp_path / "b")
    assert from_pretrained(tmp_path / "b" / "best").deltas == {}


@pytest.mark.parametrize("change", [{"init": None}, {"stage2": {"steps": 2, "body": True}}, {"families": 2}])
def test_what_they_need_is_checked(language_model: Path, shared: Path, change: dict[str, object]) -> None:
    wanted = own_recipe(shared, language_model, "burgers")
    change = {"families": recipe(language_model)["families"]} if "families" in change else change
    with pytest.raises(ValidationError, match="a family's own"):
        TrainConfig.model_validate(wanted | change)


def test_they_are_of_the_architecture_of_the_model(shared: Path, language_model: Path, tmp_path: Path) -> None:
    wanted = own_recipe(shared, language_model, "burgers")
    wanted["model"] = {**SMALL_MODEL, "retention": False}
    with pytest.raises(UserError) as caught:
        train(wanted, tmp_path)
    assert caught.value.code == "shape_mismatch"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("tuning", ["operator", "lora"])
def test_an_adaptation_starts_from_the_family_s_own(
    shared: Path, language_model: Path, tmp_path: Path, tuning: str
) -> None:
    parent = tmp_path / "models" / "parent"
    model, other = from_pretrained(shared), from_pretrained(shared)
    model.deltas["burgers"] = deltas_between(model.operator, moved(other.operator))
    fine = model.config.families["burgers"].model_copy(update={"points": 64})
    model.config = model.config.changed(families={**model.config.families, "burgers": fine})
    save_pretrained(model, parent)
    store = build_store(family("burgers"), {"nu": 0.2}, 8, 32, 0, tmp_path / "data", frame_dt=0.05, t_final=0.5)
    run, _ = adaptation(parent, store, tmp_path / "work", tuning=tuning, max_steps=2, learning_rate=1e-9)
    report = run.run()
    tuned = tmp_path / "models" / "tuned"
    deliver(report, tmp_path / "work" / "best", tuned, run.about("parent"))
    values = {"nu": 0.2}
    plain = from_pretrained(shared)
    plain.config = model.config
    own, shared_alone = (predicted(of, "burgers", values) for of in (from_pretrained(parent), plain))
    found = from_pretrained(tuned)
    assert found.config.families["burgers"].points == 64
    found.config = model.config  # the scales of its few trajectories are not the question
    np.testing.assert_allclose(predicted(found, "burgers", values), own, atol=5e-4)
    assert np.abs(own - shared_alone).max() > 2e-3
    assert found.deltas == {}
    assert found.of_family("burgers") is found
    if tuning == "lora":
        shutil.copytree(tmp_path / "models", tmp_path / "elsewhere")
        again = from_pretrained(tmp_path / "elsewhere" / "tuned")
        again.config = model.config
        np.testing.assert_array_equal(predicted(again, "burgers", values), predicted(found, "burgers", values))
