"""The unified superspace: fields of any family in N slots, z-scored, masked, with coordinates (thesis 6.1.2)."""

import torch
from torch import Tensor

from ups_server.model.conditioning import Conditions
from ups_server.model.config import KnownFamily, SuperspaceConfig, UPSConfig
from ups_server.model.context import Context


def check_card(config: UPSConfig, card: KnownFamily) -> None:
    """Raises UserError ``superspace_too_small`` where a family does not fit."""
    config.check_place(card.name, card.ndim, card.slots, card.static_fields)


def lift(fields: Tensor, card: KnownFamily, given: Conditions) -> Tensor:
    """Physical fields (B, X..., C) -> normalised superspace (B, N, X...), zero in the slots the family lacks."""
    spread = (..., *(None,) * card.ndim)
    out = fields.new_zeros(fields.shape[0], given.mask.shape[1], *fields.shape[1:-1])
    out[:, list(card.slots)] = fields.movedim(-1, 1)
    return (out - given.mean[spread]) / given.std[spread]


def lower(u: Tensor, card: KnownFamily, given: Conditions) -> Tensor:
    """Normalised superspace (B, N, X...) -> physical fields (B, X..., C)."""
    spread = (..., *(None,) * card.ndim)
    physical = u * given.std[spread] + given.mean[spread]
    return physical[:, list(card.slots)].movedim(1, -1)


def given_channels(u: Tensor, context: Context, space: SuperspaceConfig) -> list[Tensor]:
    """What every operator sees at the points: the states u (B, N, X...), static fields, coordinates; alike in shape."""
    points = tuple(u.shape[2:])
    static = u.new_zeros(u.shape[0], space.static_slots, *points)
    if context.static is not None:
        static[:, : context.static.shape[1]] = context.static
    place = coordinates(points, context.periodic, context.offset, space.max_dimensions, u)
    return [u, static, place.expand(u.shape[0], *place.shape)]


def coordinates(
    points: tuple[int, ...], periodic: tuple[bool, ...], offset: tuple[float, ...], max_dimensions: int, like: Tensor
) -> Tensor:
    """Coordinate channels (d_max, X...) in [-1, 1] of points that lie `offset` spacings into their cells.

    Zero for a missing axis and for a periodic one: there no point is special, and without the coordinate the operator
    is equivariant under shifts, as the equations are.
    """
    channels = like.new_zeros(max_dimensions, *points)
    for axis, (n, wraps) in enumerate(zip(points, periodic, strict=True)):
        if not wraps:
            x = (torch.arange(n, device=like.device, dtype=like.dtype) + offset[axis]) / n * 2 - 1
            channels[axis] = x.reshape([-1 if a == axis else 1 for a in range(len(points))])
    return channels


def nrmse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Training loss ``||u - v|| / ||u||`` per sample and slot, averaged over the slots present, then over samples:
    thesis Eq. 6.3 field by field.

    In normalised space and per field, so that a large field does not swallow a small one. Norms below 0.1 (a field
    at its mean) count as 0.1.

    Shapes: prediction, target (B, N, X...); mask (B, N).
    """
    axes = tuple(range(2, target.ndim))
    error = (prediction - target).square().mean(axes)
    size = target.square().mean(axes).clamp_min(0.01)
    # The small constant keeps the root differentiable at a perfect prediction.
    ratio = (error / size + 1e-12).sqrt()
    return ((ratio * mask).sum(1) / mask.sum(1)).mean()


def state_nrmse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """``||u - v||_2 / ||u||_2``, one norm over all entries that the mask leaves, averaged over samples: thesis Eq. 6.3.

    The error of a state that is zero is not divided.

    Shapes: prediction, target (B, N, X...); mask (B, N).
    """
    left = mask[(..., *(None,) * (target.ndim - 2))]
    error, size = (
        torch.linalg.vector_norm((values * left).float().flatten(1), dim=1) for values in (prediction - target, target)
    )
    loss: Tensor = (error / torch.where(size > 0, size, 1.0)).mean()
    return loss
