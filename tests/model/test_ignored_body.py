"""A language model whose reading changes nothing is not asked, and nothing changes by a bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.model.test_ups import given, state
from tests.small_models import SMALL, make
from ups_server.model.checkpoint import WEIGHTS_FILE, from_pretrained, save_pretrained, unused
from ups_server.model.ups import UPS


@pytest.fixture
def ignoring(language_model: Path) -> UPS:
    model = make(SMALL, language_model)
    assert isinstance(model, UPS)
    model.ignore_body()
    return model


def bits(model: UPS, count: int) -> dict[str, torch.Tensor]:
    """What is read of problems, and what ten steps make of it."""
    with torch.inference_mode():
        u, conditioned = state(count), given(count)
        context = model.read(u, conditioned)
        for _ in range(10):
            u = model(u, context)
        return {**context.tensors(), "u": u}


def test_the_answer_is_the_same_to_the_bit(ignoring: UPS, monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = bits(ignoring, 3)
    with monkeypatch.context() as asked:
        asked.setattr(UPS, "ignores_body", False)
        read = bits(ignoring, 3)
    assert skipped.keys() == read.keys()
    for name, values in read.items():
        assert torch.equal(skipped[name].view(torch.int32), values.view(torch.int32)), name


def test_it_is_asked_only_where_it_is_used_or_may_become_so(ignoring: UPS, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, forward = list[int](), ignoring.body.forward

    def counted(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        calls.append(len(tokens))
        return forward(tokens, mask)

    monkeypatch.setattr(ignoring.body, "forward", counted)
    bits(ignoring, 1)
    assert ignoring.ignores_body
    assert not calls
    ignoring.read(state(1), given(1))  # gradients: a training begins with a ignoring one
    assert len(calls) == 1
    with torch.no_grad():
        next(ignoring.read_out[-1].parameters())[0, 0] = 1e-3
    assert not ignoring.ignores_body
    bits(ignoring, 1)
    assert len(calls) == 2


@torch.no_grad()
def test_what_is_not_read_is_stored_in_eight_bits(ignoring: UPS, tmp_path: Path) -> None:
    save_pretrained(ignoring, tmp_path / "ignoring")
    next(ignoring.read_out[-1].parameters())[0, 0] = 1e-3
    save_pretrained(ignoring, tmp_path / "used")
    dtypes = {}
    for folder in ("ignoring", "used"):
        stored, found = load_file(tmp_path / folder / WEIGHTS_FILE), from_pretrained(tmp_path / folder).operator
        layers = [name for name in stored if unused(ignoring, name) and stored[name].ndim > 1]
        dtypes[folder] = {stored[name].dtype for name in layers}
        assert len(layers) == 6 * ignoring.body.encoder.config.num_hidden_layers
        for name, value in found.state_dict().items():
            before = ignoring.state_dict()[name]
            off = 0.51 / 127 if dtypes[folder] == {torch.int8} and name in layers else 2.0**-11
            if isinstance(before, torch.Tensor) and not name.startswith("read_out"):
                largest = before.abs().reshape(len(before), -1).amax(1) if before.ndim > 1 else before.abs()
                bound = off * largest.reshape(-1, *(1,) * (before.ndim - 1)) + 1e-7
                assert ((value - before).abs() <= bound).all(), name
    assert dtypes == {"ignoring": {torch.int8}, "used": {torch.float16}}
