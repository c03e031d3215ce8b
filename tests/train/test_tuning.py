"""What each tuning trains, and only that; adapters apart from the weights they belong to."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.small_models import SMALL
from tests.train.test_adapt import adaptation
from ups_server.catalog import Catalog
from ups_server.cli.catalogue import export
from ups_server.data.simulate import build_store
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.model.body import LLMBody
from ups_server.model.checkpoint import TrainedModel, from_pretrained, save_pretrained
from ups_server.model.config import FNO
from ups_server.model.lora import adapter_parameters
from ups_server.model.prefix import add_prefix
from ups_server.model.ups import UPS
from ups_server.pde import BoundaryCondition, BoundaryKind, Grid, family
from ups_server.solvers.neural import UPSSolver
from ups_server.solvers.solver import Problem
from ups_server.train.adapt import deliver
from ups_server.train.few_shot import check_language_model
from ups_server.train.tuning import TUNINGS, frozen_language_model


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("data") / "burgers"
    return build_store(family("burgers"), {"nu": 0.1}, 8, 32, 0, folder, frame_dt=0.05, t_final=0.5)


def predicted(model: TrainedModel, name: str = "advection") -> np.ndarray:
    solver = UPSSolver(model)
    grid = Grid((32,), ((0.0, 1.0),))
    periodic = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
    coefficient = "beta" if name == "advection" else "nu"
    x = np.sin(2 * np.pi * grid.axes[0])[None, :, None].astype(np.float32)
    return solver.session(Problem(name, {coefficient: 0.4}, grid, periodic, 0.05), x).step()


def test_new_adapters_change_nothing(parent: Path) -> None:
    model = from_pretrained(parent)
    before = predicted(model)
    model.equip(parent)
    np.testing.assert_array_equal(predicted(model), before)
    names = adapter_parameters(model.operator)
    assert any(name.startswith("body.") and "query" in name for name in names)
    assert any("layers.0.mix" in name for name in names)
    assert not any("intermediate" in name for name in names)
    with torch.no_grad():
        for name, parameter in names.items():
            if name.endswith("up"):
                parameter.normal_(std=0.1)
    changed = predicted(model)
    assert np.abs(changed - before).max() > 1e-3
    model.merge()
    np.testing.assert_allclose(predicted(model), changed, rtol=1e-4, atol=1e-6)


TRAINED: dict[str, Callable[[str], bool]] = {
    "full": lambda name: "word_embeddings" not in name,
    "operator": lambda name: "word_embeddings" not in name and not name.startswith("body."),
    "lora": lambda name: name.endswith((".up", ".down")),
    "layernorm": lambda name: "LayerNorm" in name or name.startswith(("tokenise.", "read_out.", "predictor.")),
    "prefix": lambda name: name == "body.prefix" or name.startswith(("tokenise.", "read_out.", "predictor.")),
    "head": lambda name: name.startswith("predictor."),
}


@pytest.mark.parametrize("tuning", TUNINGS)
def test_only_the_declared_parameters_move(parent: Path, store: Store, tmp_path: Path, tuning: str) -> None:
    run, _ = adaptation(parent, store, tmp_path, tuning=tuning, max_steps=3, learning_rate=1e-2)
    before = from_pretrained(parent)
    if tuning == "lora":
        before.equip(parent)
    if tuning == "prefix":
        assert add_prefix(before.operator)
    old = {name: value.clone() for name, value in before.operator.state_dict().items() if torch.is_tensor(value)}
    run.run()
    moved = {
        name for name, value in run.model.state_dict().items() if name in old and not torch.equal(value, old[name])
    }
    assert moved
    assert all(TRAINED[tuning](name) for name in moved), moved
    assert ("body.prefix" in moved) is (tuning == "prefix")
    assert not [name for name in old if TRAINED["head"](name) and tuning in ("full", "head")] or any(
        TRAINED["head"](name) for name in moved
    )


@pytest.mark.parametrize("ignored", [True, False])
def test_an_ignored_language_model_is_not_asked_while_the_operator_is_tuned(
    parent: Path, store: Store, tmp_path: Path, ignored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = from_pretrained(parent).operator
    assert isinstance(model, UPS)
    if ignored:
        model.ignore_body()
    save_pretrained(model, tmp_path / "tiny")
    asked: list[bool] = []
    forward = LLMBody.forward

    def asked_with(*given: Any) -> Any:
        asked.append(torch.is_grad_enabled())
        return forward(*given)

    monkeypatch.setattr(LLMBody, "forward", asked_with)
    run, _ = adaptation(tmp_path / "tiny", store, tmp_path / "a", tuning="operator", max_steps=2)
    run.run()
    assert any(asked) is not ignored


def test_adapters_go_round_and_share_their_base(parent: Path, store: Store, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(parent, models / "tiny")
    for name in ("first", "second"):
        run, _ = adaptation(models / "tiny", store, tmp_path / name, tuning="lora", max_steps=4, learning_rate=1e-2)
        report = run.run()
        deliver(report, tmp_path / name / "best", models / name, run.about("tiny"))
        np.testing.assert_array_equal(
            predicted(from_pretrained(models / name), "burgers"),
            predicted(from_pretrained(tmp_path / name / "best"), "burgers"),
        )
    size = sum(file.stat().st_size for file in (models / "first").glob("*.safetensors"))
    assert size < 0.7 * (models / "tiny" / "model.safetensors").stat().st_size
    first, second = from_pretrained(models / "first"), from_pretrained(models / "second")
    pairs = list(zip(first.operator.named_parameters(), second.operator.named_parameters(), strict=True))
    shared = [name for (name, a), (_, b) in pairs if a.data_ptr() == b.data_ptr()]
    assert set(shared) == {name for name, _ in first.operator.named_parameters()} - set(
        adapter_parameters(first.operator)
    )

    catalog = Catalog(tmp_path, shipped=tmp_path / "none")
    assert catalog.model("first").adapters_of == "tiny"
    assert set(catalog.model("first").families) == {"burgers"}
    moved = tmp_path / "elsewhere"
    models.rename(moved)
    np.testing.assert_array_equal(predicted(from_pretrained(moved / "first"), "burgers"), predicted(first, "burgers"))
    (moved / "tiny").rename(moved / "gone")
    with pytest.raises(UserError, match="which is not there"):
        from_pretrained(moved / "first")
    other = from_pretrained(moved / "gone")
    with torch.no_grad():
        next(other.operator.parameters()).add_(1.0)
    save_pretrained(other, moved / "tiny")
    with pytest.raises(UserError) as caught:
        from_pretrained(moved / "first")
    assert caught.value.code == "base_changed"


def test_adapters_of_adapters_are_refused_and_full_tuning_of_them_is_not(
    parent: Path, store: Store, tmp_path: Path
) -> None:
    run, _ = adaptation(parent, store, tmp_path / "a", tuning="lora", max_steps=2)
    run.run()
    best = tmp_path / "a" / "best"
    with pytest.raises(UserError) as caught:
        adaptation(best, store, tmp_path / "b", tuning="lora")
    assert caught.value.code == "adapted_already"
    again, _ = adaptation(best, store, tmp_path / "c", max_steps=2)
    assert not adapter_parameters(again.model)


def test_a_base_with_children_is_not_deleted(parent: Path, store: Store, tmp_path: Path) -> None:
    models = tmp_path / "models"
    run, _ = adaptation(parent, store, tmp_path / "a", max_steps=1)
    deliver(run.run(), tmp_path / "a" / "best", models / "base", run.about("tiny"))
    child, _ = adaptation(models / "base", store, tmp_path / "b", max_steps=1, tuning="lora")
    deliver(child.run(), tmp_path / "b" / "best", models / "child", child.about("base"))
    catalog = Catalog(tmp_path, shipped=tmp_path / "none")
    export("child", tmp_path / "child.zip", tmp_path)
    with zipfile.ZipFile(tmp_path / "child.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    np.testing.assert_array_equal(
        predicted(from_pretrained(tmp_path / "unpacked" / "child"), "burgers"),
        predicted(from_pretrained(models / "child"), "burgers"),
    )
    with pytest.raises(UserError) as caught:
        catalog.delete("base")
    assert (caught.value.code, caught.value.got) == ("model_in_use", ["child"])
    catalog.delete("child")
    catalog.delete("base")


def test_what_a_model_lacks_is_said(parent: Path) -> None:
    without = SMALL.changed(body=False)
    for config, alignment in ((FNO, "otdd"), (without, "pare")):
        with pytest.raises(UserError, match="no language model"):
            check_language_model(config, alignment)
    check_language_model(without, "mmd")
    model = from_pretrained(parent).operator
    model.use_body = False
    with pytest.raises(UserError, match="layer norms"):
        frozen_language_model(model, train_body=False)


def test_a_prefix_that_did_not_help_is_left_out(parent: Path, store: Store, tmp_path: Path) -> None:
    """The model before is the one without it: in the scores, in the weights that are kept, and after a restart."""
    plain, _ = adaptation(parent, store, tmp_path / "plain", tuning="operator", max_steps=1, learning_rate=1e-30)
    run, _ = adaptation(parent, store, tmp_path / "a", tuning="prefix", max_steps=1, learning_rate=1e-30)
    report, expected = run.run(), plain.run()
    assert report["zero_shot"] == expected["zero_shot"]
    assert report["base"] == expected["base"]
    assert report["kept"] == "base"
    kept = from_pretrained(run.chosen(report)).operator
    assert kept.config.reading.prefix == 0
    assert "body.prefix" not in kept.state_dict()


def test_a_prefix_that_nothing_reads_is_refused(parent: Path, store: Store, tmp_path: Path) -> None:
    model = from_pretrained(parent).operator
    assert isinstance(model, UPS)
    model.ignore_body()
    save_pretrained(model, tmp_path / "without")
    with pytest.raises(UserError, match="would change nothing") as caught:
        adaptation(tmp_path / "without", store, tmp_path / "work", tuning="prefix")
    assert caught.value.code == "language_model_not_read"
    assert not (tmp_path / "work").exists()
    with pytest.raises(UserError) as caught:
        check_language_model(FNO, "none", "prefix")
    assert caught.value.code == "no_language_model"
