"""The ablation runs, keeps what is finished, and goes on after an interruption."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import ablation
from tests.train.test_run import recipe
from ups_server.train.run import TrainingRun

AXES = {
    "output": {"base": "increment", "absolute": {"model.increment": False}},
    "propagator": {"base": "some", "none": {"model.propagator": False}},
}


@pytest.fixture
def plan(language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = recipe(language_model, stage1={"minutes": 3, "warmup": 2}, stage2={"minutes": 1, "body": True, "warmup": 1})
    base["families"] = {"advection": base["families"]["advection"]}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"recipe": base, "axes": AXES}, sort_keys=False))
    monkeypatch.setattr(ablation, "PLAN", path)
    monkeypatch.chdir(tmp_path)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    settings = ["--minutes", "0.01", "--seeds", "1", "--device", "cpu", "--json", "out.json"]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *settings, *words])
    ablation.main()


def test_resumes_and_gathers(plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "--axis", "output")
    first = json.loads(Path("out.json").read_text())["results"]
    assert [result["variant"] for result in first] == ["base", "absolute"]
    assert all(result["scores"]["advection"]["one_step"] > 0 for result in first)
    assert all(result["seconds"] >= 0.6 for result in first)
    assert {path.suffix for path in Path("runs/ablation").iterdir()} == {".json"}
    assert "| absolute | 1 |" in capsys.readouterr().out
    trained: list[str] = []

    class Counted(TrainingRun):
        def train(self) -> bool:
            trained.append(self.config.name)
            return super().train()

    monkeypatch.setattr(ablation, "TrainingRun", Counted)
    run(monkeypatch)
    assert [name.split("-seed")[0] for name in trained] == ["propagator-none"]
    results = json.loads(Path("out.json").read_text())["results"]
    assert results[:2] == first
    printed = capsys.readouterr().out
    assert "| **base** | increment" in printed
    assert "3 of 3 runs finished" in printed


def test_other_settings_are_other_runs(plan: Path) -> None:
    document = yaml.safe_load(plan.read_text())
    ids = {
        entry.id
        for minutes, count in ((1.0, None), (2.0, None), (1.0, 30))
        for entry in ablation.planned(document, minutes, range(2), count, list(AXES))
    }
    assert len(ids) == 3 * 2 * 3


def test_a_plan_may_start_from_a_model(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = ablation.read_plan(repository / "benchmarks" / "language_model.yaml")
    (shared, *others) = ablation.planned(plan, 5.0, range(1), None, list(plan["axes"]))
    assert shared.config.init is not None
    assert shared.config.init.resolve() == repository / "models" / "ups-mini"
    assert (shared.config.stage1.minutes, shared.config.stage2.minutes) == (0.0, 5.0)
    assert len({run.id for run in (shared, *others)}) == 6


def test_diverged_runs_are_counted_not_averaged() -> None:
    assert ablation.spread([0.1, None, 0.3]) == "0.2 ± 0.1 (1 diverged)"
    assert ablation.spread([None]) == "diverged"
    assert ablation.spread([]) == "-"
