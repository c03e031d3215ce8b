"""Tokens of a text in the place of tokens of a state: how many, which, and with which gradient.

Source: Cai et al., "Enhancing Cross-Modal Fine-Tuning with Gradually Intermediate Modality Generation", section 3.3,
and the variants of its ablation: Table 4 (mixup, CutMix, schedules), Table 5 (random choice), Table 6 (gates). Subsets
are drawn by Gumbel top-k with successive softmaxes (Xie and Ermon 2019). The paper prints no formula for the schedules
but the linear one, and no widths of the gates; those here are ours.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 1.0
PIECES = 4
"""Parts of equal length of the piecewise schedule."""
DECAY = 3.0
"""Of the exponential schedule: how often e it has fallen by at the end, up to the shift that takes it to zero."""
DROPOUT = 0.1
CONSTANT = 0.5
"""Share of tokens of the schedule that stays."""


def _linear(done: float) -> float:
    return 1 - done


def _piecewise(done: float) -> float:
    return 1 - math.floor(PIECES * done + 1e-9) / PIECES


def _exponential(done: float) -> float:
    end = math.exp(-DECAY)
    return (math.exp(-DECAY * done) - end) / (1 - end)


def _constant(done: float) -> float:
    return CONSTANT


def _random(done: float) -> float:
    return float(torch.rand(()))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": _linear,
    "piecewise": _piecewise,
    "exponential": _exponential,
    "constant": _constant,
    "random": _random,
}
"""The share of tokens that is replaced where the fraction `done` of tuning is behind. The last two are not gradual: the
caption of Table 4 has a constant k, section 4.2 a random one.
"""


def replaced_tokens(tokens: int, done: float, schedule: str = "linear") -> int:
    """k, the tokens that are replaced: ``floor(N (1 - done))``, from all to none (Algorithm 1, line 1), or by another
    schedule.
    """
    return max(0, math.floor(tokens * SCHEDULES[schedule](done) + 1e-9))


def new_gate(kind: str, width: int) -> nn.Module:
    """What scores tokens (B, N, E) -> (B, N, 1), before the sigmoid: a linear layer, or one with a hidden layer as wide
    as a token, with dropout or without (Table 6).
    """
    if kind == "linear":
        return nn.Linear(width, 1)
    hidden: list[nn.Module] = [nn.Linear(width, width), nn.ReLU()]
    if kind == "dropout":
        hidden.append(nn.Dropout(DROPOUT))
    return nn.Sequential(*hidden, nn.Linear(width, 1))


GATES = ("linear", "mlp", "dropout")


def gumbel(like: Tensor) -> Tensor:
    """Standard Gumbel noise."""
    return -torch.empty_like(like).exponential_().clamp_min(torch.finfo(like.dtype).tiny).log()


def top_k(keys: Tensor, k: int, temperature: float = TEMPERATURE) -> Tensor:
    """(B, N) ones at the k largest keys of each row, with the gradient of a relaxed choice (straight through).

    The relaxed choice is the sum of k softmaxes, each without what the ones before it took. `keys` are logarithms of
    weights, with Gumbel noise where the choice is to be drawn.
    """
    hard = torch.zeros_like(keys).scatter(1, keys.topk(k, dim=1).indices, 1.0)
    relaxed, left, taken = torch.zeros_like(keys), keys, torch.zeros_like(keys)
    for _ in range(k):
        left = left + (1 - taken).clamp_min(torch.finfo(keys.dtype).tiny).log()
        taken = (left / temperature).softmax(1)
        relaxed = relaxed + taken
    return hard + relaxed - relaxed.detach()


def replace_tokens(target: Tensor, source: Tensor, keep: Tensor, take: Tensor) -> Tensor:
    """The kept target tokens, and those taken from the source in the places that are free, in order, one by one.

    Shapes: target, source (B, N, E); keep, take (B, N), zeros and ones, as many taken as not kept.
    """
    k = int(take[0].sum().round())
    free = (keep < 0.5).float().topk(k, dim=1).indices.sort(1).values
    chosen = (take > 0.5).float().topk(k, dim=1).indices.sort(1).values
    width = (-1, -1, target.shape[-1])
    moved = (source * take[..., None]).gather(1, chosen[..., None].expand(width))
    # Added and not set: a free place keeps the gradient of its gate, the price of having lost that token.
    return (target * keep[..., None]).scatter_add(1, free[..., None].expand(width), moved)


def by_gate(target: Tensor, source: Tensor, k: int, gate: nn.Module) -> Tensor:
    """The k target tokens that the gate scores lowest give way to the k source tokens that it scores highest."""

    def keys(tokens: Tensor) -> Tensor:
        scores = F.logsigmoid(gate(tokens).squeeze(-1).float())
        return scores + gumbel(scores)

    keep = top_k(keys(target), target.shape[1] - k)
    take = top_k(keys(source), k)
    return replace_tokens(target, source, keep.to(target.dtype), take.to(target.dtype))


def at_random(target: Tensor, source: Tensor, k: int) -> Tensor:
    """k target tokens give way to k source tokens, both drawn with equal chances (section 4.3)."""
    like = target.new_zeros(target.shape[:2])

    def drawn(count: int) -> Tensor:
        return torch.zeros_like(like).scatter(1, torch.rand_like(like).topk(count, dim=1).indices, 1.0)

    return replace_tokens(target, source, drawn(target.shape[1] - k), drawn(k))


def mixup(target: Tensor, source: Tensor, k: int) -> Tensor:
    """``(1 - lambda) target + lambda source``, lambda = k / N (Zhang et al. 2017)."""
    return torch.lerp(target, source, k / target.shape[1])


def cutmix(target: Tensor, source: Tensor, k: int) -> Tensor:
    """k tokens in succession are those of the source in the same places, from a place drawn for each sequence on (Yun
    et al. 2019). In two dimensions these are tokens of successive rows of patches.
    """
    first = torch.randint(target.shape[1] - k + 1, (len(target), 1), device=target.device)
    place = torch.arange(target.shape[1], device=target.device)
    return torch.where(((place >= first) & (place < first + k))[..., None], source, target)


UNGATED: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {"random": at_random, "mixup": mixup, "cutmix": cutmix}
"""Ways to mix without a gate."""
