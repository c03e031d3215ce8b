"""Recipes are replayed in the order of their numbers, each from the weights of the one before."""

from pathlib import Path

import pytest
import yaml

from tests.train.test_run import recipe
from ups_server.catalog import shipped_folder
from ups_server.errors import UserError
from ups_server.model.checkpoint import from_pretrained
from ups_server.train.config import TrainConfig
from ups_server.train.run import RUNS, check_config, numbered, replay

SHIPPED = shipped_folder() / "ups-mini" / "recipes"


def test_the_recipes_of_the_shipped_model_follow_each_other() -> None:
    found = numbered(SHIPPED)
    assert [int(file.name[:2]) for file in found] == list(range(1, 17))
    assert len(list(SHIPPED.iterdir())) == 16
    before = None
    for file in found:
        config = TrainConfig.load(file)
        check_config(config)
        if before is not None:
            assert config.init == (shipped_folder().parent / RUNS / before / "best").resolve(), file.name
        before = config.name
    assert config.out == SHIPPED.parent.resolve()
    assert config.name == from_pretrained(SHIPPED.parent).config.name


def test_all_of_a_folder_are_trained_in_order(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "recipes"
    folder.mkdir()
    stages = {"stage1": {"steps": 2, "warmup": 1}, "stage2": {"steps": 0}, "validate_every": 2}
    whole = recipe(language_model, **stages) | {"name": "first", "out": "../model"}
    init = "../runs/first/best"
    deltas = whole | {
        "name": "second",
        "init": init,
        "deltas": True,
        "families": {"burgers": whole["families"]["burgers"]},
    }
    (folder / "10_burgers_alone.yaml").write_text(yaml.safe_dump(deltas))
    (folder / "9_both.yaml").write_text(yaml.safe_dump(whole))
    (folder / "notes.yaml").write_text("no recipe")
    model = replay(folder, device="cpu")
    found = from_pretrained(model)
    assert model == (tmp_path / "model").resolve()
    assert (found.config.name, set(found.config.families), set(found.deltas)) == (
        "second",
        {"burgers", "advection"},
        {"burgers"},
    )
    changed = (model / "model.safetensors").stat().st_mtime_ns
    weights = (tmp_path / "runs" / "second" / "state.safetensors").stat().st_mtime_ns
    replay(folder, device="cpu")  # nothing is left to train
    assert (tmp_path / "runs" / "second" / "state.safetensors").stat().st_mtime_ns == weights
    assert (model / "model.safetensors").stat().st_mtime_ns >= changed


def test_a_folder_without_recipes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        replay(tmp_path)
    assert caught.value.code == "invalid_config"
