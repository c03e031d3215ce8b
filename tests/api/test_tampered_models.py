"""Model folders that somebody has changed: none answers 500 when it is used, and none hides another."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.api.conftest import RunningService, running_service
from tests.files.test_declaration import EQUATION
from tests.small_models import write_parent
from ups_server.catalog import DOCUMENT_BYTES
from ups_server.settings import Settings

Change = Callable[[Path], None]


def text(name: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def config(**values: Any) -> Change:
    """Other values in the configuration."""

    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**found, **values}))

    return change


def family(**values: Any) -> Change:
    """Other values in the card of its one family."""

    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        found["families"]["advection"] |= values
        (folder / "config.json").write_text(json.dumps(found))

    return change


def statistics(**values: Any) -> Change:
    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        found["families"]["advection"]["statistics"] |= values
        (folder / "config.json").write_text(json.dumps(found))

    return change


def weights(alter: Callable[[dict[str, torch.Tensor]], None]) -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        alter(tensors)
        save_file(tensors, folder / "model.safetensors")

    return change


def without(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()

    return change


def link(name: str) -> Change:
    """A file of its card that lies outside of its folder."""

    def change(folder: Path) -> None:
        outside = folder.parent.parent / f"secret-{name}"
        outside.write_text((folder / name).read_text() if (folder / name).exists() else "{}")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside)

    return change


def foreign(folder: Path) -> None:
    """A language model that brings its own program, as transformers would run it where it is trusted."""
    program = {"AutoConfig": "program.Config", "AutoModel": "program.Model", "AutoTokenizer": "program.Words"}
    written = json.dumps({"model_type": "foreign", "auto_map": program})
    (folder / "language_model" / "config.json").write_text(written)
    (folder / "language_model" / "program.py").write_text("import os\n\nos._exit(1)\n")


def one(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in tensors if name.startswith("predictor.") and tensors[name].ndim > 1)


DEEP = "[" * 100_000 + "]" * 100_000
EQUATION_TEXT = json.dumps({**EQUATION, "id": "burgers"})

TAMPERED: dict[str, Change] = {
    "deep-scores": text("scores.json", DEEP),
    "nested-scores": text("scores.json", "[" * 200 + "]" * 200),
    "scores-with-nan": text("scores.json", '{"nrmse": NaN}'),
    "scores-beyond-float": text("scores.json", '{"nrmse": 1e999}'),
    "scores-no-text": text("scores.json", '{"a": "\\ud800"}'),
    "large-scores": text("scores.json", b" " * (DOCUMENT_BYTES + 1)),
    "readme-no-text": text("README.md", b"\xff\xfe"),
    "linked-readme": link("README.md"),
    "linked-config": link("config.json"),
    "linked-scores": link("scores.json"),
    "config-of-nothing": text("config.json", "{}"),
    "config-list": text("config.json", "[]"),
    "deep-config": text("config.json", DEEP),
    "adaptation-torn": text("adaptation.json", '{"parent": '),
    "adapter-number": text("adapter.json", "7"),
    "adapter-of-nobody": text("adapter.json", json.dumps({"base": {"id": "no", "sha256": "0"}, "rank": 1, "alpha": 1})),
    "adapter-of-itself": text(
        "adapter.json", json.dumps({"base": {"id": "adapter-of-itself", "sha256": "0"}, "rank": 0, "alpha": 1})
    ),
    "equation-torn": text("equation.json", "{"),
    "equation-deep": text("equation.json", DEEP),
    "equation-taken": text("equation.json", EQUATION_TEXT),
    "linked-equation": link("equation.json"),
    "still": family(dt=0.0),
    "backwards": family(dt=-0.05),
    "no-such-slot": family(slots=[9]),
    "two-fields": family(fields=["u", "v"]),
    "short-statistics": statistics(std=[]),
    "negative-spread": statistics(std=[-1.0]),
    "no-points": statistics(n=0),
    "other-operator": config(operator="abacus"),
    "unknown-entry": config(wings=2),
    "other-width": config(hidden_channels=12),
    "monstrous": config(hidden_channels=10**9),
    "no-layers": config(n_layers=0),
    "endless": config(n_layers=10**9),
    "torn-weights": text("model.safetensors", b"\x00" * 100),
    "empty-weights": text("model.safetensors", b""),
    "no-weights": without("model.safetensors"),
    "missing-tensor": weights(lambda tensors: tensors.__delitem__(one(tensors))),
    "other-shape": weights(lambda tensors: tensors.update({one(tensors): torch.zeros(3, 3)})),
    "weights-not-finite": weights(lambda tensors: tensors.update({one(tensors): tensors[one(tensors)] * torch.nan})),
    "no-language-model": without("language_model/config.json"),
    "other-language-model": text("language_model/config.json", '{"model_type": "gpt2"}'),
    "foreign-program": foreign,
    "no-words": without("language_model/tokenizer.json"),
    "envelope-torn": text("envelope.json", "{"),
    "envelope-empty": text("envelope.json", json.dumps({"command": "", "families": {"advection": {}}})),
    "table-torn": text("super_resolution.json", "{"),
    "table-other": text("super_resolution.json", '{"asked": [{"answers": ["interpolated"], "equation": 3}]}'),
}
HARMLESS = {"weights-not-finite", "no-layers", "adapter-of-itself"}
"""Whose answer may be one: NaN is told as a blow-up."""


@pytest.fixture(scope="module")
def tampered(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose models are one that is whole and one for each kind of tampering."""
    data_dir = tmp_path_factory.mktemp("tampered")
    whole = write_parent(data_dir / "models" / "whole", language_model)
    for name, change in TAMPERED.items():
        shutil.copytree(whole, data_dir / "models" / name)
        change(data_dir / "models" / name)
    settings = Settings(default_model="persistence", data_dir=data_dir, device="cpu", threads=1, worker=False)
    with running_service(settings) as running:
        yield running


def asked(model: str) -> dict[str, Any]:
    return {
        "model": model, "family": "advection", "initial_condition": {"sample": {}}, "n_steps": 1,
        "grid": {"n": [32]}, "diagnostics": True, "output_resolution": [64],
    }  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_it_is_said_what_is_wrong(tampered: RunningService, name: str) -> None:
    answers = [tampered.post(asked(name)), tampered.get(f"/v1/models/{name}")]
    assert [answer.status_code for answer in answers if answer.status_code >= 500] == [], answers[0].text
    if name not in HARMLESS:
        assert answers[0].status_code in (404, 422), answers[0].text[:1000]
        assert answers[0].json()["code"] in (
            "invalid_model",
            "not_a_model",
            "unknown_model",
            "superspace_too_small",
            "not_a_language_model",
            "unsupported_language_model",
        )


def test_the_others_are_there_all_the_same(tampered: RunningService) -> None:
    listed = tampered.get("/v1/models")
    assert listed.status_code == 200
    unreadable = {entry["id"]: entry for entry in listed.json()["unreadable"]}
    assert "whole" in [card["id"] for card in listed.json()["models"]]
    assert {"deep-scores", "linked-readme", "linked-config", "config-list", "adaptation-torn", "still"} <= set(
        unreadable
    )
    assert {entry["code"] for entry in unreadable.values()} == {"invalid_model"}
    assert not {card["id"] for card in listed.json()["models"]} & set(unreadable)
    families = tampered.get("/v1/families")
    assert families.status_code == 200
    assert not [entry["id"] for entry in families.json()["families"] if entry["declared"]]
    answer = tampered.post(asked("whole"))
    assert answer.status_code == 200, answer.text


def test_nothing_outside_of_its_folder_is_served(tampered: RunningService) -> None:
    answer = tampered.get("/v1/models/linked-readme")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_model")
    assert "link out of the folder" in answer.json()["got"]
