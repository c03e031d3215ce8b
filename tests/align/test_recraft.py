"""RECRAFT: conditional entropy by hand, a source head with the Lipschitz constant asked for, both with gradient."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.align.conftest import FixedTarget
from ups_server.align.base import FeatureQueue, standing_for
from ups_server.align.labels import SourceTask, classify, kmeans, source_task, source_task_read
from ups_server.align.recraft import (
    RecraftAlignment,
    calibrated_head,
    conditional_entropy,
    gradient_norms,
    soft_joint,
)
from ups_server.align.text import reference_text
from ups_server.align.transport import divergence
from ups_server.model.operator import UPSModel


def test_conditional_entropy_by_hand() -> None:
    joint = torch.tensor([[0.25, 0.25], [0.0, 0.5]])
    assert float(conditional_entropy(joint)) == pytest.approx(0.5 * math.log(2))
    assert float(conditional_entropy(torch.full((2, 4), 1 / 8))) == pytest.approx(math.log(4))
    assert float(conditional_entropy(torch.eye(3) / 3)) == pytest.approx(0.0, abs=1e-6)


def test_soft_joint_is_the_expectation_of_counts() -> None:
    probabilities = torch.tensor([[0.8, 0.2], [0.4, 0.6], [1.0, 0.0]])
    joint = soft_joint(probabilities, torch.tensor([0, 1, 1]), 2)
    torch.testing.assert_close(joint, torch.tensor([[0.8, 1.4], [0.2, 0.6]]) / 3)
    assert float(joint.sum()) == pytest.approx(1.0)


def test_distortion_has_a_gradient() -> None:
    """Raising the entropy by difference agrees with the gradient through the soft joint."""
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 0, 1])

    def distortion(values: torch.Tensor) -> torch.Tensor:
        return conditional_entropy(soft_joint(values.softmax(1), labels, 2))

    assert torch.autograd.gradcheck(distortion, logits)
    (gradient,) = torch.autograd.grad(distortion(logits), logits)
    assert float(gradient.abs().max()) > 1e-3


def test_a_batch_stands_for_the_sample() -> None:
    """The gradient of the mean over the sample is that of the mean over the batch; the value is the sample's."""
    queue = FeatureQueue(100, "x")
    queue.push(torch.full((6, 1), 2.0))
    fresh = torch.ones(2, 1, requires_grad=True)
    (sample,) = queue.push(fresh)
    mean = torch.cat([standing_for(sample[:2], len(sample)), sample[2:]]).mean()
    mean.backward()
    assert float(mean.detach()) == pytest.approx((2 * 1 + 6 * 2) / 8)
    assert fresh.grad is not None
    assert torch.equal(fresh.grad, torch.full((2, 1), 1 / 2))


@pytest.mark.parametrize("lipschitz", [0.5, 0.3])
def test_the_source_head_is_lipschitz_on_the_text(lipschitz: float) -> None:
    """Separable classes would have it grow without bound; the hinge holds it, and it still classifies."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = 5 * F.one_hot(labels, 8).float() + 0.5 * torch.randn(60, 8, generator=generator)
    task = SourceTask(features, labels, 3)
    head = calibrated_head(task, lipschitz)
    assert float(gradient_norms(head, features, labels).max()) <= lipschitz
    assert float((head(features).argmax(1) == labels).float().mean()) == 1.0
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_gradient_norms_are_those_of_the_loss() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 3)
    features, labels = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 1, 2, 1, 0])
    (gradient,) = torch.autograd.grad(F.cross_entropy(head(features), labels, reduction="sum"), features)
    torch.testing.assert_close(gradient_norms(head, features, labels), gradient.norm(dim=1))


def test_text_is_told_apart_better_than_by_chance(model: UPSModel) -> None:
    task = source_task(model, reference_text())
    assert task.features.shape == (420, model.body.size)
    assert task.classes == 10
    head = calibrated_head(task, 2.0)
    assert float((head(task.features).argmax(1) == task.labels).float().mean()) > 0.15


def test_pseudo_subjects_are_those_of_the_predictor_behind_the_body(model: UPSModel, target: FixedTarget) -> None:
    """Eq. 22 written out: tau W_1 between what enters the body, H of what the calibrated last layer says behind it."""
    behind = source_task_read(model, reference_text())
    head = calibrated_head(behind, 0.5)
    rows = model.metadata.beginnings(reference_text().texts[:1])
    torch.testing.assert_close(behind.features[0], model.body(*rows)[0, rows[1][0] > 0].mean(0), rtol=1e-4, atol=1e-4)
    features, read = torch.randn(2, 12, model.body.size, generator=torch.Generator().manual_seed(0))
    found = {}
    for terms in ("both", "fa", "fld"):
        method = RecraftAlignment(terms=terms)
        method.prepare(model, target)
        torch.manual_seed(3)
        found[terms] = float(method.loss(features, target.rows, read))
    probabilities, labels = head(read).softmax(1), classify(target.rows, kmeans(target.rows))
    joint = torch.zeros(10, 4)
    for row, label in zip(probabilities, labels, strict=True):
        joint[:, label] += row / 12
    by_subject = joint / joint.sum(1, keepdim=True)
    assert found["fld"] == pytest.approx(float(-(joint * by_subject.log()).nansum()), rel=1e-4)
    torch.manual_seed(3)
    text = source_task(model, reference_text()).features[torch.randperm(420)[:192]]
    apart = divergence(torch.cdist(features, text), torch.cdist(features, features), torch.cdist(text, text))
    assert found["fa"] == pytest.approx(0.5 * float(apart), rel=1e-3)
    assert found["both"] == pytest.approx(found["fa"] + found["fld"], rel=1e-6)
    assert method.terms() == pytest.approx({"fa": found["fa"], "fld": found["fld"]}, rel=1e-6)


def test_moves_features_towards_the_text(model: UPSModel, target: FixedTarget) -> None:
    method = RecraftAlignment()
    method.prepare(model, target)
    assert method.lipschitz == 0.5
    torch.manual_seed(0)
    features = torch.nn.Parameter(torch.randn(12, model.body.size) * 2 + 1)
    optimiser = torch.optim.Adam([features], lr=0.1)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = method.loss(features, target.rows, features)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    flat = RecraftAlignment()
    flat.prepare(model, FixedTarget(ndim=2))
    assert flat.lipschitz == 0.3
