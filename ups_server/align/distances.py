"""Alignments that make a distance between states and text small: Euclidean, maximum mean discrepancy, transport.

`euclidean`: the mean distance of pairs (ORCA, section 4.2). `mmd`: between mixed sequences and reference text (thesis
6.1.4, Eq. 6.2). `otdd`: the optimal transport dataset distance between the target and labelled text, the first stage of
ORCA (Shen et al. 2023, "Cross-Modal Fine-Tuning: Align then Refine", Eq. 3 and Algorithm 1; Alvarez-Melis and Fusi
2020, whose Gaussian form of the label cost is the default: 2-Wasserstein between class-conditional clouds as
Gaussians).
"""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from ups_server.align.base import Alignment, FeatureQueue, Target, standing_for
from ups_server.align.labels import SAMPLES, SourceTask, classify, kmeans, source_task
from ups_server.align.transport import EPSILON, ITERATIONS, bures2, distances, divergence, squared_distances
from ups_server.model.operator import UPSModel

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Multiples of the median squared distance."""
TRANSPORT_EPSILON = 0.01
"""Regularisation of a label cost, in units of the median cost."""


def mmd2(a: Tensor, b: Tensor) -> Tensor:
    """Unbiased estimate of ``MMD^2 = E k(a, a') - 2 E k(a, b) + E k(b, b')`` between samples (m, E) and (n, E).

    k is the mean of Gaussian kernels ``exp(-|x - y|^2 / s)`` with s the median squared distance from a to b (detached)
    times `BANDWIDTHS`: the paper's single unit bandwidth vanishes in several hundred dimensions. The thesis prints the
    signs of Eq. 6.2 wrongly. Being unbiased, the estimate may be slightly negative.
    """
    m, n = len(a), len(b)
    centre = torch.cat([a, b]).detach().mean(0)
    a, b = a - centre, b - centre
    aa, ab = squared_distances(a, a), squared_distances(a, b)
    with torch.no_grad() if not b.requires_grad else torch.enable_grad():
        bb = squared_distances(b, b)
    median = ab.detach().median().clamp_min(torch.finfo(a.dtype).tiny)

    def kernel(distances: Tensor) -> Tensor:
        return torch.stack([torch.exp(-distances / (median * width)) for width in BANDWIDTHS]).mean(0)

    # k(x, x) = 1 is what the unbiased sums leave out.
    within_a = (kernel(aa).sum() - m) / (m * (m - 1))
    within_b = (kernel(bb).sum() - n) / (n * (n - 1))
    return within_a - 2 * kernel(ab).mean() + within_b


@final
class EuclideanAlignment(Alignment):
    """``E |a - b|`` over pairs of a state's features and a sentence's, in units of its median among the sentences.

    It matches scales and ranges alone, without regard to the distributions: ORCA's ablation (section 4.2, metric 1).
    """

    aligns = True

    def __init__(self) -> None:
        self._text: Tensor | None = None
        self._scale = torch.empty(0)
        self._latest = 0.0

    def prepare(self, model: UPSModel, target: Target) -> None:
        with torch.no_grad():
            self._text = model.text_features(target.text.texts).float()
            self._scale = distances(self._text, self._text).median()

    def loss(self, features: Tensor, outlines: Tensor, read: Tensor | None = None) -> Tensor:
        if self._text is None:
            raise RuntimeError("prepare() comes before loss()")
        found = distances(features.float(), self._text).mean() / self._scale
        self._latest = float(found.detach())
        return found

    def terms(self) -> dict[str, float]:
        return {"euclidean": self._latest}


@final
class MMDAlignment(Alignment):
    """MMD^2 between the features of recent batches and those of the reference text.

    A batch is small; features of earlier batches (detached) bring the sample to `samples` a side.
    """

    aligns = True

    def __init__(self, samples: int = 192) -> None:
        self._queue = FeatureQueue(samples, "queue")
        self._text: Tensor | None = None
        self._latest = 0.0

    def prepare(self, model: UPSModel, target: Target) -> None:
        with torch.no_grad():
            self._text = model.text_features(target.text.texts)

    def loss(self, features: Tensor, outlines: Tensor, read: Tensor | None = None) -> Tensor:
        if self._text is None:
            raise RuntimeError("prepare() comes before loss()")
        (sample,) = self._queue.push(features)
        found = mmd2(sample, self._text)
        self._latest = float(found.detach())
        return found

    def terms(self) -> dict[str, float]:
        return {"mmd2": self._latest}

    def state(self) -> dict[str, Tensor]:
        return self._queue.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self._queue.load_state(state)


def otdd(
    x: Tensor,
    x_labels: Tensor,
    y: Tensor,
    y_labels: Tensor,
    epsilon: float = EPSILON,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Debiased dataset distance of labelled clouds (m, E) and (n, E), squared: the least mean cost of carrying one
    over into the other, where ``d^2((x, y), (x', y')) = |x - x'|^2 + W_2^2(cloud of y, cloud of y')`` (Eq. 3).

    Every label has to occur at its place: labels are 0 ... K - 1 on either side.
    """
    x_clouds, y_clouds = clouds(x, x_labels), clouds(y, y_labels)

    def cost(a: Tensor, b: Tensor, labels: Tensor, a_labels: Tensor, b_labels: Tensor) -> Tensor:
        return squared_distances(a, b) + labels[a_labels][:, b_labels]

    return divergence(
        cost(x, y, label_costs(x_clouds, y_clouds), x_labels, y_labels),
        cost(x, x, label_costs(x_clouds, x_clouds), x_labels, x_labels),
        cost(y, y, label_costs(y_clouds, y_clouds), y_labels, y_labels),
        epsilon,
        iterations,
    )


def clouds(points: Tensor, labels: Tensor) -> list[Tensor]:
    """The points of every label."""
    return [points[labels == label] for label in range(int(labels.max()) + 1)]


CloudCost = Callable[[Tensor, Tensor], Tensor]
"""A squared distance (...,) of clouds (..., m, E) and (..., n, E)."""


def transport2(x: Tensor, y: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance between two clouds themselves, entropic and debiased: not as Gaussians.

    Shapes: (..., m, E), (..., n, E) -> (...,).
    """
    leading = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x, y = x.expand(*leading, *x.shape[-2:]), y.expand(*leading, *y.shape[-2:])
    between, within_x, within_y = (distances(*pair).square() for pair in ((x, y), (x, x), (y, y)))
    return divergence(between, within_x, within_y, TRANSPORT_EPSILON).clamp_min(0.0)


def label_costs(left: list[Tensor], right: list[Tensor], cost: CloudCost = bures2) -> Tensor:
    """(K, L) squared 2-Wasserstein distances of clouds, by default as Gaussians; exactly zero where the two are one."""
    rows = [[a.new_zeros(()) if a is b else cost(a, b) for b in right] for a in left]
    return torch.stack([torch.stack(row) for row in rows])


LABEL_COSTS: dict[str, CloudCost] = {"gaussian": bures2, "transport": transport2}


@final
class OTDDAlignment(Alignment):
    """OTDD by class-wise subsampling (Algorithm 1), in units of the median cost among the text.

    A step is one round of the algorithm: of every class of targets that the recent batches hold, `subsample` features
    against as many sentences, weighted by the frequency of the class. Targets are dense: their classes are K-means
    classes of their outlines. What is constant in the parameters, the text's own term, is drawn anew too, so that the
    loss of equal clouds stays near zero.

    Args:
        label_cost: of two classes, between their clouds as Gaussians or between the clouds themselves.
    """

    aligns = True

    def __init__(
        self, samples: int = 192, subsample: int = 24, source_subsample: int = 96, label_cost: str = "gaussian"
    ) -> None:
        self._label_cost = LABEL_COSTS[label_cost]
        self._latest = 0.0
        self._queue = FeatureQueue(samples, "features", "labels")
        self.subsample = subsample
        self.source_subsample = source_subsample
        self._source: SourceTask | None = None
        self._centres: Tensor | None = None
        self._source_costs = torch.empty(0)
        self._scale = torch.empty(0)

    def prepare(self, model: UPSModel, target: Target) -> None:
        source = source_task(model, target.text)
        self._source = source
        self._centres = kmeans(target.outlines(SAMPLES))
        with torch.no_grad():
            subjects = clouds(source.features, source.labels)
            self._source_costs = label_costs(subjects, subjects, self._label_cost)
            self._scale = squared_distances(source.features, source.features).median()

    def loss(self, features: Tensor, outlines: Tensor, read: Tensor | None = None) -> Tensor:
        if self._source is None or self._centres is None:
            raise RuntimeError("prepare() comes before loss()")
        labels = classify(outlines, self._centres)
        sample, sample_labels = self._queue.push(features.float(), labels)
        known = sample[len(features) :]
        sample = torch.cat([standing_for(sample[: len(features)], len(sample)), known])
        found = classwise(
            sample, sample_labels, self._source, self._source_costs, self.subsample, self.source_subsample,
            self._label_cost,
        ) / self._scale  # fmt: skip
        self._latest = float(found.detach())
        return found

    def terms(self) -> dict[str, float]:
        return {"otdd": self._latest}

    def state(self) -> dict[str, Tensor]:
        return self._queue.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self._queue.load_state(state)


def classwise(
    features: Tensor,
    labels: Tensor,
    source: SourceTask,
    source_costs: Tensor,
    subsample: int,
    source_subsample: int,
    cost: CloudCost = bures2,
) -> Tensor:
    """Algorithm 1 with one round: ``sum_i w_i OTDD(D_i, S)`` over the classes i of the target, w_i their frequency.

    Args:
        source_costs: (L, L) squared distances between the label clouds of the source, by `cost`.
    """
    present, counts = labels.unique(return_counts=True)
    device = features.device
    rows = torch.stack(
        [
            members[torch.randint(len(members), (subsample,), device=device)]
            for members in (torch.nonzero(labels == label).flatten() for label in present)
        ]
    )
    drawn = features[rows]  # (K, b, E)
    subjects = [source.features[source.labels == label] for label in range(source.classes)]
    # W_2^2 between the cloud of each target class and those of the subjects, for the subsample of this round.
    to_labels = torch.stack([cost(drawn, cloud) for cloud in subjects], dim=1)  # (K, L)
    picked = torch.randperm(len(source.features), device=device)[:source_subsample]
    text, text_labels = source.features[picked], source.labels[picked]
    count = len(present)
    between = torch.stack([squared_distances(cloud, text) for cloud in drawn]) + to_labels[:, None, text_labels]
    within = torch.stack([squared_distances(cloud, cloud) for cloud in drawn])
    among = squared_distances(text, text) + source_costs[text_labels][:, text_labels]
    apart = divergence(between, within, among.expand(count, -1, -1))
    weights: Tensor = counts / counts.sum()
    return (weights * apart).sum()
