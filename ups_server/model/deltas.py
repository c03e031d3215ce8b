"""Weights of a family's own: what training on one family alone adds to the weights that all share, ``W_f = W + D_f``.

One operator for all families leaves each a little worse than it could be; how much differs. A family that gains gets
deviations of the operator beside the shared weights. All others, and families that the model does not know, have the
shared weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn

from ups_server.errors import UserError
from ups_server.model.operator import Operator

PREFIX = "own."
"""Names of stored tensors begin with it; the family, what is stored of the deviation, and the parameter follow."""
COARSE = 10_000
"""Parameters of so many numbers, by far the most weights, bear to be stored in eight bits. The small ones do not: in
diffusion-sorption the error of a rollout doubled. They get sixteen."""
LEAST_ROW = 64
UNSEEN = 2.0**-11
"""A row that deviates by less of its largest weight would not in half precision, as most weights are stored."""


@dataclass(frozen=True)
class Delta:
    """``D ~ scale levels`` of the rows (R, k) of a parameter that deviate (`row_length`).

    Attributes:
        rows: (m,) which.
        levels: (m, k) whole numbers of eight or sixteen bits; the largest of a row is the largest there is.
        scale: (m,), so that rounding leaves half of it at most.
    """

    rows: Tensor
    levels: Tensor
    scale: Tensor

    @classmethod
    def of(cls, shared: Tensor, trained: Tensor, levels: torch.dtype) -> Self:
        before = shared.reshape(-1, row_length(shared.shape))
        difference = trained.reshape(before.shape) - before
        rows = (difference.abs().amax(1) > UNSEEN * before.abs().amax(1)).nonzero()[:, 0]
        return cls(rows.int(), *in_levels(difference[rows], levels))

    def added_to(self, shared: Tensor) -> Tensor:
        rows = shared.detach().clone().reshape(-1, row_length(shared.shape))
        rows[self.rows.to(rows.device)] += (self.levels * self.scale[:, None]).to(rows)
        return rows.reshape(shared.shape)

    def fits(self, shared: Tensor) -> bool:
        """Is it one of a parameter of this shape?"""
        length = row_length(shared.shape)
        inside = not len(self.rows) or (self.rows.min() >= 0 and self.rows.max() < shared.numel() // length)
        shapes = self.levels.shape == (*self.rows.shape, length) and self.scale.shape == self.rows.shape
        return shapes and self.levels.dtype in (torch.int8, torch.int16) and bool(inside)


Deltas = dict[str, Delta]
"""By name of the parameter; of those that deviate."""


def row_length(shape: torch.Size) -> int:
    """As many trailing axes as it takes to `LEAST_ROW` numbers: a wave number and an input, an output channel."""
    length = 1
    for size in reversed(shape):
        if length >= LEAST_ROW:
            break
        length *= size
    return length


@torch.no_grad()
def deltas_between(shared: nn.Module, trained: nn.Module) -> Deltas:
    """How the parameters of `trained` deviate from those of `shared`, of the same architecture."""
    before, found = dict(shared.named_parameters()), dict[str, Delta]()
    for name, parameter in trained.named_parameters():
        if not torch.equal(before[name], parameter):
            levels = torch.int8 if parameter.numel() >= COARSE else torch.int16
            found[name] = Delta.of(before[name].cpu(), parameter.cpu(), levels)
    return {name: delta for name, delta in found.items() if len(delta.rows)}


def with_deltas(shared: Operator, deltas: Deltas) -> Operator:
    """The operator of a family. It shares all other weights with `shared`, which must not be changed any more."""
    operator = shared.sharing_weights()
    for name, delta in deltas.items():
        module, _, last = name.rpartition(".")
        before = shared.get_parameter(name)
        setattr(operator.get_submodule(module), last, nn.Parameter(delta.added_to(before), before.requires_grad))
    return operator


def as_tensors(deltas: Mapping[str, Deltas]) -> dict[str, Tensor]:
    """Those of several families as they are stored in a model's file of weights."""
    return {
        f"{PREFIX}{family}.{part.name}.{name}": getattr(delta, part.name).contiguous()
        for family, weights in deltas.items()
        for name, delta in weights.items()
        for part in fields(Delta)
    }


def from_tensors(stored: Mapping[str, Tensor], operator: Operator) -> dict[str, Deltas]:
    """The other way round, for an operator that has its shared weights.

    Raises:
        UserError: ``not_a_model`` where they do not fit the operator.
    """
    parts = dict[tuple[str, str], dict[str, Tensor]]()
    for key, value in stored.items():
        family, _, rest = key.removeprefix(PREFIX).partition(".")
        part, _, name = rest.partition(".")
        parts.setdefault((family, name), {})[part] = value
    shared = dict(operator.named_parameters())
    deltas = dict[str, Deltas]()
    for (family, name), found in parts.items():
        whole = found.keys() == {part.name for part in fields(Delta)}
        if not whole or family not in operator.config.families or name not in shared:
            raise UserError("not_a_model", "weights of a family's own do not match the config", got=f"{family}.{name}")
        delta = Delta(**found)
        if not delta.fits(shared[name]):
            raise UserError("not_a_model", "weights of a family's own do not fit the model", got=f"{family}.{name}")
        deltas.setdefault(family, {})[name] = delta
    return deltas


def in_levels(rows: Tensor, levels: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows (R, k) as ``levels * scale[:, None]``: (R, k) of the dtype `levels`, and (R,).

    The largest number of a row is the largest there is, so that rounding leaves half of the scale at most.
    """
    scale = rows.abs().amax(1) / torch.iinfo(levels).max
    whole = rows / torch.where(scale > 0, scale, 1.0)[:, None]
    return whole.round().to(levels), scale
