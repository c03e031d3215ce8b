"""Controls do what they are named for: a silenced body, a random body, withheld metadata."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.small_models import SMALL, card, make
from ups_server.errors import UserError
from ups_server.model.checkpoint import create, save_pretrained
from ups_server.model.conditioning import Conditions, conditions
from ups_server.model.config import FNO, UPSConfig
from ups_server.model.operator import UPSModel, control_body, randomise_body
from ups_server.pde.grid import BoundaryCondition, BoundaryKind
from ups_server.solvers.neural import load_neural
from ups_server.solvers.registry import load

PERIODIC = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)


def given(nu: float = 0.01) -> Conditions:
    return conditions(SMALL, card(), {"nu": [nu, nu]}, PERIODIC, (0.5,), torch.ones(2, 8, 1))


def small(language_model: Path, **changes: object) -> UPSModel:
    return make(UPSConfig.model_validate(SMALL.model_dump() | changes), language_model)


@torch.no_grad()
def step(model: UPSModel, told: Conditions) -> Tensor:
    x = torch.arange(32) / 32
    u = torch.nn.functional.pad(torch.stack([(2 * torch.pi * k * x).sin() for k in (1, 2)])[:, None], (0, 0, 0, 3))
    following: Tensor = model(u, model.read(u, told))
    return following


def test_a_random_body_keeps_what_the_operator_reads_without_a_body(language_model: Path) -> None:
    model = small(language_model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with_body = step(model, given())
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    randomise_body(model, seed=1)
    torch.testing.assert_close(torch.rand(3), expected, atol=0, rtol=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "body.encoder.embeddings.word_embeddings.weight" not in changed
    assert {name.split(".")[0] for name in changed} == {"body"}
    assert any("layer.0.attention" in name for name in changed)
    random = step(model, given())
    assert (random - with_body).abs().max() > 1e-5
    again = small(language_model)
    randomise_body(again, seed=1)
    torch.testing.assert_close(step(again, given()), random)
    control_body(model, "none")
    bare = small(language_model)
    bare.use_body = False
    torch.testing.assert_close(step(model, given()), step(bare, given()))


def test_without_body_the_text_of_the_body_changes_nothing(language_model: Path) -> None:
    model = small(language_model)
    control_body(model, "none")
    other = replace(given(), texts=("2d equation",) * 2)
    torch.testing.assert_close(step(model, other), step(model, given()), atol=0, rtol=0)


def test_a_baseline_has_no_body_to_control() -> None:
    for body in ("none", "random"):
        with pytest.raises(UserError, match="no language model"):
            control_body(create(FNO), body)


def test_a_control_is_loaded_by_name(language_model: Path, tmp_path: Path) -> None:
    save_pretrained(small(language_model, families={"burgers": card().model_dump()}), tmp_path)
    assert load_neural(tmp_path).model.use_body
    bare, random = load_neural(tmp_path, body="none"), load_neural(tmp_path, body="random")
    assert not bare.model.use_body
    assert random.model.use_body
    assert [bare.name, random.name] == ["ups-mini (none body)", "ups-mini (random body)"]
    with pytest.raises(UserError, match="no language model"):
        load("persistence", body="none")


NAMED = replace(given(), names=("1D Advection",) * 2)
WRITTEN = replace(given(), texts=("1D Burgers nu = 0.3",) * 2)
NUMBERED = replace(given(), coefficients=torch.full((2, 1), 0.3))


@pytest.mark.parametrize(
    ("metadata", "given_to_it"),
    [
        ("both", [NAMED, WRITTEN, NUMBERED]),
        ("text", [NAMED, WRITTEN]),
        ("numbers", [NAMED, NUMBERED]),
        ("none", []),
    ],
)
def test_what_is_withheld_changes_nothing(language_model: Path, metadata: str, given_to_it: list[Conditions]) -> None:
    model = small(language_model, metadata=metadata)
    base = step(model, given())
    for told in (NAMED, WRITTEN, NUMBERED):
        difference = (step(model, told) - base).abs().max()
        assert difference > 1e-6 if any(told is one for one in given_to_it) else difference == 0
