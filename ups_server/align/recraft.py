"""Feature alignment with feature-label distortion: the first stage of RECRAFT.

Source: Tran et al., "Rethinking Cross-Modal Fine-Tuning", Eqs. 13 (re-calibration), 14 (FA), 19-21 (FLD), 22 (their
sum, which is minimised here; the released code runs one after the other).

The source predictor is the whole pretrained body with a linear last layer, and only that layer is calibrated. Where
this departs: the gradient that Eq. 13 bounds is taken with respect to what the last layer reads; the Lipschitz constant
of the body between the two is not in it.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_server.align.base import Alignment, FeatureQueue, Target, standing_for
from ups_server.align.labels import SAMPLES, SourceTask, classify, kmeans, source_task, source_task_read
from ups_server.align.transport import distances, divergence
from ups_server.model.operator import UPSModel

LIPSCHITZ = {1: 0.5, 2: 0.3}
"""tau by dimension: the smallest values that left the paper's source heads as good as they were."""
SAMPLES_FLD = 1024
"""Windows over which the joint distribution is accumulated: of few samples the plug-in entropy is too low."""
SAMPLES_FA = 192
CALIBRATION_STEPS = 400
HINGE = 100.0
SHRINK = 0.97


def conditional_entropy(joint: Tensor) -> Tensor:
    """``H(target | source) = -sum p(s, y) log (p(s, y) / p(s))`` of a joint (S, Y), in nats (Eqs. 20, 21)."""
    tiny = torch.finfo(joint.dtype).tiny
    source = joint.sum(1, keepdim=True)
    return -(joint * (joint.clamp_min(tiny).log() - source.clamp_min(tiny).log())).sum()


def soft_joint(probabilities: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(S, Y) joint of source pseudo-label and target label: means of ``p(s | x_i) [y_i = y]`` over the rows (M, S).

    Eq. 19 counts sampled pseudo-labels, which have no gradient; this is their expectation.
    """
    return probabilities.T @ F.one_hot(labels, classes).to(probabilities.dtype) / len(labels)


def gradient_norms(head: nn.Linear, features: Tensor, labels: Tensor) -> Tensor:
    """(M,) norms of the gradient of the cross-entropy with respect to the features, ``|W^T (p - e_y)|``."""
    residual = head(features).softmax(1) - F.one_hot(labels, head.out_features).to(features.dtype)
    gradients: Tensor = residual @ head.weight
    norms: Tensor = torch.linalg.vector_norm(gradients, dim=1)
    return norms


def calibrated_head(source: SourceTask, lipschitz: float, steps: int = CALIBRATION_STEPS) -> nn.Linear:
    """The last layer: a linear classifier of sentences whose loss is `lipschitz`-Lipschitz on them (Eq. 13).

    Cross-entropy plus a hinge on the norm of its gradient with respect to the features; what violation the hinge
    leaves is taken away by scaling the weights. Deterministic, since it starts at zero.
    """
    features, labels = source.features, source.labels
    head = nn.Linear(features.shape[1], source.classes).to(features.device)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            excess = (gradient_norms(head, features, labels) - lipschitz).clamp_min(0.0)
            (F.cross_entropy(head(features), labels) + HINGE * excess.square().mean()).backward()
            optimiser.step()
    with torch.no_grad():
        while gradient_norms(head, features, labels).max() > lipschitz:
            head.weight.mul_(SHRINK)
            head.bias.mul_(SHRINK)
    return head.requires_grad_(False)


@final
class RecraftAlignment(Alignment):
    """``tau W_1(target features, text features) + H(target class | pseudo-subject)`` (Eq. 22).

    W_1 is debiased entropic transport with Euclidean cost. Targets are dense: their classes are K-means classes of
    their outlines. Both terms see features of earlier batches too, the second of at least a thousand windows. W_1 is
    between the features that enter the body; pseudo-subjects are what the calibrated predictor behind it says.

    Args:
        terms: both, or one of them alone: "fa" (Eq. 14), "fld" (Eq. 21). Both are reported in any case.
    """

    aligns = True
    reads = True

    def __init__(self, lipschitz: float | None = None, terms: str = "both") -> None:
        self._weights = {"both": (1.0, 1.0), "fa": (1.0, 0.0), "fld": (0.0, 1.0)}[terms]
        self._latest = (0.0, 0.0)
        self._clouds = FeatureQueue(SAMPLES_FA, "features")
        self._pairs = FeatureQueue(SAMPLES_FLD, "probabilities", "labels")
        self.lipschitz = lipschitz
        self._source: SourceTask | None = None
        self._head: nn.Linear | None = None
        self._centres = torch.empty(0)
        self._among = torch.empty(0)

    def prepare(self, model: UPSModel, target: Target) -> None:
        source = source_task(model, target.text)
        self._source = source
        self.lipschitz = self.lipschitz or LIPSCHITZ[min(target.ndim, max(LIPSCHITZ))]
        self._head = calibrated_head(source_task_read(model, target.text), self.lipschitz)
        self._centres = kmeans(target.outlines(SAMPLES))

    def loss(self, features: Tensor, outlines: Tensor, read: Tensor | None = None) -> Tensor:
        if self._source is None or self._head is None or self.lipschitz is None:
            raise RuntimeError("prepare() comes before loss()")
        if read is None:
            raise TypeError("pseudo-subjects are those of what the body made of the tokens")
        alignment = self.lipschitz * self._alignment(features.float(), self._source)
        distortion = self._distortion(read.float(), classify(outlines, self._centres), self._head)
        self._latest = float(alignment.detach()), float(distortion.detach())
        return self._weights[0] * alignment + self._weights[1] * distortion

    def terms(self) -> dict[str, float]:
        """FA, tau included, and FLD, in nats: the two parts of the bound beside the target's own error."""
        return dict(zip(("fa", "fld"), self._latest, strict=True))

    def _alignment(self, features: Tensor, source: SourceTask) -> Tensor:
        (sample,) = self._clouds.push(features)
        sample = torch.cat([standing_for(sample[: len(features)], len(sample)), sample[len(features) :]])
        text = source.features[torch.randperm(len(source.features), device=features.device)[:SAMPLES_FA]]
        return divergence(distances(sample, text), distances(sample, sample), distances(text, text))

    def _distortion(self, features: Tensor, labels: Tensor, head: nn.Linear) -> Tensor:
        probabilities, known = self._pairs.push(head(features).softmax(1), labels)
        fresh = standing_for(probabilities[: len(features)], len(probabilities))
        whole = torch.cat([fresh, probabilities[len(features) :]])
        return conditional_entropy(soft_joint(whole, known, len(self._centres)))

    def state(self) -> dict[str, Tensor]:
        return self._clouds.state() | self._pairs.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        for queue in (self._clouds, self._pairs):
            queue.load_state({name: state[name] for name in queue.names if name in state})
