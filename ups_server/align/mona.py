"""Modality knowledge alignment: an embedder is trained for what tuning with it leaves of the language model's knowledge
(MoNA).

    min_phi  L_task(phi, theta) + lambda L_text(theta'),    theta' = theta - alpha grad_theta L_task(phi, theta)

phi is the embedder, theta the language model. The inner problem is one step of tuning; the outer loss is small where
the language model still tells sentences of different subjects apart after it: alignment and uniformity of features
(Wang and Isola 2020, sections 4.1.1 and 4.1.2). By the chain rule

    d L_text / d phi = -alpha (d^2 L_task / d phi d theta) v,    v = grad L_text(theta')

and the product is a central difference of first derivatives, ``[grad_phi L_task(phi, theta + eps v) - grad_phi
L_task(phi, theta - eps v)] / (2 eps)`` with ``eps = 0.01 / |v|`` (Liu et al. 2019, "DARTS", Eq. 8): no second
derivative is taken. To first order in alpha this is the paper's
``min L_task - lambda alpha <grad L_text, grad L_task>``.

Source: Ma et al. 2024, "Learning Modality Knowledge Alignment for Cross-Modality Transfer", as Tran et al. (RECRAFT,
sections 1 and 5) describe it. alpha and the number of sentences are ours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ups_server.align.base import Alignment, NormalisedBatch, Target
from ups_server.align.labels import labelled
from ups_server.align.transport import squared_distances
from ups_server.model.operator import UPSModel

INNER_RATE = 0.1
WEIGHT = 0.5
SENTENCES = 48
"""Of a step; as many of each subject as of any other."""
SPREAD = 2.0
"""t of the uniformity loss."""
DIFFERENCE = 0.01
"""Length of the displacement of all weights together in the difference quotient."""

Weights = Mapping[str, Tensor]


def alignment_loss(features: Tensor, labels: Tensor) -> Tensor:
    """``E |f - f'|^2`` over pairs (M, E) of one label, of rows of unit length."""
    pairs = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return squared_distances(features, features)[pairs].mean()


def uniformity_loss(features: Tensor) -> Tensor:
    """``log E exp(-t |f - f'|^2)`` over pairs of different rows (M, E) of unit length."""
    rows, columns = torch.triu_indices(len(features), len(features), 1, device=features.device)
    return squared_distances(features, features)[rows, columns].mul(-SPREAD).exp().mean().log()


def hypergradient(
    inner: Callable[[Weights], Tensor],
    outer: Callable[[Weights], Tensor],
    phi: Sequence[Tensor],
    theta: Weights,
    rate: float,
) -> tuple[Tensor, list[Tensor]]:
    """``L_outer(theta')`` and its gradient with respect to `phi`, of which `inner` is a function too, by first
    derivatives alone.

    Args:
        inner, outer: of weights in the place of `theta`.
        rate: alpha.
    """
    begun = _leaves(theta)
    slope = _gradients(inner(begun), list(begun.values()))
    tuned = _leaves({name: value - rate * by for (name, value), by in zip(theta.items(), slope, strict=True)})
    knowledge = outer(tuned)
    along = _gradients(knowledge, list(tuned.values()))
    length = torch.stack([value.square().sum() for value in along]).sum().sqrt()
    if not bool(length > 0) or not bool(length.isfinite()):
        return knowledge.detach(), [torch.zeros_like(value) for value in phi]
    eps = DIFFERENCE / length
    ends = []
    for sign in (1, -1):
        moved = {name: value + sign * eps * by for (name, value), by in zip(theta.items(), along, strict=True)}
        ends.append(_gradients(inner({name: value.detach() for name, value in moved.items()}), phi))
    return knowledge.detach(), [-rate * (above - below) / (2 * eps) for above, below in zip(*ends, strict=True)]


def _leaves(weights: Weights) -> dict[str, Tensor]:
    return {name: value.detach().requires_grad_() for name, value in weights.items()}


def _gradients(loss: Tensor, at: Sequence[Tensor]) -> list[Tensor]:
    """Zero for what the loss does not depend on."""
    if not loss.requires_grad:
        return [torch.zeros_like(value) for value in at]
    found = torch.autograd.grad(loss, list(at), allow_unused=True)
    return [torch.zeros_like(value) if slope is None else slope for value, slope in zip(at, found, strict=True)]


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Of all values; complex ones are pairs of real ones."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return (a * b).sum()


class _Called(nn.Module):
    """Has functions of a model called with other weights."""

    def __init__(self, model: UPSModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[UPSModel], Tensor]) -> Tensor:
        return function(self.model)


@final
class ModalityKnowledge(Alignment):
    """Stage 1 by the task loss and, `bilevel_loss`, what a step of tuning would leave of the text's subjects.

    Args:
        rate: alpha, of the step that is tried. weight: lambda.
        sentences: read in a step.
    """

    aligns = True
    bilevel = True

    def __init__(self, rate: float = INNER_RATE, weight: float = WEIGHT, sentences: int = SENTENCES) -> None:
        self._rate, self._weight, self._sentences = rate, weight, sentences
        self._texts: dict[str, tuple[str, ...]] = {}
        self._latest = 0.0

    def prepare(self, model: UPSModel, target: Target) -> None:
        self._texts = {name: target.text.about(name) for name in labelled(target.text)}

    def bilevel_loss(self, model: UPSModel, batch: NormalisedBatch) -> Tensor:
        if not self._texts:
            raise RuntimeError("prepare() comes before bilevel_loss()")
        called = _Called(model)
        theta = {
            f"model.{name}": value.detach()
            for name, value in model.named_parameters()
            if name.startswith("body.") and model.body.in_layer(name.removeprefix("body."))
        }
        phi = [
            value
            for name, value in model.named_parameters()
            if value.requires_grad and not name.startswith(("body.", "predictor.", "read_out."))
        ]
        texts, labels = self._drawn(phi[0].device)

        def task(weights: Weights) -> Tensor:
            loss: Tensor = functional_call(called, dict(weights), (lambda whole: task_loss(whole, batch),))
            return loss

        def knowledge(weights: Weights) -> Tensor:
            read = functional_call(called, dict(weights), (lambda whole: whole.read_text_features(texts),))
            features = F.normalize(read.to(torch.promote_types(read.dtype, torch.float32)), dim=1)
            return alignment_loss(features, labels) + uniformity_loss(features)

        value, slopes = hypergradient(task, knowledge, phi, theta, self._rate)
        self._latest = float(value)
        # A function with this gradient: the loop adds up losses.
        tangent = torch.stack([inner_product(slope, part) for slope, part in zip(slopes, phi, strict=True)]).sum()
        return self._weight * (value + tangent - tangent.detach())

    def terms(self) -> dict[str, float]:
        return {"mona": self._latest}

    def _drawn(self, device: torch.device) -> tuple[tuple[str, ...], Tensor]:
        """Sentences of every subject, and their subjects."""
        each = max(2, self._sentences // len(self._texts))
        found = [
            (sentences[place], label)
            for label, sentences in enumerate(self._texts.values())
            for place in torch.randperm(len(sentences))[:each].tolist()
        ]
        return tuple(text for text, _ in found), torch.tensor([label for _, label in found], device=device)


def task_loss(model: UPSModel, batch: NormalisedBatch) -> Tensor:
    """Of the first step of a batch."""
    context = model.read(batch.context, batch.conditions).repeat(batch.windows)
    return model.task_loss(model(batch.frames[:, 0], context), batch.frames[:, 1], context.mask)
