"""The linear terms of an equation for one field, exact in a periodic box: what the operator starts from.

``u_t = sum_j c_j d^j u / dx^j + ...`` turns and damps every wave, ``u_k(t + tau) = exp(tau sum_j c_j (i k)^j) u_k``.
Waves that the linear terms alone would make grow keep their size: what limits them is not linear.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def wave_steps(u: Tensor, time: Tensor, shares: Tensor, orders: Sequence[int], lengths: Tensor) -> Tensor:
    """Fields (B, X) after `time` (B,).

    Args: shares: (B, J) of the derivatives of these orders. lengths: (B,) of the box.
    """
    points = u.shape[1]
    k = 2 * math.pi * torch.fft.rfftfreq(points, 1 / points, device=u.device) / lengths[:, None]
    rate = torch.zeros_like(k, dtype=torch.complex64)
    for share, order in zip(shares.unbind(1), orders, strict=True):
        rate = rate + share[:, None] * (1j * k) ** order
    rate = torch.complex(rate.real.clamp_max(0.0), rate.imag)
    moved: Tensor = torch.fft.irfft(torch.fft.rfft(u) * (rate * time[:, None]).exp(), n=points)
    return moved
