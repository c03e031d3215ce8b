"""Gradual patch replacement: text tokens in the place of state tokens, fewer from step to step (PaRe).

Source: Cai et al., "Enhancing Cross-Modal Fine-Tuning with Gradually Intermediate Modality Generation", section 3,
Eqs. 1 and 2, Algorithm 1. The released code replaces the highest-scored target tokens later on and stops the gate's
gradient; this follows the paper. How tokens are mixed is `align.mixing`.
"""

from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_server.align.base import Alignment, NormalisedBatch, Target
from ups_server.align.labels import passages
from ups_server.align.mixing import UNGATED, by_gate, new_gate, replaced_tokens
from ups_server.model.operator import UPSModel

GATE_SEED = 0


@final
class Mix:
    """Replaces k tokens of every sequence (B, N, E) by tokens of passages drawn at random, or mixes so many otherwise.

    Args:
        gate: scores tokens; None where they are mixed in a way that needs none.
        how: of `UNGATED`, where there is no gate.

    Attributes:
        labels: (B,) subjects of the passages of the latest call.
    """

    def __init__(self, gate: nn.Module | None, texts: Tensor, subjects: Tensor, k: int, how: str = "random") -> None:
        self._gate, self._texts, self._subjects, self._k, self._how = gate, texts, subjects, k, how
        self.labels = subjects[:0]

    def __call__(self, tokens: Tensor) -> Tensor:
        drawn = torch.randint(len(self._texts), (len(tokens),), device=tokens.device)
        self.labels = self._subjects[drawn]
        source = self._texts[drawn].to(tokens.dtype)
        if self._k == 0:
            return tokens
        if self._gate is None:
            return UNGATED[self._how](tokens, source, self._k)
        return by_gate(tokens, source, self._k, self._gate)


@final
class PatchReplacement(Alignment):
    """``L_tgt(x) + (1 - lambda) L_tgt(mix) + lambda L_src(mix)``, lambda = k / N, without a stage 1.

    The first part is the loop's own loss, the rest is `mixed_loss` (Eq. 1). Metadata tokens stand outside and are never
    replaced. Gate (by default linear and sigmoid) and source head (linear, on what the body makes of the mix) are
    trained along.

    Args:
        mix: replacement of tokens that a gate chooses, or one of `UNGATED`, with the same share lambda.
        schedule: of k. gate: which one chooses. (Tables 4 to 6.)
    """

    mixes = True

    def __init__(self, mix: str = "replacement", schedule: str = "linear", gate: str = "linear") -> None:
        self._how, self._schedule, self._kind = mix, schedule, gate
        self._gate: nn.Module | None = None
        self._head: nn.Linear | None = None
        self._texts = torch.empty(0)
        self._subjects = torch.empty(0)

    def prepare(self, model: UPSModel, target: Target) -> None:
        self._texts, self._subjects = passages(model, target.text, model.config.state_tokens)
        device, body = self._texts.device, model.body
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(GATE_SEED)
            if self._how not in UNGATED:
                self._gate = new_gate(self._kind, body.word_size).to(device)
            self._head = nn.Linear(body.size, int(self._subjects.max()) + 1).to(device)

    def mixed_loss(self, model: UPSModel, batch: NormalisedBatch, done: float) -> Tensor:
        if self._head is None:
            raise RuntimeError("prepare() comes before mixed_loss()")
        count = model.config.state_tokens
        k = replaced_tokens(count, done, self._schedule)
        mix = Mix(self._gate, self._texts, self._subjects, k, self._how)
        step, features = model.mixed_step(batch.frames[:, 0], batch.context, batch.conditions, batch.windows, mix)
        mask = batch.conditions.mask.repeat_interleave(batch.windows, 0)
        on_target = model.task_loss(step, batch.frames[:, 1], mask)
        on_source = F.cross_entropy(self._head(features).float(), mix.labels)
        share = k / count
        return (1 - share) * on_target + share * on_source

    def parameters(self) -> Mapping[str, nn.Parameter]:
        layers = {"gate": self._gate, "head": self._head}
        return {
            f"{part}.{name}": value
            for part, layer in layers.items()
            if layer is not None
            for name, value in layer.named_parameters()
        }

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.parameters().items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, value in self.parameters().items():
            value.copy_(state[name])
