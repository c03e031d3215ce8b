"""What the shipped weights cost: every recipe counts, with the steps that were made of each of its parts."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import training_cost
from tests.train.test_run import recipe
from ups_server.catalog import shipped_folder
from ups_server.train.config import Stage


def test_all_recipes_of_the_shipped_model_are_counted() -> None:
    recipes = {path.stem for path in (shipped_folder() / "ups-mini" / "recipes").glob("*.yaml")}
    assert set(training_cost.STEPS) == recipes


@pytest.mark.parametrize(
    ("made", "expected"), [(100, [(1, 0.6), (2, 0.3), (4, 0.1)]), (75, [(1, 0.8), (2, 0.2)]), (30, [(1, 1.0)])]
)
def test_parts_that_were_not_reached_cost_nothing(made: int, expected: list[tuple[int, float]]) -> None:
    stage = Stage(steps=100, unroll=((0.0, 1), (0.6, 2), (0.9, 4)))
    found = list(training_cost.parts(stage, made))
    assert [unroll for unroll, _ in found] == [unroll for unroll, _ in expected]
    assert [share for _, share in found] == pytest.approx([share for _, share in expected])


def test_minutes_of_every_recipe_and_of_all(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = recipe(language_model, stage1={"steps": 4, "warmup": 1, "unroll": [[0.0, 1], [0.5, 2]]}, stage2={})
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.yaml").write_text(yaml.safe_dump(small))
    monkeypatch.setattr(training_cost, "DATA", tmp_path / "recipes" / "small.yaml")
    monkeypatch.setattr(training_cost, "STEPS", {"small": 4000})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["training_cost.py", str(tmp_path), "--beside", "fno", "--json", "cost.json"])
    training_cost.main()
    record = json.loads(Path("cost.json").read_text())
    assert record["minutes"]["small"] > 0
    assert record["as_long"]["fno"][0] > 0
    assert record["as_long"]["fno"][1] == 0
    out = capsys.readouterr().out
    assert f"{record['minutes']['small']:.1f}" in out
    assert f"as long: fno, {record['as_long']['fno'][0]} steps" in out


def test_steps_of_a_baseline_take_as_long_in_the_stages_it_has() -> None:
    assert training_cost.as_many("unet", 60.0, [0.5, 0.0]) == [7200, 0]
    # The paper's first stage has a sixth of the time.
    assert training_cost.as_many("ups-paper", 60.0, [1.0, 2.0]) == [600, 1500]
