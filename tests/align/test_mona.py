"""MoNA: its losses, and its gradient against one through the step itself, by second derivatives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.align.conftest import FixedTarget
from tests.align.test_pare import Batch, batch
from tests.model.test_cross_modal import PATCHES
from tests.small_models import SMALL, make
from ups_server.align.mona import (
    ModalityKnowledge,
    Weights,
    alignment_loss,
    hypergradient,
    task_loss,
    uniformity_loss,
)
from ups_server.model.operator import UPSModel
from ups_server.model.ups import UPS


def test_alignment_and_uniformity_by_hand() -> None:
    """Points on a circle: squared distances are 2 - 2 cos of the angles between them."""
    angles = np.array([0.0, 0.5, 2.0, 3.0])
    rows = torch.tensor(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    labels = torch.tensor([0, 0, 1, 1])
    apart = 2 - 2 * np.cos(angles[:, None] - angles)
    assert float(alignment_loss(rows, labels)) == pytest.approx((apart[0, 1] + apart[2, 3]) / 2)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    expected = np.log(np.mean([np.exp(-2 * apart[pair]) for pair in pairs]))
    assert float(uniformity_loss(rows)) == pytest.approx(expected)


def test_the_gradient_is_that_through_a_step_of_tuning() -> None:
    """Of a small network, ``d L_outer(theta - alpha grad L_inner(phi, theta)) / d phi``, differentiated as a whole."""
    generator = torch.Generator().manual_seed(0)
    x, y, text, label = (torch.randn(12, 3, generator=generator, dtype=torch.float64) for _ in range(4))
    phi = torch.randn(3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    theta = {name: torch.randn(3, 3, generator=generator, dtype=torch.float64) for name in ("first", "second")}

    def read(weights: Weights, rows: Tensor) -> Tensor:
        return torch.tanh(rows @ weights["first"]) @ weights["second"]

    def inner(weights: Weights) -> Tensor:
        return (read(weights, torch.tanh(x @ phi)) - y).square().mean()

    def outer(weights: Weights) -> Tensor:
        return (read(weights, text) - label).square().mean()

    value, (slope,) = hypergradient(inner, outer, [phi], theta, rate=0.3)
    leaves = {name: weights.clone().requires_grad_() for name, weights in theta.items()}
    steps = torch.autograd.grad(inner(leaves), list(leaves.values()), create_graph=True)
    through = outer({name: leaf - 0.3 * step for (name, leaf), step in zip(leaves.items(), steps, strict=True)})
    (expected,) = torch.autograd.grad(through, phi)
    assert float(value) == pytest.approx(float(through.detach()))
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-6)
    assert float(expected.abs().max()) > 1e-3


def test_to_first_order_it_is_the_product_of_two_gradients() -> None:
    """``L_outer(theta') = L_outer(theta) - alpha <grad L_outer, grad L_inner>``: of linear losses, exactly."""
    phi = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
    theta = {"w": torch.tensor([0.5, 3.0], dtype=torch.float64)}
    direction = torch.tensor([4.0, 5.0], dtype=torch.float64)
    value, (slope,) = hypergradient(
        lambda weights: (phi.square() * weights["w"]).sum(), lambda weights: weights["w"] @ direction, [phi], theta, 0.1
    )
    assert float(value) == pytest.approx(0.5 * 4 + 3 * 5 - 0.1 * (4 * 4 + 1 * 5))
    torch.testing.assert_close(slope, -0.1 * 2 * phi.detach() * direction)


def prepared(model: UPSModel, target: FixedTarget) -> ModalityKnowledge:
    method = ModalityKnowledge(sentences=20)
    method.prepare(model, target)
    return method


def test_the_embedder_has_its_gradient_by_way_of_the_body(language_model: Path, target: FixedTarget) -> None:
    """Against differences: along its gradient the embedder changes the outer loss as that says."""
    model = make(PATCHES, language_model).double()
    for name, value in model.named_parameters():
        value.requires_grad_(not name.startswith("body."))
    method, data = prepared(model, target), doubled(batch(PATCHES))

    def loss() -> Tensor:
        torch.manual_seed(2)
        return method.bilevel_loss(model, data)

    loss().backward()
    slopes = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert slopes
    assert all(name.startswith("embedder.") for name in slopes)
    assert max(float(slope.abs().max()) for slope in slopes.values()) > 0
    length = torch.stack([slope.abs().square().sum() for slope in slopes.values()]).sum().sqrt()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, slope in slopes.items():
                model.get_parameter(name).copy_(before[name] + sign * 1e-3 * slope / length)
        found.append(float(loss().detach()))
    assert (found[0] - found[1]) / 2e-3 == pytest.approx(float(length), rel=0.02)
    for name, value in model.named_parameters():
        if name.startswith("body."):
            assert torch.equal(value, before[name])


def doubled(data: Batch) -> Batch:
    given = data.conditions.changed(lambda value: value.double() if value.is_floating_point() else value)
    return replace(data, frames=data.frames.double(), context=data.context.double(), conditions=given)


def test_without_a_body_in_the_path_nothing_follows(language_model: Path, target: FixedTarget) -> None:
    model = make(SMALL, language_model)
    assert isinstance(model, UPS)
    model.ignore_body()
    loss = prepared(model, target).bilevel_loss(model, batch(SMALL))
    loss.backward()
    assert all(value.grad is None or not bool(value.grad.any()) for name, value in model.named_parameters())


def test_its_task_is_that_of_the_loop(model: UPSModel) -> None:
    data = batch(SMALL)
    context = model.read(data.context, data.conditions).repeat(data.windows)
    expected = model.task_loss(model(data.frames[:, 0], context), data.frames[:, 1], context.mask)
    torch.testing.assert_close(task_loss(model, data), expected)


def test_sentences_are_drawn_of_every_subject(model: UPSModel, target: FixedTarget) -> None:
    texts, labels = prepared(model, target)._drawn(torch.device("cpu"))
    subjects = target.text.subjects
    assert torch.bincount(labels).tolist() == [2] * len(subjects)
    known = {sentence.text: sentence.subject for sentence in target.text.sentences}
    assert [subjects[label] for label in labels.tolist()] == [known[text] for text in texts]
