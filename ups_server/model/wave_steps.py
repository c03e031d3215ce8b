"""The linear terms of an equation for one field on a periodic line, and its self-advection: where the operator starts.

``u_t = sum_j c_j d^j u / dx^j + f(x) + ...`` turns and damps every wave and feeds it:

    u_k(t + tau) = e^z u_k + tau phi(z) f_k,    z = tau sum_j c_j (i k)^j,    phi(z) = (e^z - 1) / z.

Waves that the linear terms alone would make grow by more than `MOST` are held there: what limits them is not linear.
Where u carries itself, ``u_t = ... + b u u_x``, steps of Lawson's method of fourth order (SIAM J. Numer. Anal. 4, 1967)
take b (u^2)_x / 2 along, its products free of aliases; so many of them that no wave turns by more than `TURN` in one.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MOST = 1.5
"""Of the logarithm of a growth."""
SMALL = 1e-3
"""Below it phi(z) is 1 + z / 2."""
TURN, STEPS = 1.0, 96
"""Of the shortest wave in a step of self-advection, in radians; and how many steps there are at most."""


@torch.no_grad()
def wave_steps(
    u: Tensor,
    time: Tensor,
    shares: Tensor,
    orders: Sequence[int],
    lengths: Tensor,
    source: Tensor | None = None,
    carrying: Tensor | None = None,
) -> Tensor:
    """Fields (B, X) after `time` (B,).

    Args:
        shares: (B, J) of the derivatives of these orders.
        lengths: (B,) of the box.
        source: (B, X), f.
        carrying: (B,), b.
    """
    points = u.shape[1]
    k = 2 * math.pi * torch.fft.rfftfreq(points, 1 / points, device=u.device) / lengths[:, None]
    rate = torch.zeros_like(torch.complex(k, k))
    for share, order in zip(shares.unbind(1), orders, strict=True):
        rate = rate + share[:, None] * (1j * k) ** order
    z = rate * time[:, None]
    z = torch.complex(z.real.clamp_max(MOST), z.imag)
    moved = torch.fft.rfft(u) * z.exp()
    fed = torch.zeros_like(moved) if source is None else time[:, None] * torch.fft.rfft(source)
    if source is not None:
        small = z.abs() < SMALL
        phi = torch.where(small, 1 + z / 2, (z.exp() - 1) / torch.where(small, torch.ones_like(z), z))
        moved = moved + phi * fed
    if carrying is not None and (rows := carrying.nonzero()[:, 0]).numel():
        slope = 0.5j * (carrying * time)[:, None] * k
        moved[rows] = self_advected(torch.fft.rfft(u)[rows], z[rows], fed[rows], slope[rows], points)
    after: Tensor = torch.fft.irfft(moved, n=points)
    return after


def self_advected(spectra: Tensor, z: Tensor, fed: Tensor, slope: Tensor, points: int) -> Tensor:
    """Spectra (B, K) a unit of time later, under ``v' = z v + fed + slope (u^2)``; the rest as in `wave_steps`."""
    kept = torch.arange(spectra.shape[1], device=spectra.device) <= points / 3
    largest = torch.fft.irfft(spectra, n=points).abs().amax(1)
    count = (2 * largest * (slope.abs() * kept).amax(1) / TURN).nan_to_num(1.0).ceil().clamp(1, STEPS)
    size = 1 / count[:, None]
    half = (z * size / 2).exp()

    def pushed(v: Tensor) -> Tensor:
        square = torch.fft.irfft(v * kept, n=points).square()
        change: Tensor = size * (fed + slope * kept * torch.fft.rfft(square))
        return change

    for done in range(int(count.max())):
        first = pushed(spectra)
        second = pushed(half * (spectra + first / 2))
        third = pushed(half * spectra + second / 2)
        fourth = pushed(half * (half * spectra + third))
        after = half * (half * (spectra + first / 6) + (second + third) / 3) + fourth / 6
        spectra = torch.where(count[:, None] > done, after, spectra)
    return spectra
