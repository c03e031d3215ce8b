"""The FNO embedder: a state in the superspace becomes features at every point, from which tokens and steps are read."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_server.model.config import UPSConfig
from ups_server.model.spectral import SpectralConv


class LocalConv(nn.Module):
    """Convolution with a stencil of fixed physical width, circular along every axis.

    The weights are those of `ndim` dimensions; a strip uses their sum over the missing axes, as its broadcast would.
    At a resolution other than the trained one the stencil is dilated, so that it spans the same part of the box.
    """

    def __init__(self, channels: int, width: int, ndim: int) -> None:
        super().__init__()
        self.width = width
        weight = torch.empty(channels, channels, *(width,) * ndim)
        bound = (channels * width**ndim) ** -0.5
        self.weight = nn.Parameter(nn.init.uniform_(weight, -bound, bound))

    def forward(self, x: Tensor, dilation: tuple[int, ...]) -> Tensor:
        """Args: x (B, X..., C); dilation: per axis."""
        points = x.shape[1:-1]
        for axis, spacing in enumerate(dilation, start=1):
            x = wrapped(x, axis, spacing * (self.width // 2))
        if len(points) > 1:
            return F.conv2d(x.movedim(-1, 1), self.weight, dilation=dilation).movedim(1, -1)
        # On a strip a product of matrices is several times as fast as the convolutions of libraries.
        taps = torch.cat([x.narrow(1, tap * dilation[0], points[0]) for tap in range(self.width)], dim=-1)
        weight = self.weight.reshape(*self.weight.shape[:3], -1).sum(-1)
        return taps @ weight.permute(2, 1, 0).flatten(0, 1)


class FourierLayer(nn.Module):
    """``h + W gelu((1 + scale) (spectral(h) + local(h)) + shift)``, scale and shift from the conditioning vector."""

    def __init__(self, config: UPSConfig) -> None:
        super().__init__()
        channels, ndim = config.hidden_channels, config.max_dimensions
        self.spectral = SpectralConv(channels, config.n_modes, ndim, config.joint_modes)
        self.local = LocalConv(channels, config.local_width, ndim)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mix = nn.Linear(channels, channels)
        nn.init.normal_(self.mix.weight, std=0.5 / channels**0.5)

    def forward(self, h: Tensor, modulation: Tensor, scales: "Scales") -> Tensor:
        """Args: h (B, X..., C); modulation (B, 2, C)."""
        spread = (slice(None), *(None,) * (h.ndim - 2))
        scale, shift = modulation[:, 0][spread], (modulation[:, 1] + self.bias)[spread]
        mixed = F.gelu(torch.addcmul(shift, 1 + scale, self.spectral(h, scales.modes) + self.local(h, scales.dilation)))
        step: Tensor = h + self.mix(mixed)
        return step


@dataclass(frozen=True)
class Scales:
    """How layers trained on one grid act on another: the same wave numbers, the same stencil in physical units.

    Attributes:
        modes: per axis, the wave numbers that the training grid resolves.
        dilation: per axis, of the local stencil.
    """

    modes: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, points: tuple[int, ...], trained: int, cells: tuple[int, ...]) -> "Scales":
        """Args: points of the grid; trained: points per axis in training; cells: padding per axis in training."""
        return cls(
            tuple((trained + added + 1) // 2 for added in cells),
            tuple(max(1, round(n / trained)) for n in points),
        )


class FNOEmbedder(nn.Module):
    """Lift and `n_layers` conditioned Fourier layers: (B, I, X...) -> features (B, X..., C).

    Along an axis that is not periodic the lifted features are continued by a cross-fade from the last cell back to
    the first, so that what the spectral layers see is continuous and periodic; the continuation is cut off at the end.
    """

    def __init__(self, config: UPSConfig) -> None:
        super().__init__()
        self.padding = config.padding
        self.lift = nn.Linear(input_channels(config), config.hidden_channels)
        self.layers = nn.ModuleList(FourierLayer(config) for _ in range(config.n_layers))

    def forward(self, inputs: Tensor, modulation: Tensor, periodic: tuple[bool, ...], trained: int) -> Tensor:
        """Args: inputs (B, I, X...); modulation (B, L, 2, C); periodic: per axis; trained: points per axis then."""
        points = tuple(inputs.shape[2:])
        scales = Scales.of(points, trained, tuple(0 if wraps else round(trained * self.padding) for wraps in periodic))
        h = self.lift(inputs.movedim(1, -1))
        for axis, wraps in enumerate(periodic):
            if not wraps:
                h = crossfade(h, 1 + axis, round(points[axis] * self.padding))
        for index, layer in enumerate(self.layers):
            h = layer(h, modulation[:, index], scales)
        unpadded: Tensor = h[(slice(None), *(slice(n) for n in points))]
        return unpadded


def input_channels(config: UPSConfig) -> int:
    """I: the state, static fields, coordinates, and the defect of each slot where the config has it."""
    return config.slots * (2 if config.defect else 1) + config.static_slots + config.max_dimensions


def wrapped(x: Tensor, axis: int, cells: int) -> Tensor:
    """`x` continued by so many cells at both ends of a periodic axis."""
    if not cells:
        return x
    # Of parts that make the whole, the gradient is one concatenation; that of slices fills the rest with zeros.
    first, inner, last = x.split([cells, x.shape[axis] - 2 * cells, cells], dim=axis)
    return torch.cat([last, first, inner, last, first], dim=axis)


def crossfade(h: Tensor, axis: int, cells: int) -> Tensor:
    """Appends `cells` cells along `axis` that lead linearly from the last value back to the first."""
    if cells == 0:
        return h
    first, last = h.narrow(axis, 0, 1), h.narrow(axis, h.shape[axis] - 1, 1)
    shape = [1] * h.ndim
    shape[axis] = cells
    s = ((torch.arange(cells, device=h.device, dtype=h.dtype) + 1) / (cells + 1)).reshape(shape)
    return torch.cat([h, last + (first - last) * s], dim=axis)
