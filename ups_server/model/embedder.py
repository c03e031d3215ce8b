"""The FNO embedder: a state in the superspace becomes features at every point, from which tokens and steps are read.

Its Fourier layers act along one axis at a time, so that a 1-D state stays a strip of n points: on a broadcast of it to
n x n the second axis carries only its zero mode, and the result is the same.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_server.model.config import EmbedderConfig, SuperspaceConfig

MANY = 32
"""Rows of amplitudes a wave number, beyond which its complex matrix is worth building as a real one."""


class FNOEmbedder(nn.Module):
    """Lift and `n_layers` conditioned Fourier layers: (B, I, X...) -> features (B, X..., C).

    Along an axis that is not periodic the lifted features are continued by a cross-fade from the last cell back to
    the first, so that what the spectral layers see is continuous and periodic; the continuation is cut off at the end.
    """

    def __init__(self, config: EmbedderConfig, space: SuperspaceConfig) -> None:
        super().__init__()
        self.padding = config.padding
        self.lift = nn.Linear(input_channels(config, space), config.hidden_channels)
        self.layers = nn.ModuleList(FourierLayer(config, space.max_dimensions) for _ in range(config.n_layers))

    def forward(self, inputs: Tensor, modulation: Tensor, periodic: tuple[bool, ...], trained: int) -> Tensor:
        """Args: inputs (B, I, X...); modulation (B, L, 2, C); periodic: per axis; trained: points per axis then."""
        points = tuple(inputs.shape[2:])
        scales = GridScales.of(
            points, trained, tuple(0 if wraps else round(trained * self.padding) for wraps in periodic)
        )
        h = self.lift(inputs.movedim(1, -1))
        for axis, wraps in enumerate(periodic):
            if not wraps:
                h = crossfade(h, 1 + axis, round(points[axis] * self.padding))
        for index, layer in enumerate(self.layers):
            h = layer(h, modulation[:, index], scales)
        unpadded: Tensor = h[(slice(None), *(slice(n) for n in points))]
        return unpadded


def input_channels(config: EmbedderConfig, space: SuperspaceConfig) -> int:
    """I: the state, static fields, coordinates, and the defect of each slot where the config has it."""
    return space.slots * (2 if config.defect else 1) + space.static_slots + space.max_dimensions


def crossfade(h: Tensor, axis: int, cells: int) -> Tensor:
    """Appends `cells` cells along `axis` that lead linearly from the last value back to the first."""
    if cells == 0:
        return h
    first, last = h.narrow(axis, 0, 1), h.narrow(axis, h.shape[axis] - 1, 1)
    shape = [1] * h.ndim
    shape[axis] = cells
    s = ((torch.arange(cells, device=h.device, dtype=h.dtype) + 1) / (cells + 1)).reshape(shape)
    return torch.cat([h, last + (first - last) * s], dim=axis)


class FourierLayer(nn.Module):
    """``h + W gelu((1 + scale) (spectral(h) + local(h)) + shift)``, scale and shift from the conditioning vector."""

    def __init__(self, config: EmbedderConfig, ndim: int) -> None:
        super().__init__()
        channels = config.hidden_channels
        self.spectral = SpectralConv(channels, config.n_modes, ndim, config.joint_modes)
        self.local = LocalConv(channels, config.local_width, ndim)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mix = nn.Linear(channels, channels)
        nn.init.normal_(self.mix.weight, std=0.5 / channels**0.5)

    def forward(self, h: Tensor, modulation: Tensor, scales: "GridScales") -> Tensor:
        """Args: h (B, X..., C); modulation (B, 2, C)."""
        spread = (slice(None), *(None,) * (h.ndim - 2))
        scale, shift = modulation[:, 0][spread], (modulation[:, 1] + self.bias)[spread]
        mixed = F.gelu(torch.addcmul(shift, 1 + scale, self.spectral(h, scales.modes) + self.local(h, scales.dilation)))
        step: Tensor = h + self.mix(mixed)
        return step


@dataclass(frozen=True)
class GridScales:
    """How layers trained on one grid act on another: the same wave numbers, the same stencil in physical units.

    Attributes:
        modes: per axis, the wave numbers that the training grid resolves.
        dilation: per axis, of the local stencil.
    """

    modes: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, points: tuple[int, ...], trained: int, cells: tuple[int, ...]) -> "GridScales":
        """Args: points of the grid; trained: points per axis in training; cells: padding per axis in training."""
        return cls(
            tuple((trained + added + 1) // 2 for added in cells),
            tuple(max(1, round(n / trained)) for n in points),
        )


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


def wrapped(x: Tensor, axis: int, cells: int) -> Tensor:
    """`x` continued by so many cells at both ends of a periodic axis."""
    if not cells:
        return x
    # Of parts that make the whole, the gradient is one concatenation; that of slices fills the rest with zeros.
    first, inner, last = x.split([cells, x.shape[axis] - 2 * cells, cells], dim=axis)
    return torch.cat([last, first, inner, last, first], dim=axis)


class SpectralConv(nn.Module):
    """Spectral convolution: along each axis with many modes, and jointly over both axes with few.

    ``y = sum_a F_a^-1 [ R_a(k_a) F_a x ] + F^-1 [ R(k_x, k_y) F x ]``, the last sum over |k_x|, |k_y| < `joint_modes`.
    In one dimension this is the layer of the FNO (Li et al. 2021) with `n_modes` non-negative wave numbers; the sum
    over axes is its factorised form (Tran et al. 2023), which is cheap and reaches fine scales; the joint part is the
    full two-dimensional FNO layer on the large scales, where sound waves and pressure projections couple the axes.
    Weights belong to wave numbers of the box, not to grid points: any resolution works, modes beyond the grid's are
    left out. Agrees with neuraloperator's `SpectralConv`; it is ours because its weights are real, which the
    optimiser's fused update needs, and its transforms products of matrices that leave channels where they are:
    `benchmarks/spectral_layer.py` compares whole training steps.

    Shapes:
        x: (B, X..., C) with 1 … `ndim` axes; missing axes contribute their zero mode.
    """

    def __init__(self, channels: int, n_modes: int, ndim: int, joint_modes: int = 0) -> None:
        super().__init__()
        if joint_modes and ndim != 2:
            raise ValueError("joint modes are those of two axes")
        self.n_modes = n_modes
        self.joint = JointSpectralConv(channels, joint_modes) if joint_modes else None
        # (mode, input, real or imaginary part, output)
        self.weights = nn.ParameterList(
            torch.randn(n_modes, channels, 2, channels) / (channels * math.sqrt(2)) for _ in range(ndim)
        )

    def forward(self, x: Tensor, limits: tuple[int, ...] | None = None) -> Tensor:
        """Args: limits: modes per axis that take part at most (those that training has seen); default all."""
        points = x.shape[1:-1]
        limits = limits or (self.n_modes,) * len(points)
        modes = [min(self.n_modes, n // 2 + 1, limit) for n, limit in zip(points, limits, strict=True)]
        return self._of_strip(x, *modes) if len(points) == 1 else self._of_plane(x, *modes)

    def _of_strip(self, x: Tensor, modes: int) -> Tensor:
        spectrum = transformed(x, modes)
        mixed = mixed_modes(spectrum, lowest(self.weights[0], modes))
        if self.joint is not None:
            # Along a missing axis everything is its zero mode.
            joint = lowest(self.joint.weight[:, self.joint.modes - 1], modes)
            mixed = with_lowest(mixed, mixed_modes(spectrum[:, : 2 * len(joint)], joint))
        if len(self.weights) == 1:
            return restored(mixed, x.shape[1])
        missing = torch.stack([other[0, :, 0] for other in self.weights[1:]]).sum(0)
        return restored(mixed, x.shape[1], x @ missing)

    def _of_plane(self, x: Tensor, modes_x: int, modes_y: int) -> Tensor:
        batch, points_x, points_y, channels = x.shape
        spectrum = transformed(x.reshape(-1, points_y, channels), modes_y)
        mixed = mixed_modes(spectrum, lowest(self.weights[1], modes_y))
        if self.joint is not None:
            low = min(self.joint.modes, modes_y, (points_y + 1) // 2)
            rows = self.joint(spectrum[:, : 2 * low].unflatten(0, (batch, points_x)), min(self.joint.modes, modes_x))
            mixed = with_lowest(mixed, rows.flatten(0, 1))
        along_y = restored(mixed, points_y).reshape(batch, points_x, -1)
        columns = transformed(x.reshape(batch, points_x, -1), modes_x).unflatten(-1, (points_y, channels))
        mixed = mixed_modes(columns, lowest(self.weights[0], modes_x)).flatten(2)
        return restored(mixed, points_x, along_y).view_as(x)


class JointSpectralConv(nn.Module):
    """The FNO layer over two axes at once: a matrix for every wave vector with |k_x|, |k_y| < `modes`.

    Half of the k_x suffice, the state being real.
    """

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        # (k_x, k_y, input, real or imaginary part, output)
        weight = torch.randn(modes, 2 * modes - 1, channels, 2, channels) / (2 * channels * math.sqrt(2))
        # What the layers along the axes do already starts at zero.
        weight[:, modes - 1] = 0
        weight[0] = 0
        self.weight = nn.Parameter(weight)

    def forward(self, rows: Tensor, modes_x: int) -> Tensor:
        """Spectra along y (B, X, 2 k_y, C) -> what the layer adds to them, alike.

        A real state has the amplitudes a at (k_x, k_y) and b at (k_x, -k_y), k_y >= 0; what comes back along y at k_y
        is the mean of the first and of the conjugate of the second.
        """
        batch, points, double, channels = rows.shape
        modes_y = double // 2
        # (B, k_x, part of x, k_y, part of y, C)
        parts = transformed(rows.flatten(2), modes_x).unflatten(1, (modes_x, 2)).unflatten(-1, (modes_y, 2, channels))
        (cc, cs), (sc, ss) = (part.unbind(3) for part in parts.unbind(2))
        # (part, sign of k_y, B, k_x, k_y, C)
        amplitudes = torch.stack([torch.stack([cc - ss, cc + ss]), torch.stack([sc + cs, sc - cs])])
        zero = self.modes - 1
        weight = lowest(self.weight, modes_x)
        both = torch.stack([weight[:, zero : zero + modes_y], weight[:, zero - modes_y + 1 : zero + 1].flip(1)])
        # One product per wave vector, both parts of all rows at once: (2 B, C) @ (C, 2 C).
        flat = amplitudes.permute(1, 3, 4, 0, 2, 5).reshape(-1, 2 * batch, channels)
        products = torch.bmm(flat, both.flatten(4).flatten(0, 2))
        products = products.reshape(2, modes_x, modes_y, 2, batch, 2, channels)
        (rr, ri), (ir, ii) = (part.unbind(-2) for part in products.unbind(3))
        (re, re_), (im, im_) = (rr - ii).unbind(), (ri + ir).unbind()
        # (part of x, part of y, k_x, k_y, B, C)
        waves = torch.stack([torch.stack([re + re_, im - im_]), torch.stack([im + im_, re_ - re])]) / 2
        waves = waves.permute(4, 2, 0, 3, 1, 5).reshape(batch, 2 * modes_x, -1)
        return restored(waves, points).reshape(rows.shape)


def transformed(x: Tensor, modes: int) -> Tensor:
    """The lowest wave numbers of rows of points (R, n, L): (R, 2 modes, L), real and imaginary parts in turns."""
    forward, _ = truncated_dft(x.shape[1], modes, x.device, x.dtype)
    return torch.bmm(forward.expand(len(x), -1, -1), x)


def restored(spectrum: Tensor, points: int, onto: Tensor | None = None) -> Tensor:
    """The points (R, n, L) of wave numbers (R, 2 modes, L), added to `onto` (R, n, L)."""
    _, inverse = truncated_dft(points, spectrum.shape[1] // 2, spectrum.device, spectrum.dtype)
    inverse = inverse.expand(len(spectrum), -1, -1)
    return torch.bmm(inverse, spectrum) if onto is None else torch.baddbmm(onto, inverse, spectrum)


def mixed_modes(spectrum: Tensor, weight: Tensor) -> Tensor:
    """Every wave number's channels (R, 2 modes, ..., C) times the complex matrix of the wave number.

    Shapes: weight (modes, C, 2, C), real and imaginary part.
    """
    modes, channels = weight.shape[:2]
    parts = spectrum.reshape(len(spectrum), modes, 2, -1, channels).permute(1, 0, 3, 2, 4)
    rows = parts.shape[1] * parts.shape[2]
    if rows > MANY:
        # One real product per mode, (R L, 2 C) @ (2 C, 2 C).
        real, imaginary = weight.unbind(2)
        matrix = torch.cat([weight.flatten(2), torch.cat([-imaginary, real], dim=2)], dim=1)
        products = torch.bmm(parts.reshape(modes, rows, 2 * channels), matrix)
    else:
        # (2 R L, C) @ (C, 2 C): the matrices as they are.
        products = torch.bmm(parts.reshape(modes, 2 * rows, channels), weight.flatten(2))
        (rr, ri), (ir, ii) = (part.unbind(2) for part in products.reshape(modes, rows, 2, 2, channels).unbind(2))
        products = torch.stack([rr - ii, ri + ir], dim=2)
    return products.reshape(parts.shape).permute(1, 0, 3, 2, 4).reshape(spectrum.shape)


def with_lowest(spectrum: Tensor, added: Tensor) -> Tensor:
    """A spectrum (R, 2 modes, L) with another (R, 2 k, L) of the lowest wave numbers added to it."""
    count = added.shape[1]
    low, high = spectrum.split([count, spectrum.shape[1] - count], dim=1)
    return torch.cat([low + added, high], dim=1)


def lowest(weight: Tensor, modes: int) -> Tensor:
    """Weights of the lowest wave numbers; of all, themselves: the gradient of a slice is one more pass."""
    return weight if len(weight) <= modes else weight[:modes]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve training too, wherever it was first asked for
def truncated_dft(points: int, modes: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Matrices of the real DFT with `modes` non-negative wave numbers and of its inverse, norm "forward".

    Real and imaginary parts in turns: (2 modes, n) @ x (n) -> (2 modes), (n, 2 modes) @ (2 modes) -> x.
    """
    angle = 2 * math.pi * torch.outer(torch.arange(modes), torch.arange(points)).double() / points
    transform = torch.stack([angle.cos(), -angle.sin()], dim=1).flatten(0, 1)
    # Every wave number stands for itself and its conjugate, except 0 and the Nyquist mode.
    weight = torch.full((modes,), 2.0, dtype=torch.float64)
    weight[0] = 1.0
    if 2 * (modes - 1) == points:
        weight[-1] = 1.0
    inverse = (transform * weight.repeat_interleave(2)[:, None]).T.contiguous()
    return (transform / points).to(device, dtype), inverse.to(device, dtype)


def pooled(features: Tensor, parts: int) -> Tensor:
    """Means (B, C, parts) of features (B, C, X...) over equal parts of the box; in 2-D sqrt(parts) a side."""
    if features.ndim == 3:
        return F.adaptive_avg_pool1d(features, parts)
    side = round(parts**0.5)
    return F.adaptive_avg_pool2d(features, (side, side)).flatten(2)
