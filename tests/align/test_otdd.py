"""OTDD: zero for equal datasets, the exact value by brute force, class-wise subsampling, gradient."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from tests.align.conftest import FixedTarget
from ups_server.align.distances import OTDDAlignment, classwise, clouds, label_costs, otdd, transport2
from ups_server.align.labels import SourceTask, classify, kmeans, outlines
from ups_server.align.transport import bures2, squared_distances
from ups_server.model.operator import UPSModel

LABELS = torch.tensor([0, 0, 0, 1, 1, 1])


@pytest.fixture
def features() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return x, torch.randn(6, 4, generator=generator, dtype=torch.float64) + 0.5


def test_of_equal_datasets_is_zero(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, _ = features
    assert float(otdd(x, LABELS, x, LABELS)) == pytest.approx(0.0, abs=1e-9)


def test_labels_cost(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The same points with labels dealt otherwise are another dataset."""
    x, _ = features
    assert float(otdd(x, LABELS, x, torch.tensor([0, 1, 0, 1, 0, 1]))) > 0.05


def test_equals_brute_force(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = features
    cost = squared_distances(x, y)
    for i, j in [(i, j) for i in range(6) for j in range(6)]:
        cost[i, j] += bures2(x[LABELS[i] == LABELS], y[LABELS[j] == LABELS])
    rows, columns = linear_sum_assignment(cost.numpy())
    exact = float(cost[rows, columns].mean())
    assert float(otdd(x, LABELS, y, LABELS, epsilon=1e-3, iterations=20_000)) == pytest.approx(exact, rel=5e-3)


def test_a_label_cost_between_the_clouds_themselves(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Eq. 3's second term without the Gaussian form: exact transport of equal numbers is an assignment."""
    x, y = features
    rows, columns = linear_sum_assignment(squared_distances(x, y).numpy())
    exact = float(squared_distances(x, y)[rows, columns].mean())
    assert float(transport2(x, y)) == pytest.approx(exact, rel=0.02)
    assert float(transport2(x, x)) == pytest.approx(0.0, abs=1e-6)
    assert float(bures2(x, y)) <= exact
    several = transport2(torch.stack([x, x + 1]), y)
    assert several.tolist() == pytest.approx([float(transport2(x, y)), float(transport2(x + 1, y))], rel=1e-6)


def test_one_class_needs_no_labels(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    """With one label on either side and classes of the target drawn whole, Algorithm 1 is OTDD itself."""
    x, y = features
    x = x[:1].expand(6, -1)  # every subsample is the same
    ones = torch.zeros(6, dtype=torch.long)
    own = clouds(y, ones)
    approximate = classwise(x, ones, SourceTask(y, ones, 1), label_costs(own, own), 6, 6)
    assert float(approximate) == pytest.approx(float(otdd(x, ones, y, ones)), rel=1e-6)


def test_kmeans_finds_separate_groups_and_is_deterministic() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (groups[:, None] + torch.randn(3, 20, 2, generator=generator)).flatten(0, 1)
    centres = kmeans(points, 3)
    labels = classify(points, centres).unflatten(0, (3, 20))
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0].tolist())) == 3
    assert torch.equal(centres, kmeans(points, 3))
    assert len(kmeans(torch.ones(5, 2))) == 1


def test_outlines_are_means_in_any_dimension() -> None:
    assert outlines(torch.arange(32.0).expand(2, 3, 32)).shape == (2, 48)
    assert torch.equal(outlines(torch.arange(32.0).expand(1, 1, 32))[0], torch.arange(16) * 2 + 0.5)
    assert outlines(torch.ones(2, 3, 8, 8)).shape == (2, 48)


def test_moves_features_towards_the_text(model: UPSModel, target: FixedTarget) -> None:
    """Gradient steps on free features lower the distance."""
    method = OTDDAlignment()
    method.prepare(model, target)
    torch.manual_seed(0)
    features = torch.nn.Parameter(torch.randn(12, model.body.size) * 2 + 1)
    optimiser = torch.optim.Adam([features], lr=0.1)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        method = OTDDAlignment()
        method.prepare(model, target)
        loss = method.loss(features, target.rows)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
