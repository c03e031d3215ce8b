"""The comparison at equal wall-clock: trained runs in, one table of all of them out."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from benchmarks import baselines
from tests.train.test_run import SMALL_MODEL, recipe
from ups_server.train.baseline import train_baseline

CHANGES = {
    "fno": ["model.hidden_channels=8"],
    "unet": ["model.hidden_channels=8", "model.n_layers=3"],
    "ups-paper": [f"model={json.dumps(SMALL_MODEL | {'n_modes': 4})}"],
}


@pytest.fixture
def trained(language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every model of the comparison after a few steps; the folder of the one that stands for the shipped model."""
    small = recipe(language_model, name="comparison", stage1={"steps": 2, "warmup": 1}, stage2={})
    small["families"] = {"advection": small["families"]["advection"]}
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump(small))
    monkeypatch.setattr(baselines, "RECIPE", path)
    monkeypatch.setattr(baselines, "RESOLUTION", SMALL_MODEL["resolution"])
    monkeypatch.chdir(tmp_path)
    folders = {
        name: train_baseline(name, path, changes=CHANGES.get(name, ()), device="cpu")
        for name in (baselines.SCRATCH, *baselines.COMPETITORS)
    }
    return folders[baselines.SCRATCH]


def test_one_table_of_all(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["baselines.py", str(trained), "--json", "out.json"])
    baselines.main()
    record = json.loads(Path("out.json").read_text())
    assert set(record["training"]) == {baselines.SCRATCH, *baselines.COMPETITORS}
    assert all(length["best_at"] for length in record["training"].values())
    (row,) = record["tables"]["test split"]
    errors = row["errors"]
    # The same weights under two names have the same errors; the others have their own.
    assert errors[baselines.SHIPPED] == errors[baselines.SCRATCH]
    assert len({error["one_step"] for error in errors.values()}) == len(errors) - 1
    printed = capsys.readouterr().out
    assert "| `advection`" in printed
    assert "shipped: one step no worse than fno on" in printed

    monkeypatch.setattr(sys, "argv", ["baselines.py", str(trained), "--beside", "unet", "--json", "one.json"])
    baselines.main()
    (alone,) = json.loads(Path("one.json").read_text())["tables"]["test split"]
    names = (baselines.SHIPPED, "unet", baselines.PERSISTENCE)
    assert alone["errors"] == {name: row["errors"][name] for name in names}

    arguments = ["baselines.py", str(trained), "--beside", "ups-paper", "--recorded", "one.json", "--json", "two.json"]
    monkeypatch.setattr(sys, "argv", arguments)
    baselines.main()
    joined = json.loads(Path("two.json").read_text())
    assert joined["tables"]["test split"][0]["errors"] == {name: row["errors"][name] for name in (*names, "ups-paper")}
    assert set(joined["training"]) == {"unet", "ups-paper"}


def test_columns_of_other_trajectories_are_not_joined() -> None:
    def row(persistence: float, **errors: float) -> dict[str, Any]:
        known = errors | {baselines.PERSISTENCE: persistence}
        return {"row": "burgers", "errors": {who: {"one_step": value, "rollout": None} for who, value in known.items()}}

    ours = [row(0.1, shipped=0.01)]
    assert not baselines.join(ours, [row(0.11, fno=0.02)])
    assert not baselines.join(ours, [])
    assert ours == [row(0.1, shipped=0.01)]
    assert baselines.join(ours, [row(0.1, shipped=0.03, fno=0.02)])
    assert ours == [row(0.1, shipped=0.01, fno=0.02)]


def test_the_picture_has_a_panel_a_family(tmp_path: Path) -> None:
    growing = {name: [0.1, 0.2, None] for name in (baselines.SHIPPED, *baselines.COMPETITORS, baselines.PERSISTENCE)}
    rows = [{"row": name, "per_step": growing} for name in "abcdefg"]
    baselines.draw(rows, tmp_path / "seven.png")
    baselines.draw(rows[:2], tmp_path / "two.png")
    heights = [image_size(tmp_path / name)[1] for name in ("seven.png", "two.png")]
    assert heights[0] > heights[1]


def image_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_verdicts_count_rows() -> None:
    def row(name: str, ours: float, other: float | None) -> dict[str, object]:
        errors = {competitor: {"one_step": other, "rollout": other} for competitor in baselines.COMPETITORS}
        errors[baselines.PERSISTENCE] = {"one_step": None, "rollout": 0.15}
        return {"row": name, "errors": errors | {"ours": {"one_step": ours, "rollout": ours}}}

    rows = [row("half", 0.1, 0.2), row("better", 0.1, 0.15), row("worse", 0.2, 0.1), row("diverged", 0.2, None)]
    assert list(baselines.verdicts(rows, "ours")) == [
        *(f"ours: one step no worse than {name} on 3 of 4" for name in baselines.COMPETITORS),
        "ours: rollout at most half of the best competitor's on 2 of 4: half, diverged",
        "ours: rollout below persistence on 2 of 4",
    ]
