"""Transport: exactly, where velocities are constant over the box, and else along characteristics.

With constant coefficients the solution operator of transport and diffusion is a factor of every wave number. A flow
that varies carries a field to a point from where it came: ``u_t + w . grad u = s`` is ``u(t + dt, x) = u(t, x + d(x)) +
...`` with the displacement d back along the characteristic. A carried field keeps its fine structure whatever the
distance, which a sum of few Fourier modes cannot do. This is the semi-Lagrangian method (Staniforth & Cote, Mon.
Weather Rev. 119, 1991).
"""

import math

import torch
from torch import Tensor

TAPS = (-1, 0, 1, 2)


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


def departure(displacement: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """Displacements back along the characteristics by the midpoint rule, ``d(x) = d_0(x + d_0(x) / 2)``.

    Shapes: displacement d_0 (B, d, X...) in box lengths, minus the local velocity times dt; result alike.
    """
    return carried(displacement, displacement / 2, periodic)


def carried(u: Tensor, displacement: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """``u(x + d(x))`` by cubic Lagrange interpolation along each axis, exact for polynomials of degree three.

    Beyond the end of an axis that is not periodic the field goes on as its last value.

    Shapes:
        u: (B, N, X...); displacement: (B, d, X...) in box lengths, the same for all N fields.
    """
    points = tuple(u.shape[2:])
    batch = len(u)
    rows = torch.arange(batch, device=u.device).reshape(-1, *(1,) * (len(points) + 1))
    weights = u.new_ones(batch, *points, 1)
    for axis, (n, wraps) in enumerate(zip(points, periodic, strict=True)):
        start = torch.arange(n, device=u.device, dtype=u.dtype)
        place = displacement[:, axis] * n + start.reshape([-1 if a == axis else 1 for a in range(len(points))])
        if not wraps:
            place = place.clamp(0, n - 1)
        cell = place.detach().floor()
        taps = torch.stack([cell.long() + tap for tap in TAPS], dim=-1)
        taps = taps.remainder(n) if wraps else taps.clamp(0, n - 1)
        # Row numbers of the taps of all axes so far times those of this one.
        rows = (rows[..., None] * n + taps[..., None, :]).flatten(-2)
        weights = (weights[..., None] * _lagrange(place - cell)[..., None, :]).flatten(-2)
    table = u.movedim(1, -1).reshape(-1, u.shape[1])
    values = table.index_select(0, rows.flatten()).reshape(-1, rows.shape[-1], u.shape[1])
    mixed = torch.bmm(weights.reshape(-1, 1, rows.shape[-1]), values)
    return mixed.reshape(batch, *points, u.shape[1]).movedim(-1, 1)


def _lagrange(s: Tensor) -> Tensor:
    """Weights (..., 4) of the points -1, 0, 1, 2 at 0 <= s < 1."""
    before, after, far = s + 1, 1 - s, 2 - s
    weights = (-s * after * far / 6, before * after * far / 2, before * s * far / 2, -before * s * after / 6)
    return torch.stack(weights, dim=-1)
