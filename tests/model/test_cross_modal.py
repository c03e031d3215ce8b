"""Operators through the language model: patches in their places, other grids, and a body in the path."""

from pathlib import Path

import pytest
import torch

from tests.model.test_ups import given
from tests.small_models import card, make
from ups_server.model.config import UPS_PAPER, UPSConfig
from ups_server.model.cross_modal import CrossModalOperator, PatchOperator
from ups_server.model.superspace import state_nrmse

LINE = UPS_PAPER.changed(
    name="line", superspace={"max_dimensions": 1}, resolution=32, hidden_channels=8, n_modes=6, n_layers=2, tokens=8,
    families={"burgers": card()},
)  # fmt: skip
PATCHES = LINE.changed(name="patches", operator="patch")


def operator(config: UPSConfig, language_model: Path) -> CrossModalOperator:
    found = make(config, language_model)
    assert isinstance(found, CrossModalOperator)
    return found


def state(count: int, *points: int) -> torch.Tensor:
    return torch.randn(count, 4, *points, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("points", "axes", "most", "stride", "tokens"),
    [(128, 1, 32, 4, 32), (100, 1, 32, 4, 25), (32, 2, 64, 4, 64), (128, 2, 64, 16, 64), (7, 1, 64, 1, 7)],
)
def test_the_stride_is_the_smallest_that_fits(points: int, axes: int, most: int, stride: int, tokens: int) -> None:
    config = PATCHES.changed(resolution=points, tokens=most, superspace={"max_dimensions": axes}, families={})
    assert (config.patch_stride, config.state_tokens) == (stride, tokens)


@pytest.mark.parametrize("ndim", [1, 2])
def test_every_patch_is_read_by_its_token_and_filled_from_it(language_model: Path, ndim: int) -> None:
    """Token p is the kernel times the values of patch p; the values of hidden state p lie in patch p, row by row."""
    config = PATCHES.changed(resolution=8, tokens=4, superspace={"max_dimensions": ndim}, families={})
    model = operator(config, language_model)
    assert isinstance(model, PatchOperator)
    stride, side = model.stride, 8 // model.stride
    inputs = torch.randn(1, model.inputs, *(8,) * ndim)
    tokens = model.tokens(inputs)
    hidden = torch.randn(1, side**ndim, model.body.size)
    filled = model.next_state(hidden, torch.ones(1, side**ndim))
    assert filled.shape == (1, 4, *(8,) * ndim)
    for place in range(side**ndim):
        corner = [place] if ndim == 1 else [place // side, place % side]
        inside: tuple[int | slice, ...] = (0, slice(None), *(slice(c * stride, (c + 1) * stride) for c in corner))
        patch = inputs[inside]
        by_hand = torch.einsum("oi,i->o", model.embedder.weight.flatten(1), patch.flatten())
        assert model.embedder.bias is not None
        by_hand = by_hand + model.embedder.bias
        torch.testing.assert_close(tokens[0, place], by_hand, rtol=1e-4, atol=1e-5)
        values = model.predictor(hidden[0, place]).reshape(4, *(stride,) * ndim)
        torch.testing.assert_close(filled[inside], values)


@pytest.mark.parametrize("config", [LINE, PATCHES], ids=lambda config: config.name)
def test_every_step_leads_through_the_body(language_model: Path, config: UPSConfig) -> None:
    model, u, conditions = operator(config, language_model), state(3, 32), given(3)
    step = model(u, model.read(u, conditions))
    loss = model.task_loss(step, u, conditions.mask)
    torch.testing.assert_close(loss, state_nrmse(step, u, conditions.mask))
    loss.backward()
    inside = {name: parameter for name, parameter in model.body.named_parameters() if model.body.in_layer(name)}
    assert inside
    for name, parameter in inside.items():
        assert parameter.grad is not None, name
        if "key.bias" not in name:  # a shift of all scores of a softmax
            assert parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        for parameter in inside.values():
            parameter.zero_()
        other = model(u, model.read(u, conditions))
    assert not torch.allclose(step, other)


@pytest.mark.parametrize("config", [LINE, PATCHES], ids=lambda config: config.name)
def test_a_state_on_another_grid_comes_back_on_it(language_model: Path, config: UPSConfig) -> None:
    model, u, conditions = operator(config, language_model), state(2, 48), given(2)
    with torch.no_grad():
        context = model.read(u, conditions)
        step, tokens = model.advance(u, context)
    assert step.shape == u.shape
    assert tokens.shape[1] == config.state_tokens
    torch.testing.assert_close(model.tokenised(u, context), tokens)
    assert not step[:, 1:].any()  # slots that the family does not have


@pytest.mark.parametrize("config", [LINE, PATCHES], ids=lambda config: config.name)
def test_features_behind_the_body_are_those_of_the_tokens_alone(language_model: Path, config: UPSConfig) -> None:
    model = operator(config, language_model)
    tokens = torch.randn(3, 5, model.body.word_size)
    with torch.no_grad():
        read = model.read_features(tokens)
        expected = model.body(tokens[1:2], torch.ones(1, 5)).mean(1)
    torch.testing.assert_close(read[1:2], expected)
