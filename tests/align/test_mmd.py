from pathlib import Path

import numpy as np
import pytest
import torch

from tests.align.conftest import FixedTarget
from tests.small_models import SMALL, make
from ups_server.align import ALIGNMENTS, aligns, mixes
from ups_server.align.distances import BANDWIDTHS, EuclideanAlignment, MMDAlignment, mmd2
from ups_server.align.text import reference_text
from ups_server.model.operator import UPSModel

NONE = torch.zeros(0)
"""Outlines, which this method does not ask for."""


def test_agrees_with_the_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(1.0, 2.0, size=(7, 3))
    median = torch.tensor([((x - y) ** 2).sum() for x in a for y in b]).median().item()

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([np.exp(-((x - y) ** 2).sum() / (median * width)) for width in BANDWIDTHS]))

    within = [np.mean([k(x, y) for i, x in enumerate(g) for j, y in enumerate(g) if i != j]) for g in (a, b)]
    expected = within[0] + within[1] - 2 * np.mean([k(x, y) for x in a for y in b])
    assert mmd2(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(expected, rel=1e-9)


def test_unbiased_for_equal_distributions() -> None:
    torch.manual_seed(0)
    estimates = torch.stack([mmd2(torch.randn(40, 16), torch.randn(60, 16)) for _ in range(200)])
    standard_error = estimates.std() / len(estimates) ** 0.5
    assert abs(estimates.mean()) < 3 * standard_error
    assert estimates.min() < 0


def test_grows_with_the_distance_in_hundreds_of_dimensions() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(128, 384), torch.randn(128, 384)
    distances = [mmd2(a + shift, b).item() for shift in (0.0, 0.05, 0.1, 0.5)]
    assert distances == sorted(distances)
    assert distances[-1] > 10 * abs(distances[0])


def test_invariant_under_translation_and_scale() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(20, 4, dtype=torch.float64), torch.rand(30, 4, dtype=torch.float64)
    torch.testing.assert_close(mmd2(1000 + 3 * a, 1000 + 3 * b), mmd2(a, b))


def test_descent_brings_the_features_to_the_text(language_model: Path) -> None:
    torch.manual_seed(0)
    alignment = MMDAlignment(samples=64)
    alignment.prepare(make(SMALL, language_model), FixedTarget())
    features = torch.nn.Parameter(torch.randn(64, 32) + 2)
    optimiser = torch.optim.Adam([features], lr=0.05)
    first = alignment.loss(features, NONE).item()
    for _ in range(100):
        optimiser.zero_grad()
        loss = alignment.loss(features, NONE)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.2 * first


def test_queue_is_its_state(language_model: Path) -> None:
    model = make(SMALL, language_model)
    first, second = MMDAlignment(samples=16), MMDAlignment(samples=16)
    first.prepare(model, FixedTarget())
    second.prepare(model, FixedTarget())
    torch.manual_seed(0)
    batches = torch.randn(4, 6, 32)
    for batch in batches[:3]:
        first.loss(batch, NONE)
    second.load_state(first.state())
    torch.testing.assert_close(first.loss(batches[3], NONE), second.loss(batches[3], NONE), atol=0, rtol=0)
    assert first.state()["queue"].shape == (16, 32)


def test_euclidean_is_the_mean_distance_of_pairs(model: UPSModel) -> None:
    """ORCA, section 4.2, metric 1, in units of the median distance of two sentences."""
    method = EuclideanAlignment()
    method.prepare(model, FixedTarget())
    features = torch.randn(5, model.body.size)
    text = model.text_features(reference_text().texts).detach()
    among = torch.cdist(text, text, compute_mode="donot_use_mm_for_euclid_dist")
    expected = torch.cdist(features, text, compute_mode="donot_use_mm_for_euclid_dist").mean() / among.median()
    assert float(method.loss(features, NONE)) == pytest.approx(float(expected), rel=1e-4)
    assert method.terms()["euclidean"] == pytest.approx(float(expected), rel=1e-4)


def test_every_method_gives_a_finite_loss_with_gradient(language_model: Path) -> None:
    model = make(SMALL, language_model)
    for name, create in ALIGNMENTS.items():
        method = create()
        if method.bilevel:  # of a batch, see test_mona
            continue
        method.prepare(model, FixedTarget())
        features = torch.randn(12, 32, requires_grad=True)
        loss = method.loss(features, FixedTarget().rows, features if method.reads else None)
        assert loss.isfinite(), name
        assert (method.aligns, method.mixes) == (aligns(name), mixes(name))
        if method.aligns:
            (gradient,) = torch.autograd.grad(loss, features)
            assert gradient.abs().max() > 0, name
