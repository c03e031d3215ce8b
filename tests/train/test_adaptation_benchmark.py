"""The benchmark of adaptation runs, keeps what is finished, and prints both tables."""

import json
from pathlib import Path

import pytest

from benchmarks import adaptation
from tests.small_models import write_parent
from ups_server.align.registry import ALIGNMENTS


def test_tables_share_their_runs_and_ids_tell_settings_apart() -> None:
    runs = list(adaptation.planned("ups-mini", 128, False, (10, 50, 100), "ab"))
    assert len([run for run in runs if run.table == "a"]) == 3 * 3 * 2
    methods = [run for run in runs if run.table == "b"]
    assert len(methods) == 2 * 2 * 2 * len(ALIGNMENTS) * 3
    assert len({run.id for run in methods}) == len(methods)
    assert len({run.id for run in runs}) == len(runs) - 2 * 2  # none, full, seed 0 of two targets at k = 10 and 50


def test_table_of_methods_is_the_mean_over_seeds() -> None:
    runs = [run for run in adaptation.planned("m", 32, False, (10,), "b") if run.target.family == "burgers"]
    scores = {0: {"one_step": 0.1, "rollout": 0.4}, 1: {"one_step": 0.3, "rollout": None}}
    results = {run.id: {"tuned": scores[run.seed]} for run in runs if (run.alignment, run.tuning) == ("otdd", "lora")}
    (row,) = [line for line in adaptation.method_table(runs, results) if "0.2000" in line]
    assert row == "| otdd | lora | 0.2000 ± 0.1000 / diverged |"
    assert len(list(adaptation.method_table(runs, results))) == 2 + len(ALIGNMENTS) * 3


@pytest.mark.slow
def test_quick(language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_parent(tmp_path / "tiny", language_model)
    gathered = tmp_path / "all.json"
    options = ["--model", str(model), "--quick", "--folder", str(tmp_path / "runs"), "--json", str(gathered)]
    adaptation.main(options)
    printed = capsys.readouterr().out
    assert "13 of 13 runs finished" in printed
    assert "| pare | lora |" in printed
    assert printed.count("diffusion-reaction 1-D | 4 |") == 1
    files = sorted((tmp_path / "runs").glob("*.json"))
    assert len(files) == 13  # the plain run is in both tables
    stamps = [file.stat().st_mtime_ns for file in files]
    adaptation.main(options)
    assert [file.stat().st_mtime_ns for file in files] == stamps
    assert capsys.readouterr().out == printed
    assert len(json.loads(gathered.read_text())) == 13
