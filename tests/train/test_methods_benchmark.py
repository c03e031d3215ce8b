"""The benchmark of methods: what runs when, what counts as flat and as better, and that all of it runs."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import methods
from benchmarks.adaptation_tables import write
from benchmarks.methods import METHODS, PROBLEMS, QUICK, Run, in_minutes, parsed, planned, record_of
from benchmarks.methods_tables import Record, best_three, flat, spread, table, verdict
from tests.small_models import write_language_model, write_parent
from ups_server.errors import UserError

BURGERS = PROBLEMS["burgers"]


def curve(*errors: float | None) -> list[dict[str, Any]]:
    return [{"step": step, "one_step": error} for step, error in enumerate(errors)]


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((1.0, 0.5, 0.2, 0.2, 0.2), True),
        ((1.0, 0.5, 0.2, 0.19, 0.195), True),  # 2.5 % in the last quarter
        ((1.0, 0.5, 0.2, 0.2, 0.18), False),
        ((1.0, 0.5, 0.2, 0.4, 0.9), True),  # it does not fall any more
        ((1.0,), False),
        ((), False),
        ((None, None, None, None, 0.2), False),
    ],
)
def test_flat_is_where_the_last_quarter_gains_little(errors: tuple[float, ...], expected: bool) -> None:
    assert flat(curve(*errors)) is expected


def record(run: Run, error: float | None, seconds: float = 10.0, falling: bool = False) -> Record:
    part = {"one_step": {"nrmse": error}, "rollout": {"nrmse_trajectory": error}}
    errors = (1.0, 0.5, 0.4) if falling else (1.0, 0.2, 0.2, 0.2, 0.2)
    found = {"tuned": part, "persistence": part, "base": None, "curve": curve(*errors), "steps": 100}
    return record_of(run, {**found, "seconds": seconds})


def options(*arguments: str) -> argparse.Namespace:
    return parsed([*arguments, "--problems", "burgers"])


def test_equal_minutes_follow_from_equal_steps() -> None:
    asked = options("--k", "10", "--seeds", "1", "--methods", "ORCA", "--each", "2")
    first = planned(asked, "abc", [])
    assert [run.budget for run in first] == ["steps", "steps"]
    known = [record(first[0], 0.1, seconds=5.0)]
    both = planned(asked, "abc", known)
    (added,) = [run for run in both if run.budget == "minutes"]
    assert (added.method, added.steps) == (first[0].method, 2400)  # 20 steps a second
    assert in_minutes(first[1], known, 2.0) is None
    assert len({run.id for run in both}) == len(both)


def test_only_the_best_three_go_on_to_more_trajectories() -> None:
    asked = options("--seeds", "1")
    assert {run.k for run in planned(asked, "abc", [])} == {10, 100}
    runs = [run for run in planned(asked, "abc", []) if run.k == 100]
    assert len(runs) == len(METHODS)
    known = [record(run, 0.1 + place) for place, run in enumerate(runs)]
    best = best_three(known, BURGERS.label)
    assert best == [run.method.label for run in runs[:3]]
    further = [run for run in planned(asked, "abc", known) if run.k in (50, 500)]
    assert {run.method.label for run in further} == set(best)
    assert {run.k for run in further} == {50, 500}


def test_fresh_starts_do_not_depend_on_the_model() -> None:
    asked = options("--k", "10", "--seeds", "1")
    before, after = ({run.id for run in planned(asked, weights, [])} for weights in ("abc", "def"))
    assert len(before & after) == sum(method.start != "model" for method in METHODS)


def runs_of(label: str, count: int) -> list[Run]:
    (method,) = [method for method in METHODS if method.label == label]
    return [Run(BURGERS, method, 10, seed, "steps", 100) for seed in range(count)]


def test_only_ranges_that_lie_apart_rank() -> None:
    def rows(label: str, *errors: float) -> list[Record]:
        return [record(run, error) for run, error in zip(runs_of(label, len(errors)), errors, strict=True)]

    place = (BURGERS.label, 10, "steps")
    apart = {"ORCA": rows("ORCA", 0.1, 0.2), "PaRe": rows("PaRe", 0.3, 0.4)}
    assert verdict(place, apart) == "k = 10, equal steps: ORCA is best."
    alike = {"ORCA": rows("ORCA", 0.1, 0.35), "PaRe": rows("PaRe", 0.3, 0.4)}
    assert verdict(place, alike) == "k = 10, equal steps: ORCA is lowest, not told apart from PaRe."
    single = {"ORCA": rows("ORCA", 0.1), "PaRe": rows("PaRe", 0.3)}
    assert "no method is called better" in verdict(place, single)
    falling = {**apart, "PaRe": [record(run, 0.3, falling=True) for run in runs_of("PaRe", 2)]}
    assert verdict(place, falling).endswith("Still falling at the end (*): PaRe.")
    assert spread([0.1, 0.3]) == "0.2000 (0.1000 to 0.3000)"


def test_the_table_says_what_diverged_and_replaces_its_block(tmp_path: Path) -> None:
    records = [record(run, 0.2) for run in runs_of("ORCA", 2)] + [record(run, None) for run in runs_of("PaRe", 2)]
    text = "\n".join(table(records))
    assert "| ORCA | lm | 0.2000 (0.2000 to 0.2000) / 0.2000 (0.2000 to 0.2000) |" in text
    assert "| PaRe | lm | diverged / diverged |" in text
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- methods -->\nold\n<!-- /methods -->\nafter\n")
    write(text, page, "methods")
    assert page.read_text() == f"before\n<!-- methods -->\n{text.rstrip()}\n<!-- /methods -->\nafter\n"
    page.write_text("nothing")
    with pytest.raises(UserError, match="no block"):
        write(text, page, "methods")


def test_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind of start, on a line and on a steady problem; a second call has nothing left to do."""
    (tmp_path / "pretrained").mkdir()
    language_model = write_language_model(tmp_path / "pretrained")
    monkeypatch.setattr("ups_server.model.body.default_folder", lambda: language_model)
    model = write_parent(tmp_path / "tiny", language_model)
    kept = tmp_path / "methods.json"
    arguments = [
        *("--model", str(model), "--quick", "--problems", "burgers", "darcy", "--resolution", "16"),
        *("--folder", str(tmp_path / "runs"), "--json", str(kept)),
    ]
    methods.main(arguments)
    told = capsys.readouterr().out
    count = 2 * 2 * sum(any(part in method.label for part in QUICK) for method in METHODS)
    assert told.endswith(f"{count} of {count} runs finished\n")
    entries = json.loads(kept.read_text())
    assert {entry["budget"] for entry in entries.values()} == {"steps", "minutes"}
    assert {entry["method_start"] for entry in entries.values()} == {"lm", "random", "model"}
    assert all(entry["tuned"]["one_step"] > 0 for entry in entries.values())
    assert "**Darcy, 16²**, error of the solution:" in told
    monkeypatch.setattr(methods, "result_of", lambda *_: pytest.fail("a finished run is not repeated"))
    methods.main(arguments)
    assert capsys.readouterr().out == told
