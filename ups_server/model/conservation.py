"""What an equation conserves, restored exactly after a step.

Each function takes a state after the step and the state before it, both (B, X..., F) in physical units, and returns
the former with the means over the points that the latter has.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ups_server.model.scales import mean, spread
from ups_server.pde.euler import GAMMA

Restore = Callable[[Tensor, Tensor], Tensor]


def means(after: Tensor, before: Tensor) -> Tensor:
    """The mean of every field, by a constant."""
    return after + spread(mean(before) - mean(after), after)


def gas(after: Tensor, before: Tensor) -> Tensor:
    """Mass, momentum and energy of velocities, density and pressure.

    Density by a factor, velocities by a constant, pressure by a factor: positive fields stay positive wherever the
    kinetic energy after the step is below the total energy.
    """
    density = after[..., -2:-1] * spread(mean(before[..., -2:-1]) / mean(after[..., -2:-1]), after)
    momentum, now = mean(before[..., :-2] * before[..., -2:-1]), mean(after[..., :-2] * density)
    velocity = after[..., :-2] + spread((momentum - now) / mean(density), after)
    kinetic = mean(density * velocity.square()).sum(1, keepdim=True) / 2
    energy = (
        mean(before[..., -1:]) / (GAMMA - 1)
        + mean(before[..., -2:-1] * before[..., :-2].square()).sum(1, keepdim=True) / 2
    )
    inner = (energy - kinetic).clamp_min(1e-3 * energy) * (GAMMA - 1)
    pressure = after[..., -1:] * spread(inner / mean(after[..., -1:]), after)
    return torch.cat([velocity, density, pressure], dim=-1)


CONSERVED: dict[str, Restore] = {
    "advection": means,
    "burgers": means,
    "compressible_ns_1d": gas,
    "compressible_ns_2d": gas,
}
"""By family, in a box without outflow."""
