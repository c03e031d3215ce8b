"""Optimal transport between clouds of points: entropic, debiased, in the log domain; and between Gaussians, exactly.

Sources: Cuturi 2013 (Sinkhorn iterations), Feydy et al. 2019 (debiasing), Dowson and Landau 1982 (Gaussians).
"""

import math

import torch
from torch import Tensor

EPSILON = 0.05
"""Regularisation in units of the median cost."""
ITERATIONS = 100
TOLERANCE = 1e-4
"""Largest violation of a marginal, in units of its mass, at which the iterations end."""
CHECK_EVERY = 10


def divergence(
    between: Tensor, within_x: Tensor, within_y: Tensor, epsilon: float = EPSILON, iterations: int = ITERATIONS
) -> Tensor:
    """Debiased entropic transport ``S = W(x, y) - W(x, x) / 2 - W(y, y) / 2`` (Feydy et al. 2019, Eq. 3).

    Zero where the clouds are equal, while plain entropic transport shrinks a cloud towards its mean. `epsilon` is in
    units of the median of `between`.

    Shapes: (..., m, n), (..., m, m), (..., n, n) costs -> (...,).
    """
    scale = between.detach().flatten(-2).median(-1).values.clamp_min(torch.finfo(between.dtype).tiny)
    eps = epsilon * scale
    return (
        entropic_cost(between, eps, iterations)
        - entropic_cost(within_x, eps, iterations) / 2
        - entropic_cost(within_y, eps, iterations) / 2
    )


def entropic_cost(cost: Tensor, epsilon: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """``min <P, C> + eps KL(P | a b)`` over plans P between uniform weights: (...,) from costs (..., m, n).

    The gradient with respect to the cost is the plan (envelope theorem), so nothing is kept of the iterations.
    """
    m, n = cost.shape[-2:]
    detached = cost.detach()
    f, g = potentials(detached, epsilon, iterations)
    eps = epsilon[..., None, None]
    plan = ((f[..., :, None] + g[..., None, :] - detached) / eps).exp() / (m * n)
    value = f.mean(-1) + g.mean(-1)
    moved = (plan * cost).sum((-2, -1))
    return value + moved - moved.detach()


@torch.no_grad()
def potentials(cost: Tensor, epsilon: Tensor, iterations: int = ITERATIONS) -> tuple[Tensor, Tensor]:
    """The dual potentials f (..., m), g (..., n) of entropic transport between uniform weights.

    Alternating updates ``f_i = -eps log mean_j exp((g_j - c_ij) / eps)``, and likewise g. After the last update one
    marginal is exact, so that the mean of f plus that of g is the dual value.

    Shapes: cost (..., m, n), epsilon (...).
    """
    m, n = cost.shape[-2:]
    eps = epsilon[..., None]
    scaled = cost / eps[..., None]
    f, g = cost.new_zeros(cost.shape[:-1]), cost.new_zeros((*cost.shape[:-2], n))
    log_m, log_n = math.log(m), math.log(n)
    for step in range(iterations):
        f = -(torch.logsumexp(g[..., None, :] - scaled, -1) - log_n)
        if step % CHECK_EVERY == 0 and step:
            mass = (torch.logsumexp(f[..., :, None] + g[..., None, :] - scaled, -2) - log_m).exp()
            if (mass - 1).abs().max() < TOLERANCE:
                break
        g = -(torch.logsumexp(f[..., :, None] - scaled, -2) - log_m)
    return f * eps, g * eps


def distances(x: Tensor, y: Tensor) -> Tensor:
    """(..., m, n) Euclidean distances between rows, with a gradient that is zero where two rows are equal."""
    squared = (x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :] - 2 * x @ y.mT).clamp_min(0.0)
    apart = squared > 1e-12
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(m, n) squared Euclidean distances between rows; zero on the diagonal where a is b."""
    gram = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    if a is b:
        gram = gram.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), 0.0)
    return gram.clamp_min(0.0)


def bures2(x: Tensor, y: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance between the Gaussians with the means and covariances of two clouds.

    ``|m_x - m_y|^2 + tr S_x + tr S_y - 2 tr (S_x^1/2 S_y S_x^1/2)^1/2``. With the centred rows X, Y over the roots of
    their numbers the last trace is the nuclear norm of ``X Y^T``: no root of a large and singular matrix is taken.

    Shapes: (..., m, E), (..., n, E) -> (...,).
    """
    mean_x, mean_y = x.mean(-2), y.mean(-2)
    left = (x - mean_x[..., None, :]) / x.shape[-2] ** 0.5
    right = (y - mean_y[..., None, :]) / y.shape[-2] ** 0.5
    overlap: Tensor = torch.linalg.svdvals(left @ right.mT).sum(-1)
    spread = left.square().sum((-2, -1)) + right.square().sum((-2, -1))
    squared: Tensor = (mean_x - mean_y).square().sum(-1) + spread - 2 * overlap
    return squared.clamp_min(0.0)
