"""The linear terms of an equation for one field, exact in a periodic box: what the operator starts from.

``u_t = sum_j c_j d^j u / dx^j + f(x) + ...`` turns and damps every wave and feeds it:

    u_k(t + tau) = e^z u_k + tau phi(z) f_k,    z = tau sum_j c_j (i k)^j,    phi(z) = (e^z - 1) / z.

Waves that the linear terms alone would make grow by more than `MOST` are held there: what limits them is not linear.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MOST = 1.5
"""Of the logarithm of a growth."""
SMALL = 1e-3
"""Below it phi(z) is 1 + z / 2."""


@torch.no_grad()
def wave_steps(
    u: Tensor, time: Tensor, shares: Tensor, orders: Sequence[int], lengths: Tensor, source: Tensor | None = None
) -> Tensor:
    """Fields (B, X) after `time` (B,).

    Args:
        shares: (B, J) of the derivatives of these orders.
        lengths: (B,) of the box.
        source: (B, X), f.
    """
    points = u.shape[1]
    k = 2 * math.pi * torch.fft.rfftfreq(points, 1 / points, device=u.device) / lengths[:, None]
    rate = torch.zeros_like(torch.complex(k, k))
    for share, order in zip(shares.unbind(1), orders, strict=True):
        rate = rate + share[:, None] * (1j * k) ** order
    z = rate * time[:, None]
    z = torch.complex(z.real.clamp_max(MOST), z.imag)
    moved = torch.fft.rfft(u) * z.exp()
    if source is not None:
        small = z.abs() < SMALL
        phi = torch.where(small, 1 + z / 2, (z.exp() - 1) / torch.where(small, torch.ones_like(z), z))
        moved = moved + time[:, None] * phi * torch.fft.rfft(source)
    after: Tensor = torch.fft.irfft(moved, n=points)
    return after
