"""What an equation conserves, restored exactly after a step.

Each function takes a state after the step and the state before it, both (B, X..., N) in physical units of the
superspace, and returns the former with the means over the points that the latter has.
"""

import torch
from torch import Tensor

from ups_server.model.scales import mean, spread
from ups_server.pde.gas import GAMMA

LEAST_HEAT = 1e-3
"""Of the energy of a gas, that is left as heat however much of it moves."""


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
