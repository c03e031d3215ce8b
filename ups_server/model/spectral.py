"""Fourier layers: a factorised spectral convolution and an exactly integrated linear propagator.

Both act along one axis at a time, so that a 1-D state stays a strip of n points: on a broadcast of it to n x n the
second axis carries only its zero mode, and the result is the same.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn


class SpectralConv(nn.Module):
    """Spectral convolution: along each axis with many modes, and jointly over both axes with few.

    ``y = sum_a F_a^-1 [ R_a(k_a) F_a x ] + F^-1 [ R(k_x, k_y) F x ]``, the last sum over |k_x|, |k_y| < `joint_modes`.
    In one dimension this is the layer of the FNO (Li et al. 2021) with `n_modes` non-negative wave numbers; the sum
    over axes is its factorised form (Tran et al. 2023), which is cheap and reaches fine scales; the joint part is the
    full two-dimensional FNO layer on the large scales, where sound waves and pressure projections couple the axes.
    Weights belong to wave numbers of the box, not to grid points: any resolution works, modes beyond the grid's are
    left out. Agrees with neuraloperator's `SpectralConv`; it is ours because its weights are real, which the
    optimiser's fused update needs: `benchmarks/spectral_layer.py` compares whole training steps.

    Shapes:
        x: (B, C, X...) with 1 … `ndim` axes; missing axes contribute their zero mode.
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
        present = x.ndim - 2
        limits = limits or (self.n_modes,) * present
        out = self._along(x, 0, limits)
        for axis in range(1, len(self.weights)):
            if axis < present:
                out = out + self._along(x, axis, limits)
            else:
                out = out + torch.einsum("bi...,io->bo...", x, self.weights[axis][0, :, 0])
        return out if self.joint is None else out + self.joint(x)

    def _along(self, x: Tensor, axis: int, limits: tuple[int, ...]) -> Tensor:
        weight = self.weights[axis]
        x = x.movedim(2 + axis, -1)
        points, channels = x.shape[-1], x.shape[1]
        modes = min(self.n_modes, points // 2 + 1, limits[axis])
        forward, inverse = truncated_dft(points, modes, x.device, x.dtype)
        spectrum = product(x, forward).unflatten(-1, (2, modes))
        # One product per mode, both parts of all rows at once: (2 B Y, C) @ (C, 2 C).
        rows = spectrum.movedim((-1, -2), (0, 1)).movedim(3, -1)
        products = batched_product(rows.reshape(modes, -1, channels), weight[:modes].flatten(2))
        real, imaginary = products.reshape(*rows.shape[:-1], 2, channels).unbind(1)
        mixed = torch.stack([real[..., 0, :] - imaginary[..., 1, :], real[..., 1, :] + imaginary[..., 0, :]], dim=1)
        return product(mixed.movedim(-1, 3).movedim((0, 1), (-1, -2)).flatten(-2), inverse).movedim(-1, 2 + axis)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """``x @ matrix`` (..., n) @ (n, m) as one product of two matrices, whatever the strides of x."""
    out: Tensor = (x.reshape(-1, matrix.shape[0]) @ matrix).unflatten(0, x.shape[:-1])
    return out


def batched_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of many small matrices. Without strides of one, which a single state leads to, each would go alone."""
    return torch.bmm(a.contiguous(), b)


class JointSpectralConv(nn.Module):
    """The FNO layer over two axes at once: a matrix for every wave vector with |k_x|, |k_y| < `modes`.

    Half of the k_x suffice, the state being real. A strip (one axis) has k_y = 0 only.

    Shapes:
        x: (B, C, X) or (B, C, X, Y).
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

    def forward(self, x: Tensor) -> Tensor:
        strip = x.ndim == 3
        if strip:
            x = x[..., None]
        rows, channels, points_x, points_y = x.shape
        modes_x, half_y = min(self.modes, points_x // 2 + 1), min(self.modes, (points_y + 1) // 2)
        modes_y = 2 * half_y - 1
        forward, inverse = truncated_dft(points_x, modes_x, x.device, x.dtype)
        along_y, back_y = two_sided_dft(points_y, half_y, x.device, x.dtype)
        # (B, C, part of y, k_y, part of x, k_x): cosine and minus sine of both axes.
        parts = product(product(x, along_y).movedim(2, -1), forward)
        parts = parts.unflatten(-1, (2, modes_x)).unflatten(2, (2, modes_y))
        real = parts[:, :, 0, :, 0] - parts[:, :, 1, :, 1]
        imaginary = parts[:, :, 0, :, 1] + parts[:, :, 1, :, 0]
        # One product per wave vector, both parts of all rows at once: (2 B, C) @ (C, 2 C).
        flat = torch.stack([real, imaginary]).permute(4, 3, 0, 1, 2).reshape(modes_x * modes_y, 2 * rows, channels)
        first = self.modes - half_y
        weight = self.weight[:modes_x, first : first + modes_y].reshape(modes_x * modes_y, channels, 2 * channels)
        products = batched_product(flat, weight).reshape(modes_x, modes_y, 2, rows, 2, channels)
        real = products[:, :, 0, :, 0] - products[:, :, 1, :, 1]
        imaginary = products[:, :, 1, :, 0] + products[:, :, 0, :, 1]
        waves = torch.stack([real, imaginary]).permute(3, 4, 1, 0, 2).flatten(-2)
        over_y = product(waves, back_y).unflatten(-1, (2, points_y))
        out = product(over_y.permute(0, 1, 4, 3, 2).flatten(-2), inverse).movedim(-1, 2)
        return out[..., 0] if strip else out


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve training too, wherever it was first asked for
def truncated_dft(points: int, modes: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Matrices of the real DFT with `modes` non-negative wave numbers and of its inverse, norm "forward".

    First all real, then all imaginary parts: x (n) @ (n, 2 modes) -> (2 modes), (2 modes) @ (2 modes, n) -> x.
    """
    angle = 2 * math.pi * torch.outer(torch.arange(points), torch.arange(modes)).double() / points
    transform = torch.cat([angle.cos(), -angle.sin()], dim=1)
    # Every wave number stands for itself and its conjugate, except 0 and the Nyquist mode.
    weight = torch.full((modes,), 2.0, dtype=torch.float64)
    weight[0] = 1.0
    if 2 * (modes - 1) == points:
        weight[-1] = 1.0
    inverse = (transform * weight.repeat(2)).T.contiguous()
    return (transform / points).to(device, dtype), inverse.to(device, dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def two_sided_dft(points: int, half: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Matrices of the DFT with the wave numbers -half + 1 … half - 1, norm "forward", and of its inverse.

    Real parts first: real x (n) @ (n, 2 K) -> complex (2 K), complex (2 K) @ (2 K, 2 n) -> complex (2 n).
    """
    angle = 2 * math.pi * torch.outer(torch.arange(points), torch.arange(1 - half, half)).double() / points
    cos, sin = angle.cos(), angle.sin()
    back = torch.cat([torch.cat([cos, sin]), torch.cat([-sin, cos])], dim=1).T.contiguous()
    return (torch.cat([cos, -sin], dim=1) / points).to(device, dtype), back.to(device, dtype)


def propagate(u: Tensor, velocity: Tensor, diffusivity: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """Exact solution operator of ``u_t = -v . grad u + D : grad grad u`` for a unit of time, on the unit box.

    Multiplies the Fourier coefficient of wave number k along axis a by ``exp(-i k v_a - k^2 D_a)``. Axes that are not
    periodic are left alone.

    Shapes:
        u: (B, N, X...); velocity, diffusivity: (B, N, d) in box lengths (squared) per unit of time, D >= 0.
    """
    for axis, wraps in enumerate(periodic):
        if not wraps:
            continue
        moved = u.movedim(2 + axis, -1)
        points = moved.shape[-1]
        k = 2 * math.pi * torch.arange(points // 2 + 1, device=u.device, dtype=u.dtype)
        shape = (*u.shape[:2], *(1,) * (moved.ndim - 3), 1)
        v, d = velocity[..., axis].reshape(shape), diffusivity[..., axis].reshape(shape)
        gain = torch.polar(torch.exp(-k.square() * d), -k * v)
        u = torch.fft.irfft(torch.fft.rfft(moved) * gain, n=points).movedim(-1, 2 + axis)
    return u
