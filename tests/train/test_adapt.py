"""Adaptation on a small model: it learns, says so honestly, and a run that is stopped and resumed is the same run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ups_server.data.simulate import build_store
from ups_server.data.splits import few_shot_split
from ups_server.data.statistics import compute
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.model.checkpoint import TrainedModel, from_pretrained
from ups_server.pde import family
from ups_server.train.adapt import Interrupted, Place, PreparedAdaptation, check_output, deliver, ruined
from ups_server.train.few_shot import AdaptationSettings, FewShotData, recipe
from ups_server.train.loop import StepReport, schedule
from ups_server.train.memory import check_memory
from ups_server.train.tuning import TUNINGS
from ups_server.train.validation import Score, criterion


class Recorder:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.validations: list[int] = []
        self.saves: list[int] = []
        self.phases: list[str] = []

    def phase(self, name: str, facts: dict[str, Any]) -> None:
        self.phases.append(name)

    def scoring(self, what: str, done: int, total: int) -> None:
        pass

    def step(self, step: int, steps: int, report: StepReport) -> None:
        self.steps.append(step)

    def validation(self, step: int, score: Score, best: bool) -> None:
        self.validations.append(step)

    def saved(self, step: int) -> None:
        self.saves.append(step)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twelve Burgers trajectories on 64 points; the small model works on 32."""
    folder = tmp_path_factory.mktemp("data") / "burgers"
    return build_store(family("burgers"), {"nu": 0.1}, 12, 64, 0, folder, frame_dt=0.05, t_final=1.0)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five others, seen for a shorter time."""
    folder = tmp_path_factory.mktemp("data") / "held_out"
    return build_store(family("burgers"), {"nu": 0.1}, 5, 64, 1, folder, frame_dt=0.05, t_final=0.5)


def settings(**changes: Any) -> AdaptationSettings:
    return AdaptationSettings.model_validate({"n_trajectories": 6, "max_steps": 10, **changes})


def adaptation(
    parent: Path,
    store: Store,
    folder: Path,
    stop_after: int | None = None,
    held_out: Store | None = None,
    **changes: Any,
) -> tuple[PreparedAdaptation, Recorder]:
    recorder, calls = Recorder(), iter(range(10_000))
    place = Place(folder, recorder, lambda: stop_after is not None and next(calls) >= stop_after)
    data = FewShotData(store, "burgers.h5", held_out, None if held_out is None else "held_out.h5")
    return PreparedAdaptation(parent, data, settings(**changes), "tuned", place), recorder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "best").glob("*.safetensors")
    return load_file(file)


def test_learns_an_unseen_family(parent: Path, store: Store, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run, recorder = adaptation(parent, store, work, max_steps=60, learning_rate=5e-3)
    report = run.run()
    assert report["helped"]
    assert report["tuned"]["one_step"]["nrmse"] < 0.5 * report["zero_shot"]["one_step"]["nrmse"]
    assert report["verdict"].startswith("Tuning helped")
    assert report["split"] == {"training": 6, "validation": 1, "test": 5}
    assert recorder.phases == ["zero_shot", "training", "scores"]
    # Every tenth step, until it is better no more.
    assert recorder.validations == list(range(0, recorder.steps[-1] + 1, 10))
    assert report["best_step"] in recorder.validations
    tuned = from_pretrained(work / "best").config
    split = few_shot_split(12, 6)
    assert set(tuned.families) == {"burgers"}
    assert tuned.families["burgers"].statistics == compute(store, 0.05, 32, training=split.training)
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    ("alignment", "stop_after"),
    [
        ("none", 5),
        ("mmd", 4),
        pytest.param("none", 0, marks=pytest.mark.slow),
        pytest.param("mmd", 1, marks=pytest.mark.slow),
        ("otdd", 1),
        ("recraft", 1),
        ("pare", 5),
        ("none lora", 5),
        ("none prefix", 5),
        ("otdd lora", 1),
        pytest.param("pare lora", 5, marks=pytest.mark.slow),
        pytest.param("otdd layernorm", 1, marks=pytest.mark.slow),
        pytest.param("none layernorm", 5, marks=pytest.mark.slow),
        pytest.param("none head", 5, marks=pytest.mark.slow),
    ],
)
def test_resumed_equals_uninterrupted(
    parent: Path, store: Store, tmp_path: Path, alignment: str, stop_after: int
) -> None:
    method: dict[str, Any] = dict(zip(("alignment", "tuning"), alignment.split(), strict=False))
    whole, told = adaptation(parent, store, tmp_path / "whole", **method)
    expected = whole.run()
    stopped, before = adaptation(parent, store, tmp_path / "parts", 1 + stop_after, **method)
    with pytest.raises(Interrupted):
        stopped.run()
    assert before.saves[-1] == stop_after  # a step after the last question, the state is on disk
    resumed, after = adaptation(parent, store, tmp_path / "parts", **method)
    report = resumed.run()
    assert sorted({*before.steps, *after.steps}) == told.steps
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {**report, "seconds": 0} == {**expected, "seconds": 0}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Advection, which the parent knows."""
    folder = tmp_path_factory.mktemp("data") / "advection"
    return build_store(family("advection"), {"beta": 0.4}, 6, 32, 0, folder, frame_dt=0.05, t_final=0.5)


def test_statistics_of_a_known_family_stay(parent: Path, known: Store, tmp_path: Path) -> None:
    """Two trajectories spoil nothing before the first step: the model before it is the base, and competes."""
    run, _ = adaptation(parent, known, tmp_path, n_trajectories=2, max_steps=2, learning_rate=1e-30)
    report = run.run()
    assert report["zero_shot"] == report["base"] == report["tuned"]
    assert (report["helped"], report["kept"], report["best_step"]) == (False, "base", 0)
    assert report["verdict"].startswith("Tuning did not help: no step made the model better")
    before = from_pretrained(parent).config.families["advection"]
    after = from_pretrained(run.chosen(report)).config.families["advection"]
    for name in ("mean", "std", "increment_std"):
        assert getattr(after.statistics, name) == getattr(before.statistics, name)
    low = min(before.statistics.min[0], float(known.read(run.split.training).min()))
    assert after.statistics.min[0] == pytest.approx(low)
    assert after.coefficients["beta"].low <= 0.4 <= after.coefficients["beta"].high


def test_one_step_that_changes_nothing_has_not_helped(parent: Path, store: Store, tmp_path: Path) -> None:
    """Other statistics than those of the zero-shot scores are no merit of tuning."""
    run, _ = adaptation(parent, store, tmp_path, max_steps=1, learning_rate=1e-30)
    report = run.run()
    assert report["base"] == report["tuned"] != report["zero_shot"]
    assert (report["helped"], report["kept"]) == (False, "base")
    assert "did not help" in report["verdict"]


def test_weights_that_are_worse_on_the_test_are_turned_down(
    parent: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever validation said: here it prefers the worst."""
    monkeypatch.setattr("ups_server.train.adapt.criterion", lambda one_step, rollout: -criterion(one_step, rollout))
    run, _ = adaptation(parent, store, tmp_path, max_steps=20, learning_rate=0.3)
    report = run.run()
    assert report["best_step"] > 0
    assert (report["kept"], report["helped"]) == ("base", False)
    assert report["tuned"] == report["base"]
    assert report["rejected"]["one_step"]["nrmse"] > report["base"]["one_step"]["nrmse"]
    assert "the weights are kept as they were" in report["verdict"]
    same(from_pretrained(run.chosen(report)), from_pretrained(parent))
    deliver(report, run.chosen(report), tmp_path / "out", run.about("tiny"))
    assert json.loads((tmp_path / "out" / "adaptation.json").read_text())["helped"] is False


def test_a_second_file_chooses_the_checkpoint_and_gives_the_test(
    parent: Path, store: Store, held_out: Store, tmp_path: Path
) -> None:
    """Training on all twelve; the same seed trains the same whatever judges it."""
    run, _ = adaptation(parent, store, tmp_path / "work", held_out=held_out, n_trajectories=12, max_steps=4)
    report = run.run()
    assert report["split"] == {"training": 12, "validation": 1, "test": 4}
    assert report["validation_file"] == "held_out.h5"
    assert len(report["tuned"]["rollout"]["per_step"]) == len(held_out.times) - 1 < len(store.times) - 1
    about = run.about("tiny")
    assert about["data_fingerprint"] == store.manifest.fingerprint
    assert about["validation_fingerprint"] == held_out.manifest.fingerprint
    assert run.windows.validation.store is held_out
    assert run.windows.training.store is store
    with pytest.raises(UserError, match="holds another adaptation"):
        adaptation(parent, store, tmp_path / "work", n_trajectories=10, max_steps=4)
    with pytest.raises(UserError) as caught:
        adaptation(parent, store, tmp_path / "same", held_out=store)
    assert caught.value.code == "validation_file_overlaps"


def test_alignment_comes_first_and_counts_as_steps() -> None:
    config = recipe(settings(alignment="mmd", max_steps=60), "tuned", "burgers", 2)
    assert (config.stage1.steps, config.stage1.alignment, config.stage1.body_learning_rate) == (10, "mmd", 0.0)
    assert (config.stage2.steps, config.stage2.alignment) == (50, "none")
    assert recipe(settings(max_steps=50), "tuned", "burgers", 2).stage1.steps == 0
    mixed = recipe(settings(alignment="pare", max_steps=50), "tuned", "burgers", 2)
    assert (mixed.stage1.steps, mixed.stage2.steps, mixed.stage2.alignment) == (0, 50, "pare")
    falling = recipe(settings(alignment="otdd", max_steps=500), "tuned", "burgers", 2).stage1
    rates = [schedule(falling, step, step / falling.steps) for step in (30, 60, 100)]
    np.testing.assert_allclose(rates, [1.0, 0.2, 0.04])


def test_the_rate_follows_the_method_and_rises_slowly() -> None:
    rates = {tuning: recipe(settings(tuning=tuning), "tuned", "burgers", 2).stage2.learning_rate for tuning in TUNINGS}
    assert rates == {"operator": 1e-3, "full": 1e-3, "lora": 3e-4, "layernorm": 1e-3, "prefix": 1e-3, "head": 1e-3}
    assert recipe(settings(tuning="lora", learning_rate=0.1), "tuned", "burgers", 2).stage2.learning_rate == 0.1
    short, long = (recipe(settings(max_steps=steps), "tuned", "burgers", 2).stage2 for steps in (10, 400))
    assert (short.warmup, long.warmup) == (5, 40)
    np.testing.assert_allclose([schedule(short, step, step / 10) for step in range(5)], [0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"alignment": "magic"}, "alignment_not_offered"),
        ({"tuning": "magic"}, "tuning_not_offered"),
        ({"n_trajectories": 11}, "too_few_trajectories"),
    ],
)
def test_refused_before_anything_is_written(
    parent: Path, store: Store, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(UserError) as caught:
        adaptation(parent, store, tmp_path / "work", **changes)
    assert caught.value.code == code
    assert not (tmp_path / "work").exists()


def test_what_cannot_fit_is_refused(
    parent: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ups_server.train.adapt.available_bytes", lambda device: 2**20)
    with pytest.raises(UserError, match="does not fit"):
        adaptation(parent, store, tmp_path / "work")
    check_memory(10, None)
    check_memory(10, 10)


def test_a_folder_belongs_to_one_adaptation(parent: Path, store: Store, tmp_path: Path) -> None:
    adaptation(parent, store, tmp_path)
    with pytest.raises(UserError) as caught:
        adaptation(parent, store, tmp_path, seed=1)
    assert caught.value.code == "run_exists"


def test_training_that_leads_nowhere_ends_early(parent: Path, store: Store, tmp_path: Path) -> None:
    """A learning rate far too large spoils the model at once: the weights before are kept, and it says so."""
    run, recorder = adaptation(parent, store, tmp_path, max_steps=200, learning_rate=1.0)
    report = run.run()
    assert report["steps"] == recorder.validations[-1] < 100
    assert (report["best_step"], report["kept"], report["helped"]) == (0, "base", False)
    assert report["tuned"] == report["base"]
    same(from_pretrained(run.chosen(report)), from_pretrained(parent))
    assert not ruined([{"one_step": error} for error in (0.1, 1.1, 0.9)])
    assert ruined([{"one_step": error} for error in (0.1, 1.1, None)])


def same(one: TrainedModel, other: TrainedModel) -> None:
    for (name, a), (_, b) in zip(one.operator.named_parameters(), other.operator.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6, msg=name)  # stored in half precision


def test_a_budget_of_seconds_ends_at_a_validation(parent: Path, store: Store, tmp_path: Path) -> None:
    run, recorder = adaptation(parent, store, tmp_path, max_steps=100, max_seconds=1e-6)
    assert run.run()["steps"] == 10
    assert recorder.validations == [0, 10]


def test_delivery_is_whole_and_spares_other_folders(parent: Path, store: Store, tmp_path: Path) -> None:
    run, _ = adaptation(parent, store, tmp_path / "work", max_steps=2)
    report = run.run()
    about = run.about("tiny", job="ft-1")
    for _ in range(2):
        deliver(report, tmp_path / "work" / "best", tmp_path / "out", about)
    from ups_server.catalog import Catalog

    card = Catalog(shipped=tmp_path).model("out")
    assert card.adaptation is not None
    assert (card.adaptation.parent, card.adaptation.job) == ("tiny", "ft-1")
    assert card.adaptation.data_fingerprint == store.manifest.fingerprint
    assert card.scores["tuned"] == report["tuned"]
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises(UserError, match="exists"):
        check_output(mine)


def test_a_rollout_that_diverges_is_bad_but_comparable() -> None:
    assert criterion(0.1, 0.2) < criterion(0.1, float("inf")) < criterion(0.2, float("nan"))
    assert criterion(float("nan"), 0.1) == np.inf


@pytest.mark.slow
def test_a_family_with_static_fields(parent: Path, tmp_path: Path) -> None:
    """The forcing of the flow reaches scores, training and validation."""
    flow = family("incompressible_ns_2d")
    forced = build_store(flow, {}, 4, 32, 0, tmp_path / "flow", frame_dt=0.05, t_final=0.15)
    run, _ = adaptation(parent, forced, tmp_path / "work", n_trajectories=2, max_steps=2)
    report = run.run()
    assert report["steps"] == 2
    known = from_pretrained(tmp_path / "work" / "best").config.families[flow.id]
    assert known.static_fields == tuple(field.name for field in flow.static_fields)
    assert min(known.statistics.static_std) > 0


def test_coarser_trajectories_are_adapted_to_as_they_are(parent: Path, tmp_path: Path) -> None:
    coarse = build_store(family("burgers"), {"nu": 0.1}, 9, 16, 0, tmp_path / "coarse", frame_dt=0.05, t_final=0.5)
    run, _ = adaptation(parent, coarse, tmp_path / "a", max_steps=2, tuning="operator")
    run.run()
    known = from_pretrained(tmp_path / "a" / "best").config.families["burgers"]
    assert known.statistics.n == 16
    assert run.about("tiny")["tuning"] == "operator"
