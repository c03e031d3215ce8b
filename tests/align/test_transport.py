"""Transport against exact assignments, closed forms and differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from ups_server.align.transport import bures2, distances, divergence, entropic_cost, potentials, squared_distances


@pytest.fixture
def points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return x, torch.randn(6, 3, generator=generator, dtype=torch.float64) + 1.0


def matched(cost: torch.Tensor) -> float:
    """The least mean cost of a one-to-one matching, which is the exact transport cost of equal weights."""
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost.numpy()[rows, columns].mean())


def test_small_epsilon_is_exact_transport(points: tuple[torch.Tensor, torch.Tensor]) -> None:
    cost = squared_distances(*points)
    exact = min(sum(float(cost[i, j]) for i, j in enumerate(order)) / 6 for order in itertools.permutations(range(6)))
    assert matched(cost) == pytest.approx(exact)
    epsilon = 1e-3 * cost.median()
    entropic = entropic_cost(cost, epsilon, 20_000)
    # The entropy of a matching of n points relative to the independent plan is log n.
    assert float(entropic) == pytest.approx(exact + float(epsilon) * math.log(6), rel=1e-3)
    debiased = divergence(
        cost, squared_distances(points[0], points[0]), squared_distances(points[1], points[1]), 1e-3, 20_000
    )
    assert float(debiased) == pytest.approx(exact, rel=2e-3)


def test_marginals_hold(points: tuple[torch.Tensor, torch.Tensor]) -> None:
    cost = squared_distances(*points)[:, :4]
    epsilon = 0.1 * cost.median()
    f, g = potentials(cost, epsilon, 2000)
    plan = ((f[:, None] + g - cost) / epsilon).exp() / cost.numel()
    torch.testing.assert_close(plan.sum(1), torch.full((6,), 1 / 6, dtype=torch.float64), rtol=1e-3, atol=0.0)
    torch.testing.assert_close(plan.sum(0), torch.full((4,), 1 / 4, dtype=torch.float64), rtol=1e-3, atol=0.0)


def test_gradient_is_the_plan(points: tuple[torch.Tensor, torch.Tensor]) -> None:
    cost = squared_distances(*points).requires_grad_()
    epsilon = 0.2 * cost.detach().median()
    (gradient,) = torch.autograd.grad(entropic_cost(cost, epsilon, 5000), cost)
    h = 1e-4
    moved = cost.detach().clone()
    moved[2, 3] += h
    higher = entropic_cost(moved, epsilon, 5000)
    moved[2, 3] -= 2 * h
    assert float(gradient[2, 3]) == pytest.approx(
        float(higher - entropic_cost(moved, epsilon, 5000)) / (2 * h), rel=1e-3
    )
    assert float(gradient.sum()) == pytest.approx(1.0, rel=1e-3)


def test_debiased_is_zero_for_equal_clouds_and_positive_else(points: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = points
    own = squared_distances(x, x)
    assert float(divergence(own, own, own)) == pytest.approx(0.0, abs=1e-12)
    assert float(entropic_cost(own, 0.3 * own.median())) > 0.01  # what debiasing takes away
    shuffled = squared_distances(x, x.flip(0))
    assert float(divergence(shuffled, own, squared_distances(x.flip(0), x.flip(0)), 0.05, 5000)) == pytest.approx(
        0.0, abs=1e-3
    )
    assert float(divergence(squared_distances(x, y), own, squared_distances(y, y))) > 0.1


def test_batches_are_independent(points: tuple[torch.Tensor, torch.Tensor]) -> None:
    costs = torch.stack([squared_distances(*points), 3 * squared_distances(points[0], points[0])])
    epsilon = 0.1 * costs.flatten(1).median(1).values
    together = entropic_cost(costs, epsilon, 3000)
    alone = torch.stack([entropic_cost(cost, e, 3000) for cost, e in zip(costs, epsilon, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-6)


def test_gaussian_distance_is_the_closed_form() -> None:
    """Against the textbook formula with matrix roots, of clouds of full rank; and the distance of two normals."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64) @ torch.diag(
        torch.tensor([1.0, 2.0, 0.5]).double()
    )
    y = torch.randn(15, 3, generator=generator, dtype=torch.float64) + torch.tensor([1.0, -2.0, 0.0]).double()
    first, second = np.cov(x.T.numpy(), bias=True), np.cov(y.T.numpy(), bias=True)

    def root(matrix: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return np.asarray(vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T)

    middle = root(root(first) @ second @ root(first))
    expected = float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(first + second - 2 * middle)
    assert float(bures2(x, y)) == pytest.approx(expected)
    assert float(bures2(x, x)) == pytest.approx(0.0, abs=1e-9)
    line = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)  # mean 0, standard deviation 1
    assert float(bures2(line, 3 * line + 4)) == pytest.approx(4**2 + (3 - 1) ** 2)


def test_distances_are_differentiable_at_zero() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    distances(x, x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(2, 3))
    assert float(distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))) == pytest.approx(5.0)
