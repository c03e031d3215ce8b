"""Gradual patch replacement: text tokens in the place of state tokens, fewer from step to step (PaRe).

Source: Cai et al., "Enhancing Cross-Modal Fine-Tuning with Gradually Intermediate Modality Generation", section 3,
Eqs. 1 and 2, Algorithm 1. The released code replaces the highest-scored target tokens later on and stops the gate's
gradient; this follows the paper. Subsets are drawn by Gumbel top-k with successive softmaxes (Xie and Ermon 2019).
"""

import math
from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_server.align.base import Alignment, NormalisedBatch, Target
from ups_server.align.labels import passages
from ups_server.model.operator import UPSModel

GATE_SEED = 0
TEMPERATURE = 1.0


def replaced_tokens(tokens: int, done: float) -> int:
    """k, the tokens that are replaced: ``floor(N (1 - done))``, from all to none (Algorithm 1, line 1)."""
    return max(0, math.floor(tokens * (1 - done) + 1e-9))


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


@final
class Mix:
    """Replaces k tokens of every sequence (B, N, E) by tokens of passages drawn at random.

    Attributes:
        labels: (B,) subjects of the passages of the latest call.
    """

    def __init__(self, gate: nn.Linear, texts: Tensor, subjects: Tensor, k: int) -> None:
        self._gate, self._texts, self._subjects, self._k = gate, texts, subjects, k
        self.labels = subjects[:0]

    def __call__(self, tokens: Tensor) -> Tensor:
        drawn = torch.randint(len(self._texts), (len(tokens),), device=tokens.device)
        self.labels = self._subjects[drawn]
        source = self._texts[drawn].to(tokens.dtype)
        if self._k == 0:
            return tokens
        keep = top_k(self._keys(tokens), tokens.shape[1] - self._k)
        take = top_k(self._keys(source), self._k)
        return replace_tokens(tokens, source, keep.to(tokens.dtype), take.to(tokens.dtype))

    def _keys(self, tokens: Tensor) -> Tensor:
        scores = F.logsigmoid(self._gate(tokens).squeeze(-1).float())
        return scores + gumbel(scores)


@final
class PatchReplacement(Alignment):
    """``L_tgt(x) + (1 - lambda) L_tgt(mix) + lambda L_src(mix)``, lambda = k / N, without a stage 1.

    The first part is the loop's own loss, the rest is `mixed_loss` (Eq. 1). Metadata tokens stand outside and are never
    replaced. Gate (linear and sigmoid) and source head (linear, on what the body makes of the mix) are trained along.
    """

    mixes = True

    def __init__(self) -> None:
        self._gate: nn.Linear | None = None
        self._head: nn.Linear | None = None
        self._texts = torch.empty(0)
        self._subjects = torch.empty(0)

    def prepare(self, model: UPSModel, target: Target) -> None:
        self._texts, self._subjects = passages(model, target.text, model.config.state_tokens)
        device, body = self._texts.device, model.body
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(GATE_SEED)
            self._gate = nn.Linear(body.word_size, 1).to(device)
            self._head = nn.Linear(body.size, int(self._subjects.max()) + 1).to(device)

    def mixed_loss(self, model: UPSModel, batch: NormalisedBatch, done: float) -> Tensor:
        if self._gate is None or self._head is None:
            raise RuntimeError("prepare() comes before mixed_loss()")
        count = model.config.state_tokens
        k = replaced_tokens(count, done)
        mix = Mix(self._gate, self._texts, self._subjects, k)
        step, features = model.mixed_step(batch.frames[:, 0], batch.context, batch.conditions, batch.windows, mix)
        mask = batch.conditions.mask.repeat_interleave(batch.windows, 0)
        on_target = model.task_loss(step, batch.frames[:, 1], mask)
        on_source = F.cross_entropy(self._head(features).float(), mix.labels)
        share = k / count
        return (1 - share) * on_target + share * on_source

    def parameters(self) -> Mapping[str, nn.Parameter]:
        if self._gate is None or self._head is None:
            return {}
        layers = {"gate": self._gate, "head": self._head}
        return {f"{part}.{name}": value for part, layer in layers.items() for name, value in layer.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.parameters().items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, value in self.parameters().items():
            value.copy_(state[name])
