"""A plain convolutional U-Net in one or two dimensions (Ronneberger et al. 2015), the baseline of PDEBench."""

from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 8
"""Channels that are normalised together: several, so that channels constant in space are not normalised away."""


@final
class Block(nn.Module):
    """Two 3-point convolutions, each with group normalisation and GELU: (B, I, X...) -> (B, O, X...).

    A linear shortcut around them carries the amplitude of the input, which the normalisation takes away.
    """

    def __init__(self, inputs: int, outputs: int, ndim: int) -> None:
        super().__init__()
        convolution = nn.Conv1d if ndim == 1 else nn.Conv2d
        self.first = convolution(inputs, outputs, 3)
        self.second = convolution(outputs, outputs, 3)
        self.shortcut = convolution(inputs, outputs, 1)
        groups = max(1, outputs // GROUP)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, outputs) for _ in range(2))

    def forward(self, x: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        around: Tensor = self.shortcut(x)
        for convolution, norm in zip((self.first, self.second), self.norms, strict=True):
            x = F.gelu(norm(convolution(padded(x, periodic))))
        return around + x


@final
class UNet(nn.Module):
    """`levels` resolutions, halved by averaging on the way down, skips on the way up; channels double per level.

    Any grid: an odd axis is halved downwards, and interpolated to the size of its skip on the way up.

    Shapes:
        x: (B, I, X...) -> (B, O, X...), with at least ``2 ** (levels - 1)`` points an axis.
    """

    def __init__(self, inputs: int, outputs: int, channels: int, levels: int, ndim: int) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            Block(i, o, ndim) for i, o in zip([inputs, *widths[:-1]], widths, strict=True)
        )  # fmt: skip
        self.up = nn.ModuleList(Block(deep + skip, skip, ndim) for skip, deep in pairwise(widths))
        self.head = (nn.Conv1d if ndim == 1 else nn.Conv2d)(channels, outputs, 1)
        self._halve = F.avg_pool1d if ndim == 1 else F.avg_pool2d

    def forward(self, x: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        """Args: periodic: per axis, which decides how the convolutions continue the field beyond the box."""
        skips: list[Tensor] = []
        for block in self.down:
            x = block(self._halve(x, 2) if skips else x, periodic)
            skips.append(x)
        for block, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            x = block(torch.cat([F.interpolate(x, skip.shape[2:]), skip], dim=1), periodic)
        out: Tensor = self.head(x)
        return out


def padded(x: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """One cell on both sides of every axis: the other side's where it is periodic, else the edge's own."""
    for axis, wraps in enumerate(periodic, start=2):
        n = x.shape[axis]
        low, high = (n - 1, 0) if wraps else (0, n - 1)
        x = torch.cat([x.narrow(axis, low, 1), x, x.narrow(axis, high, 1)], dim=axis)
    return x
