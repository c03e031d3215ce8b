"""Numbers stored as whole numbers of few bits, with a scale a row."""

import torch
from torch import Tensor


def in_levels(rows: Tensor, levels: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows (R, k) as ``levels * scale[:, None]``: (R, k) of the dtype `levels`, and (R,).

    The largest number of a row is the largest there is, so that rounding leaves half of the scale at most.
    """
    scale = rows.abs().amax(1) / torch.iinfo(levels).max
    whole = rows / torch.where(scale > 0, scale, 1.0)[:, None]
    return whole.round().to(levels), scale
