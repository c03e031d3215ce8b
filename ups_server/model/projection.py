"""The Helmholtz decomposition of a velocity in a box: what a pressure takes away in an incompressible flow.

``v = w + grad p`` with ``div w = 0``, and no flow of w through a wall. One step of a pressure projection is global; a
sum of few Fourier modes along each axis cannot imitate it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ups_server.model.rows import Rows


@dataclass(frozen=True)
class Projection(Rows):
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
