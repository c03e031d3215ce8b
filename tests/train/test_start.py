"""Fresh starts: new embedder and head around a language model in the path; every method as its paper has it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.small_models import write_language_model
from tests.train.test_adapt import Recorder, adaptation, weights
from ups_server.align import alignment_share, alone
from ups_server.catalog import read_card
from ups_server.data.simulate import build_store
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.model.checkpoint import from_pretrained, save_pretrained
from ups_server.model.cross_modal import CrossModalOperator, PatchOperator, UPSPaper
from ups_server.model.ups import UPS
from ups_server.pde import family
from ups_server.train.adapt import Interrupted, Place, PreparedAdaptation, deliver
from ups_server.train.few_shot import AdaptationSettings, FewShotData, recipe
from ups_server.train.validation import fresh_outcome

ALIGNED = ("euclidean", "mmd", "otdd", "recraft", "mona", "pare")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("data") / "burgers"
    return build_store(family("burgers"), {"nu": 0.1}, 8, 32, 0, folder, frame_dt=0.05, t_final=0.5)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(autouse=True)
def small_language_model(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the one that comes with an installation; everything else is as it is."""
    monkeypatch.setattr("ups_server.model.body.default_folder", lambda: pretrained)


def fresh(store: Store, folder: Path, stop_after: int | None = None, **changes: Any) -> PreparedAdaptation:
    """With a progress that is interrupted at the given question."""
    calls = iter(range(10_000))
    place = Place(folder, Recorder(), lambda: stop_after is not None and next(calls) >= stop_after)
    asked: dict[str, Any] = {"n_trajectories": 4, "max_steps": 8, "embedder": "patch", "from": "lm", **changes}
    settings = AdaptationSettings.model_validate(asked)
    return PreparedAdaptation(None, FewShotData(store, "burgers.h5"), settings, "tuned", place)


def inner(model: CrossModalOperator) -> dict[str, torch.Tensor]:
    """The layers of the language model."""
    return {name: value.detach().clone() for name, value in model.body.named_parameters() if model.body.in_layer(name)}


@pytest.mark.parametrize(
    ("alignment", "embedder"),
    [("none", "fno"), ("recraft", "fno"), ("mona", "fno"), *((name, "patch") for name in ("none", *ALIGNED))],
)
def test_every_method_trains_the_body_in_the_path(store: Store, tmp_path: Path, alignment: str, embedder: str) -> None:
    """Its weights change, and with all of them at zero the answer is another."""
    run = fresh(store, tmp_path, alignment=alignment, embedder=embedder)
    model = run.model
    assert isinstance(model, {"fno": UPSPaper, "patch": PatchOperator}[embedder])
    before = inner(model)
    report = run.run()
    after = inner(model)
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    assert report["from"] == "lm"
    assert report["compared_with"] == "persistence"
    assert report["zero_shot"] is report["base"] is None
    json.dumps(report, allow_nan=False)
    tuned = from_pretrained(run.chosen(report)).operator
    batch = run.windows.batch(np.random.default_rng(0), 1, tuned.config, torch.device("cpu"))
    assert isinstance(tuned, CrossModalOperator)
    with torch.no_grad():
        step = tuned(batch.context, tuned.read(batch.context, batch.conditions))
        for parameter in tuned.body.parameters():
            parameter.zero_()
        assert not torch.allclose(step, tuned(batch.context, tuned.read(batch.context, batch.conditions)))


@pytest.mark.parametrize("alignment", ["euclidean", "otdd", "recraft"])
def test_stage_1_is_the_embedder_by_the_distance_alone(store: Store, tmp_path: Path, alignment: str) -> None:
    """As ORCA and RECRAFT have it: neither head nor body moves, and no task loss is reported."""
    run = fresh(store, tmp_path, alignment=alignment)
    trainer = run._trainer(run.model, 0)
    assert set(trainer.trained) == {"embedder.weight", "embedder.bias"}
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    report = trainer.run_step()
    assert report.loss is None
    assert report.alignment > 0
    assert trainer.alignment.terms().keys() == {"recraft": {"fa", "fld"}}.get(alignment, {alignment})
    changed = {name for name, value in run.model.named_parameters() if not torch.equal(before[name], value)}
    assert changed == {"embedder.weight", "embedder.bias"}


def test_ups_trains_embedder_and_predictor_with_both_losses(store: Store, tmp_path: Path) -> None:
    run = fresh(store, tmp_path, alignment="mmd", embedder="fno")
    trainer = run._trainer(run.model, 0)
    assert {name.split(".")[0] for name in trainer.trained} == {"embedder", "tokenise", "predictor"}
    assert trainer.run_step().loss is not None


def test_mona_trains_embedder_and_predictor_by_the_task_and_the_outer_loss(store: Store, tmp_path: Path) -> None:
    run = fresh(store, tmp_path, alignment="mona")
    trainer = run._trainer(run.model, 0)
    assert {name.split(".")[0] for name in trainer.trained} == {"embedder", "predictor"}
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    report = trainer.run_step()
    assert report.loss is not None
    terms = trainer.alignment.terms()
    assert report.alignment == pytest.approx(0.5 * terms["mona"], rel=1e-5)
    assert all(parameter.grad is None for name, parameter in run.model.named_parameters() if name.startswith("body."))
    changed = {name for name, value in run.model.named_parameters() if not torch.equal(before[name], value)}
    assert {name.split(".")[0] for name in changed} == {"embedder", "predictor"}


def test_stages_are_in_the_ratio_of_the_papers(store: Store) -> None:
    for alignment, epochs in {"mmd": (20, 100), "otdd": (60, 200), "recraft": (64, 200), "mona": (10, 200)}.items():
        settings = AdaptationSettings.model_validate({"n_trajectories": 4, "from": "lm", "alignment": alignment})
        config = recipe(settings, "tuned", "burgers", 2)
        assert config.stage1.steps + config.stage2.steps == settings.steps
        assert config.stage1.steps == pytest.approx(settings.steps * epochs[0] / sum(epochs), abs=1)
        assert config.stage1.task_weight == (0.0 if alone(alignment) else 1.0)
        assert config.stage2.unroll == ((0.0, 1),)
        assert alignment_share("none") == alignment_share("pare") == 0


@pytest.mark.parametrize(
    ("tuning", "parts"),
    [
        ("full", {"embedder", "predictor", "body"}),
        ("operator", {"embedder", "predictor"}),
        ("layernorm", {"embedder", "predictor", "body"}),
        ("prefix", {"embedder", "predictor", "body"}),
    ],
)
def test_what_a_tuning_trains(store: Store, tmp_path: Path, tuning: str, parts: set[str]) -> None:
    """FPT trains the input layer, the output layer, and of the body its layer norms."""
    run = fresh(store, tmp_path, tuning=tuning)
    trained = run._trainer(run.model, 1).trained
    assert {name.split(".")[0] for name in trained} == parts
    if tuning == "layernorm":
        assert all("LayerNorm" in name for name in trained if name.startswith("body."))
    if tuning == "prefix":
        assert [name for name in trained if name.startswith("body.")] == ["body.prefix"]
    assert AdaptationSettings.model_validate({"n_trajectories": 4, "from": "lm"}).tuning == "full"
    assert AdaptationSettings.model_validate({"n_trajectories": 4}).tuning == "operator"


def test_from_scratch_has_random_weights_of_the_seed(store: Store, tmp_path: Path) -> None:
    def layers(name: str, start: str) -> dict[str, torch.Tensor]:
        model = fresh(store, tmp_path / name, None, seed=1, **{"from": start}).model
        assert isinstance(model, CrossModalOperator)
        return inner(model)

    scratch, again, pretrained = layers("a", "random"), layers("b", "random"), layers("c", "lm")
    name = next(name for name in scratch if name.endswith("query.weight"))
    assert torch.equal(scratch[name], again[name])
    assert not torch.equal(scratch[name], pretrained[name])


@pytest.mark.parametrize(
    ("alignment", "stop_after"),
    [
        *(("none", 3), ("none tuning=prefix", 3), ("recraft", 1), ("mona", 0)),
        *(("pare", 5), ("pare gate=dropout schedule=random", 5), ("pare mix=cutmix", 5)),
    ],
)
def test_resumed_equals_uninterrupted(store: Store, tmp_path: Path, alignment: str, stop_after: int) -> None:
    name, *options = alignment.split()
    chosen = dict(option.split("=") for option in options)
    tuning = chosen.pop("tuning", "full")
    method: dict[str, Any] = {"alignment": name, "alignment_options": chosen, "tuning": tuning}
    expected = fresh(store, tmp_path / "whole", **method).run()
    with pytest.raises(Interrupted):
        fresh(store, tmp_path / "parts", stop_after, **method).run()
    report = fresh(store, tmp_path / "parts", **method).run()
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {**report, "seconds": 0} == {**expected, "seconds": 0}


def test_terms_of_the_bound_are_reported(store: Store, tmp_path: Path) -> None:
    found = {terms: fresh(store, tmp_path / terms, alignment="recraft", alignment_options={"terms": terms}).run()
             for terms in ("both", "fa", "fld")}  # fmt: skip
    for report in found.values():
        assert report["alignment_terms"].keys() == {"first", "last"}
        assert report["alignment_terms"]["last"].keys() == {"fa", "fld"}
        assert report["tuned"]["one_step"]["nrmse"] > 0
    assert found["both"]["alignment_terms"]["first"] == found["fa"]["alignment_terms"]["first"]
    assert found["fld"]["alignment_terms"]["last"] != found["fa"]["alignment_terms"]["last"]


def test_the_model_says_where_it_comes_from(store: Store, tmp_path: Path) -> None:
    run = fresh(store, tmp_path / "work", max_steps=2)
    report = run.run()
    deliver(report, run.chosen(report), tmp_path / "out", run.about("lm"))
    card = read_card(tmp_path / "out")
    assert card.adaptation is not None
    assert (card.adaptation.parent, card.adaptation.start, card.adaptation.embedder) == ("lm", "lm", "patch")
    assert card.adaptation.helped is report["helped"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tuning": "head"}, "start_mismatch"),
        ({"tuning": "lora"}, "start_mismatch"),
        ({"from": "random", "alignment": "mmd"}, "start_mismatch"),
        ({"from": "random", "alignment": "pare"}, "start_mismatch"),
        ({"from": "model"}, "start_mismatch"),
        ({"from": "model", "embedder": None, "body_layers": 1}, "start_mismatch"),
        ({"alignment": "recraft", "alignment_options": {"terms": "none"}}, "alignment_option_not_offered"),
        ({"alignment": "mmd", "alignment_options": {"terms": "fa"}}, "alignment_option_not_offered"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    store: Store, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(UserError) as caught:
        fresh(store, tmp_path / "work", **changes)
    assert caught.value.code == code
    assert not (tmp_path / "work").exists()


def test_the_verdict_is_about_persistence() -> None:
    def scores(one_step: float, rollout: float) -> dict[str, Any]:
        return {
            "one_step": {"nrmse": one_step, "finite": True},
            "rollout": {"nrmse_trajectory": rollout, "finite": True},
        }

    tuned = {**scores(0.2, 0.5), "persistence": scores(0.1, 1.0)}
    found = fresh_outcome(tuned, [{"one_step": 0.2}])
    assert found["helped"] is False
    assert found["verdict"].startswith("The new model is not better than persistence: one-step 0.1 to 0.2")
    better = fresh_outcome({**scores(0.05, 0.5), "persistence": scores(0.1, 1.0)}, [])
    assert better["helped"] is True
    ruined = {**scores(0.2, 0.5), "persistence": scores(0.1, 1.0)}
    ruined["one_step"] = {"nrmse": None, "finite": False}
    with pytest.raises(UserError) as caught:
        fresh_outcome(ruined, [])
    assert caught.value.code == "not_finite"


def test_an_alignment_that_nothing_hears_is_answered_with_a_warning(
    parent: Path, store: Store, tmp_path: Path, language_model: Path
) -> None:
    """The path of a model of which no step hears the language model: the command stays valid, and says so."""
    model = from_pretrained(parent).operator
    assert isinstance(model, UPS)
    model.ignore_body()
    save_pretrained(model, tmp_path / "without")
    run, _ = adaptation(tmp_path / "without", store, tmp_path / "work", n_trajectories=4, max_steps=2, alignment="mmd")
    (warning,) = run.run()["warnings"]
    assert "without its language model" in warning
    run, _ = adaptation(tmp_path / "without", store, tmp_path / "plain", n_trajectories=4, max_steps=2)
    assert run.warnings == []
    run, _ = adaptation(parent, store, tmp_path / "with", n_trajectories=4, max_steps=2, alignment="mmd")
    assert run.warnings == []
