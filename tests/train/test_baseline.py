"""Baselines and controls derived from a recipe, stages of so many minutes, stores that runs share."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from tests.train.test_run import SMALL_MODEL, Recorder, recipe, weights
from ups_server.cli import main
from ups_server.errors import UserError
from ups_server.model.checkpoint import from_pretrained
from ups_server.model.operator import UPSModel
from ups_server.train.baseline import BASELINES, baseline_config
from ups_server.train.config import Stage, TrainConfig, overridden, parse_changes
from ups_server.train.dataset import store_name
from ups_server.train.loop import WARMUP_SHARE, read_position, schedule
from ups_server.train.run import TrainingRun, check_config
from ups_server.train.validation import total


def small(language_model: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(recipe(language_model, **changes))


def started(config: TrainConfig, folder: Path, stores: Path) -> None:
    """As far as its data."""
    TrainingRun(config, folder, Recorder(), "cpu", stores=stores)


def finished(config: TrainConfig, folder: Path, stop_after: int | None = None) -> Recorder:
    recorder, calls = Recorder(), iter(range(100_000))
    TrainingRun(config, folder, recorder, "cpu", lambda: stop_after is not None and next(calls) >= stop_after).train()
    return recorder


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_same_data_from_scratch_and_as_long(language_model: Path, name: str, tmp_path: Path) -> None:
    own = small(language_model, init=str(tmp_path), seed=7)
    config = baseline_config(own, name)
    assert config.families == own.families
    assert {store_name(key, data, 7) for key, data in own.families.items()} == {
        store_name(key, data, config.data_seed or 0) for key, data in config.families.items()
    }
    assert config.init is None
    assert config.out != own.out
    assert config.stage1.steps + config.stage2.steps == own.stage1.steps + own.stage2.steps
    timed = baseline_config(own, name, minutes=12)
    assert timed.stage1.steps == timed.stage2.steps == 0
    assert timed.stage1.minutes + timed.stage2.minutes == pytest.approx(12)
    shape = check_config(timed)
    assert shape.resolution == SMALL_MODEL["resolution"]
    one = baseline_config(own, name, families=["burgers"])
    assert list(one.families) == ["burgers"]
    assert one.name != config.name


def test_controls_change_what_they_name_and_nothing_else(language_model: Path) -> None:
    own = small(language_model)
    scratch, bare, random, untold, unaligned = (
        baseline_config(own, name) for name in ("from-scratch", "no-body", "random-body", "no-metadata", "no-alignment")
    )
    assert check_config(scratch) == check_config(own)
    assert (scratch.stage1, scratch.stage2, scratch.families) == (own.stage1, own.stage2, own.families)
    assert not check_config(bare).reading.body
    assert not bare.stage2.body
    assert random.random_body
    assert random.stage2 == own.stage2
    assert check_config(untold).conditioner.metadata == "none"
    assert untold.stage1 == own.stage1
    assert unaligned.stage1 == own.stage1.model_copy(update={"alignment": "none"})
    assert check_config(unaligned) == check_config(own)


def test_minutes_are_divided_as_the_recipe_divides_its_own(language_model: Path) -> None:
    own = small(language_model, stage1={"minutes": 3}, stage2={"minutes": 1})
    assert baseline_config(own, "no-alignment", minutes=8).stage1.minutes == pytest.approx(6)
    mixed = small(language_model, stage1={"minutes": 3}, stage2={"steps": 10})
    with pytest.raises(UserError, match="--minutes"):
        baseline_config(mixed, "fno")


def test_the_paper_is_trained_as_it_says(language_model: Path) -> None:
    paper = baseline_config(small(language_model), "ups-paper", minutes=12)
    assert (paper.ema, paper.clip) == (0.0, 0.0)
    for stage, rate, body_rate in ((paper.stage1, 5e-4, 0.0), (paper.stage2, 5e-5, 5e-5)):
        assert (stage.optimiser, stage.betas, stage.weight_decay) == ("adam", (0.9, 0.98), 1e-5)
        assert (stage.learning_rate, stage.body_learning_rate) == (rate, body_rate)
        assert (stage.noise, stage.unroll) == (0.0, ((0.0, 1),))
    assert (paper.stage1.alignment, paper.stage2.alignment) == ("mmd", "none")
    assert (paper.stage1.schedule, paper.stage1.warmup) == ("constant", 0)
    assert (paper.stage2.schedule, paper.stage2.warmup_share) == ("linear", 0.05)
    assert paper.stage1.minutes == pytest.approx(2)  # 20 of 120 epochs


def test_unknown_names_are_the_user_s_mistake(language_model: Path) -> None:
    own = small(language_model)
    with pytest.raises(UserError, match="baseline"):
        baseline_config(own, "resnet")
    with pytest.raises(UserError, match="no such family"):
        baseline_config(own, "fno", families=["heat"])
    with pytest.raises(UserError, match="changed"):
        overridden(own, {"stage1.stepz": 3})
    with pytest.raises(UserError, match="no such part"):
        overridden(own, {"stage9.steps": 3})
    with pytest.raises(UserError, match="PATH=VALUE"):
        parse_changes(["model.n_modes"])
    assert parse_changes(["stage1.unroll=[[0.0, 2]]"]) == {"stage1.unroll": [[0.0, 2]]}
    with pytest.raises(UserError, match="no language model"):
        check_config(overridden(baseline_config(own, "fno"), {"stage1.alignment": "mmd"}))
    with pytest.raises(UserError, match="cannot be built"):
        check_config(overridden(own, {"model.operator": "transformer"}))


@pytest.mark.parametrize("name", ["fno", "unet"])
def test_baseline_learns_without_a_language_model(tmp_path: Path, name: str) -> None:
    stage = {"steps": 80, "learning_rate": 5e-3, "warmup": 5, "alignment": "mmd"}
    own = small(Path("nowhere"), stage1=stage, stage2={}, validate_every=40)
    config = overridden(baseline_config(own, name), {"model.hidden_channels": 16, "model.n_layers": 3})
    recorder = finished(config, tmp_path)
    assert total(recorder.scores[-1]) < total(recorder.scores[0])
    assert recorder.scores[-1]["advection"].one_step < 0.85 * recorder.scores[-1]["advection"].persistence
    assert not isinstance(from_pretrained(tmp_path / "best").operator, UPSModel)


@pytest.mark.parametrize("name", ["from-scratch", "no-body", "random-body", "no-metadata", "no-alignment", "ups-paper"])
def test_every_other_baseline_trains(language_model: Path, tmp_path: Path, name: str) -> None:
    own = small(language_model)
    changes = {"model": SMALL_MODEL | {"n_modes": 4}} if name == "ups-paper" else {}
    recorder = finished(overridden(baseline_config(own, name), changes), tmp_path)
    assert total(recorder.scores[-1]) < float("inf")
    model = from_pretrained(tmp_path / "best").operator
    assert model.use_body == (name != "no-body")


def test_a_stage_of_minutes_ends_by_the_clock_and_resumes(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = small(language_model, stage1={"minutes": 5 / 60, "warmup": 2}, stage2={}, validate_every=10_000)
    # A clock by which every training step takes a second.
    monkeypatch.setattr("ups_server.train.loop.time", SimpleNamespace(thread_time=itertools.count().__next__))
    finished(own, tmp_path / "whole")
    finished(own, tmp_path / "parts", stop_after=2)
    halfway = read_position(tmp_path / "parts")
    assert halfway is not None
    assert (halfway.stage, halfway.step, halfway.stage_seconds) == (0, 2, 2.0)
    recorder = finished(own, tmp_path / "parts")
    done = read_position(tmp_path / "parts")
    assert done is not None
    # The stage that is left out comes after it, and starts its own clock.
    assert (done.stage, done.seconds, done.stage_seconds) == (1, 5.0, 0.0)
    assert done.best_at == "stage 1, step 5"
    assert len(recorder.scores) == 1
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_learning_rate_follows_the_clock() -> None:
    stage = Stage(minutes=10, warmup=100, schedule="linear")
    assert schedule(stage, 0, 0.0) == pytest.approx(0.01)
    assert schedule(stage, 100, 0.01) == pytest.approx(0.99)
    # Where steps are slow the warm-up ends by the clock.
    assert schedule(stage, 3, WARMUP_SHARE / 2) == pytest.approx(0.5)
    assert schedule(stage, 3, 0.5) == pytest.approx(0.5)
    assert schedule(stage, 5000, 1.0) == 0.0
    with pytest.raises(ValueError, match="not both"):
        Stage(minutes=1, steps=1)


def test_runs_share_the_stores_of_the_same_data(language_model: Path, tmp_path: Path) -> None:
    own, stores = small(language_model), tmp_path / "data"
    started(own, tmp_path / "own", stores)
    before = {path: path.stat().st_mtime_ns for path in stores.rglob("manifest.json")}
    assert len(before) == 2
    started(baseline_config(own, "fno"), tmp_path / "fno", stores)
    assert {path: path.stat().st_mtime_ns for path in stores.rglob("manifest.json")} == before
    started(small(language_model, seed=3), tmp_path / "other", stores)
    assert len(list(stores.rglob("manifest.json"))) == 4


def test_every_variant_of_the_ablation_can_be_built(repository: Path) -> None:
    plan = yaml.safe_load((repository / "benchmarks" / "ablation.yaml").read_text())
    base = TrainConfig.model_validate(plan["recipe"])
    documents = set()
    for variants in plan["axes"].values():
        assert "base" in variants
        for variant, changes in variants.items():
            if variant != "base":
                config = overridden(base, changes)
                check_config(config)
                documents.add(config.model_dump_json())
    assert base.model_dump_json() not in documents
    assert len(documents) == sum(len(variants) - 1 for variants in plan["axes"].values())
    assert base.stage1.minutes + base.stage2.minutes <= 20


def test_from_the_command_line(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(json.dumps(recipe(language_model)))
    words = ["train", "baseline", "fno", "recipe.yaml", "--family", "burgers", "--set", "model.n_modes=4"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--minutes", "0.01", "--device", "cpu"])
    assert not ended.value.code, capsys.readouterr().err
    config = from_pretrained(Path("runs/small-fno-burgers/model")).config
    assert (config.operator, config.embedder.n_modes, list(config.families)) == ("fno", 4, ["burgers"])
    assert [path.name.split("-")[0] for path in Path("runs/data").iterdir() if path.is_dir()] == ["burgers"]
