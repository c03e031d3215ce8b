"""What an equation conserves, restored after a step: by a share that is learned, or exactly where it is known.

`means` and `gas` take a state after the step and the state before it, both (B, X..., N) in physical units of the
superspace, and return the former with the means over the points that the latter has.
"""

import torch
from torch import Tensor, nn

from ups_server.model.conditioning import zero
from ups_server.model.config import SuperspaceConfig
from ups_server.model.scales import mean, spread
from ups_server.pde.gas import GAMMA

LEAST_HEAT = 1e-3
"""Of the energy of a gas, that is left as heat however much of it moves."""


class MeanCorrection(nn.Module):
    """Moves the mean of every slot back towards that of the initial state, by a share that belongs to the problem.

    The share is learned: near one where the mean is conserved, zero where it is not.
    """

    def __init__(self, space: SuperspaceConfig, size: int) -> None:
        super().__init__()
        self.of_problem = zero(nn.Linear(size, space.slots))

    def share(self, vector: Tensor, mask: Tensor) -> Tensor:
        """(B, N) of condition vectors (B, size), zero in absent slots."""
        share: Tensor = self.of_problem(vector) * mask
        return share

    def forward(self, u: Tensor, initial_means: Tensor, share: Tensor) -> Tensor:
        """The normalised states u (B, N, X...) corrected; means and share (B, N)."""
        axes = tuple(range(2, u.ndim))
        return u + (share * (initial_means - u.mean(axes)))[(..., *(None,) * len(axes))]


def means(after: Tensor, before: Tensor) -> Tensor:
    """The mean of every field, by a constant."""
    return after + spread(mean(before) - mean(after), after)


def gas(after: Tensor, before: Tensor) -> Tensor:
    """Mass, momentum and energy of velocities (two slots), density and pressure.

    Density by a factor, velocities by a constant, pressure by a factor: positive fields stay positive. Energy is exact
    wherever the kinetic energy after the step leaves heat (`LEAST_HEAT`).
    """
    density = after[..., 2:3] * spread(mean(before[..., 2:3]) / mean(after[..., 2:3]), after)
    momentum, now = mean(before[..., :2] * before[..., 2:3]), mean(after[..., :2] * density)
    velocity = after[..., :2] + spread((momentum - now) / mean(density), after)
    energy = mean(before[..., 3:]) / (GAMMA - 1) + kinetic(before[..., :2], before[..., 2:3])
    heat = (energy - kinetic(velocity, density)).maximum(LEAST_HEAT * energy)
    pressure = after[..., 3:] * spread(heat * (GAMMA - 1) / mean(after[..., 3:]), after)
    return torch.cat([velocity, density, pressure], dim=-1)


def kinetic(velocity: Tensor, density: Tensor) -> Tensor:
    """(B, 1) mean kinetic energy."""
    return mean(density * velocity.square()).sum(1, keepdim=True) / 2
