"""The benchmark of adaptation runs, keeps every finished row, and its tables follow from what is kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import adaptation, adaptation_tables
from benchmarks.adaptation import BURGERS, DR_1D, DR_2D, TARGETS, Planned, keep, planned, record_of
from tests.small_models import write_parent
from ups_server.align import ALIGNMENTS
from ups_server.errors import UserError

ALL = tuple(TARGETS.values())
PLAIN = Planned("a", DR_1D, "m", "abc", 10)
METHOD = replace(PLAIN, table="b", steps=150)


def record(run: Planned, one_step: float | None, rollout: float | None) -> dict[str, Any]:
    errors = {"one_step": {"nrmse": one_step}, "rollout": {"nrmse_trajectory": rollout}}
    return record_of(
        run,
        {
            "steps": 150,
            "seconds": 10 + 20 * (run.tuning == "lora"),
            **{part: errors for part in ("zero_shot", "tuned", "persistence")},
        },
    )


def test_ids_tell_settings_apart() -> None:
    both, methods = (planned("m", "abc", 128, ALL, (10, 50, 100), tables, False) for tables in ("ab", "b"))
    assert len(planned("m", "abc", 128, ALL, (10, 50, 100), "a", False)) == 3 * 3 * 2
    assert len(methods) == 2 * 2 * 2 * (len(ALIGNMENTS) * 3 + 1)  # the default tuning has no aligned rows
    assert len({run.id for run in both}) == len(both) == 3 * 3 * 2 + len(methods)
    assert len({(run.steps, run.target.held_out, run.resolution) for run in methods}) == 1
    assert len(planned("m", "abc", 32, (DR_1D, BURGERS), (4,), "ab", True)) == 4 + len(ALIGNMENTS) + 1


def test_other_weights_are_other_rows_and_the_scratch_fno_has_none() -> None:
    before, after = (planned("m", weights, 128, ALL, (10,), "a", False) for weights in ("abc", "def"))
    shared = {run.id for run in before} & {run.id for run in after}
    assert shared == {run.id for run in before if run.model == "fno"}


def test_what_is_compared_has_one_k_one_budget_and_one_protocol() -> None:
    runs = planned("m", "abc", 128, ALL, (10, 50), "a", False)
    for own, fno in zip(runs[::2], runs[1::2], strict=True):
        assert replace(own, model="fno", weights="", tuning="full") == fno


def test_rows_of_the_first_table_and_their_verdict() -> None:
    fno = replace(PLAIN, model="fno", weights="")
    rows = [record(PLAIN, 0.01, 0.1), record(fno, 0.02, 0.2)]
    rows += [record(replace(run, k=50), value, 0.1) for run, value in ((PLAIN, 0.01), (fno, 0.005))]
    told = list(adaptation_tables.report(rows))
    (ten,) = [line for line in told if line.startswith("| diffusion-reaction 1-D | 10 |")]
    assert ten.endswith("| 0.0100 / 0.1000 | 0.0200 / 0.2000 | 0.0100 / 0.1000 | 0.0557 to 0.0107 |")
    assert "better than FNO in one-step and rollout in 1 of 2 rows." in "\n".join(told)
    assert not any("alignment" in line for line in told)  # there is no second table yet


def test_rows_of_the_second_table_are_means_over_seeds() -> None:
    lora = replace(METHOD, target=BURGERS, tuning="lora", alignment="otdd")
    rows = [record(lora, 0.1, 0.4), record(replace(lora, seed=1), 0.3, None), record(replace(PLAIN, k=100), 1.0, 1.0)]
    told = list(adaptation_tables.report(rows))
    assert "Methods, each run of 150 steps:" in told
    assert "| alignment | tuning | Burgers nu = 1.0, k = 10 | errors | seconds |" in told  # where methods were compared
    assert "| otdd | lora | 0.2000 ± 0.1000 / diverged | - | - |" in told  # nothing to compare with
    assert "No method is recommended before the table is whole." in told


@pytest.mark.parametrize(
    ("lora", "words"), [(0.05, "`otdd` with `lora` has the smallest errors"), (0.2, "no method has smaller errors")]
)
def test_the_choice_follows_from_the_table(lora: float, words: str) -> None:
    rows = [record(METHOD, 0.1, 0.1), record(replace(METHOD, alignment="otdd", tuning="lora"), lora, lora)]
    *table, verdict = adaptation_tables.method_table(rows)
    assert f"| otdd | lora | {lora:.4f} / {lora:.4f} | {10 * lora:.2f} | 3.0 |" in table
    assert "| none | operator | 0.1000 / 0.1000 | 1.00 | 1.0 |" in table
    assert words in verdict
    assert ("50 % below" in verdict) == (lora < 0.1)


def test_a_row_of_one_model_does_not_enter_the_table_of_another() -> None:
    rows = [record(PLAIN, 0.1, 0.1), record(replace(PLAIN, weights="def"), 0.2, 0.2)]
    told = "\n".join(adaptation_tables.report(rows))
    assert told.index("weights abc") < told.index("0.1000 / 0.1000") < told.index("weights def")
    assert told.count("| diffusion-reaction 1-D | 10 |") == 2


def test_rows_are_kept_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "adaptation.json"
    assert adaptation_tables.load(path) == []
    runs = [PLAIN, replace(PLAIN, target=DR_2D)]
    for run in (*runs, runs[0]):
        keep(run, record(run, 0.1, 0.2), path, tmp_path / "lock")
    assert adaptation.finished(path) == {run.id for run in runs}
    assert [entry["target"] for entry in adaptation_tables.load(path)] == [run.target.label for run in runs]


def test_tables_go_into_their_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, readme = tmp_path / "adaptation.json", tmp_path / "README.md"
    keep(PLAIN, record(PLAIN, 0.1, 0.1), path, tmp_path / "lock")
    readme.write_text("before\n<!-- adaptation -->\nold\n<!-- /adaptation -->\nafter\n")
    for _ in range(2):
        adaptation_tables.main(["--json", str(path), "--write", str(readme)])
    text = readme.read_text()
    assert text.startswith("before\n<!-- adaptation -->\n`m` (weights abc):\n")
    assert text.endswith(" of 0 rows.\n<!-- /adaptation -->\nafter\n")
    assert "old" not in text
    assert "0.1000 / 0.1000" in capsys.readouterr().out
    with pytest.raises(UserError, match="no block"):
        adaptation_tables.write("x", path)


@pytest.mark.slow
def test_quick(language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_parent(tmp_path / "tiny", language_model)
    gathered = tmp_path / "all.json"
    options = ["--model", str(model), "--quick", "--folder", str(tmp_path / "runs"), "--json", str(gathered)]
    adaptation.main([*options, "--rows", "fno", "pare-lora"])
    assert "3 of 3 runs finished" in capsys.readouterr().out
    adaptation.main(options)
    printed = capsys.readouterr().out
    assert "12 of 12 runs finished" in printed
    assert "| pare | lora |" in printed
    assert printed.count("diffusion-reaction 1-D | 4 |") == 1
    assert len(json.loads(gathered.read_text())) == 12
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["data"]
    stamp = gathered.stat().st_mtime_ns
    adaptation.main(options)
    assert gathered.stat().st_mtime_ns == stamp
    assert capsys.readouterr().out == printed
