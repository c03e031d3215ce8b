"""What an equation keeps, restored after a step: velocities free of divergence, and the means that are conserved.

The Helmholtz decomposition of a velocity in a box, ``v = w + grad p`` with ``div w = 0`` and no flow of w through a
wall, is what a pressure does in an incompressible flow. One such projection is global; a sum of few Fourier modes along
each axis cannot imitate it.

Means are moved back by a share that is learned (`MeanCorrection`), or exactly where it is known what is conserved:
`means` and `gas` take a state after the step and the state before it, both (B, X..., N) in physical units of the
superspace, and return the former with the means over the points that the latter has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ups_server.model.conditioning import zero
from ups_server.model.config import SuperspaceConfig
from ups_server.model.context import BatchRows
from ups_server.model.scales import mean, spread
from ups_server.pde.gas import GAMMA

LEAST_HEAT = 1e-3
"""Of the energy of a gas, that is left as heat however much of it moves."""


@dataclass(frozen=True)
class Projection(BatchRows):
    """Of the normalised states of B problems whose velocity, in the first slots, is free of divergence.

    Attributes:
        mean, std, per_std: (B, N) statistics of the slots, and one over the spread; all zero for other problems.
    """

    mean: Tensor
    std: Tensor
    per_std: Tensor

    def of(self, u: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        """The states (B, N, X...) without the gradient part of their velocity."""
        axes = u.ndim - 2
        mean, std, per_std = (
            rows[(slice(None), slice(axes), *(None,) * axes)] for rows in (self.mean, self.std, self.per_std)
        )
        gradient = gradient_part(u[:, :axes] * std + mean, periodic)
        return torch.cat([u[:, :axes] - gradient * per_std, u[:, axes:]], dim=1)


def gradient_part(v: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """``grad p`` of ``v = w + grad p``, where ``laplace p = div v`` and the flow of w through walls is zero.

    The box is one long along each axis. Along an axis with walls, v is continued by reflection, so that the
    decomposition is diagonal in Fourier space: ``(grad p)_i = k_i (k . v) / k^2``.

    Shapes:
        v: (B, d, X...) with as many components as axes; result alike.
    """
    points = tuple(v.shape[2:])
    for axis, wraps in enumerate(periodic):
        if not wraps:
            v = _reflected(v, axis)
    spectrum = torch.fft.rfftn(v, dim=tuple(range(2, v.ndim)))
    k = _wave_numbers(tuple(v.shape[2:]), tuple(n / m for n, m in zip(v.shape[2:], points, strict=True)), v)
    square = k.square().sum(0)
    along = torch.einsum("d...,bd...->b...", k.to(spectrum.dtype), spectrum)
    gradient = k * (along / square.where(square > 0, torch.ones_like(square)))[:, None]
    out = torch.fft.irfftn(gradient, s=tuple(v.shape[2:]), dim=tuple(range(2, v.ndim)))
    cropped: Tensor = out[(..., *(slice(n) for n in points))]
    return cropped


def _reflected(v: Tensor, axis: int) -> Tensor:
    """The continuation past a wall along `axis`: the component through it changes sign, the others do not."""
    mirrored = v.flip(2 + axis)
    sign = torch.ones(v.shape[1], device=v.device, dtype=v.dtype)
    sign[axis] = -1
    return torch.cat([v, mirrored * sign.reshape(-1, *(1,) * (v.ndim - 2))], dim=2 + axis)


def _wave_numbers(points: tuple[int, ...], lengths: tuple[float, ...], like: Tensor) -> Tensor:
    """Wave vectors (d, K...) of a real transform; zero for the Nyquist modes, whose sign cannot be told."""
    axes = []
    for axis, (n, length) in enumerate(zip(points, lengths, strict=True)):
        transform = torch.fft.rfftfreq if axis == len(points) - 1 else torch.fft.fftfreq
        k = transform(n, length / n, device=like.device, dtype=like.dtype) * 2 * math.pi
        axes.append(k.where(k.abs() * length < math.pi * n * (1 - 1e-6), torch.zeros_like(k)))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


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


def between_extremes(after: Tensor, before: Tensor, slots: Sequence[int]) -> Tensor:
    """The fields of some slots clipped to the least and greatest value that each had before."""
    chosen = list(slots)
    axes = tuple(range(1, before.ndim - 1))
    least, greatest = before[..., chosen].amin(axes, keepdim=True), before[..., chosen].amax(axes, keepdim=True)
    out = after.clone()
    out[..., chosen] = after[..., chosen].clamp(least, greatest)
    return out


def means(after: Tensor, before: Tensor) -> Tensor:
    """The mean of every field, by a constant."""
    return after + spread(mean(before) - mean(after), after)


def gas(after: Tensor, before: Tensor) -> Tensor:
    """Mass, momentum and energy of velocities (two slots), density and pressure; entropy does not fall.

    Density by a factor, velocities by a constant, pressure by a factor: positive fields stay positive. Energy is exact
    wherever the kinetic energy after the step leaves heat (`LEAST_HEAT`).
    """
    mass = mean(before[..., 2:3])
    density = after[..., 2:3] * spread(mass / mean(after[..., 2:3]), after)
    density = above_least_entropy(density, after[..., 3:], before)
    density = density * spread(mass / mean(density), density)  # one, but where the bound left no room
    momentum, now = mean(before[..., :2] * before[..., 2:3]), mean(after[..., :2] * density)
    velocity = after[..., :2] + spread((momentum - now) / mean(density), after)
    energy = mean(before[..., 3:]) / (GAMMA - 1) + kinetic(before[..., :2], before[..., 2:3])
    heat = (energy - kinetic(velocity, density)).maximum(LEAST_HEAT * energy)
    pressure = after[..., 3:] * spread(heat * (GAMMA - 1) / mean(after[..., 3:]), after)
    return torch.cat([velocity, density, pressure], dim=-1)


def above_least_entropy(density: Tensor, pressure: Tensor, before: Tensor) -> Tensor:
    """Densities (B, X..., 1) whose entropy, ``log p - gamma log rho``, is at least the least of the state before.

    Without conduction of heat, friction and shocks only raise the entropy that a particle carries along (Tadmor,
    Applied Numerical Mathematics 2, 1986): at a given pressure that bounds its density. Mass above the bound moves to
    where there is room below it, in proportion.
    """
    axes = tuple(range(1, density.ndim - 1))
    least = (before[..., 3:].log() - GAMMA * before[..., 2:3].log()).amin(axes, keepdim=True)
    most = ((pressure.log() - least) / GAMMA).exp()
    below = density.minimum(most)
    room = most - below
    share = (mean(density - below) / mean(room).clamp_min(torch.finfo(room.dtype).tiny)).clamp_max(1.0)
    return below + spread(share, room) * room


def kinetic(velocity: Tensor, density: Tensor) -> Tensor:
    """(B, 1) mean kinetic energy."""
    return mean(density * velocity.square()).sum(1, keepdim=True) / 2
