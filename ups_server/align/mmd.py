"""Maximum mean discrepancy between mixed sequences and reference text (thesis 6.1.4, Eq. 6.2)."""

from typing import final

import torch
from torch import Tensor

from ups_server.align.base import Alignment, FeatureQueue, Target
from ups_server.align.labels import sentences
from ups_server.align.transport import squared_distances
from ups_server.model.operator import UPSModel

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Multiples of the median squared distance."""


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
class MMDAlignment(Alignment):
    """MMD^2 between the features of recent batches and those of the reference text.

    A batch is small; features of earlier batches (detached) bring the sample to `samples` a side.
    """

    aligns = True

    def __init__(self, samples: int = 192) -> None:
        self._queue = FeatureQueue(samples, "queue")
        self._text: Tensor | None = None

    def prepare(self, model: UPSModel, target: Target) -> None:
        with torch.no_grad():
            self._text = model.text_features(tuple(sentence.text for sentence in sentences()))

    def loss(self, features: Tensor, outlines: Tensor) -> Tensor:
        if self._text is None:
            raise RuntimeError("prepare() comes before loss()")
        (sample,) = self._queue.push(features)
        return mmd2(sample, self._text)

    def state(self) -> dict[str, Tensor]:
        return self._queue.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self._queue.load_state(state)
