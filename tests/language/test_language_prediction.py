"""The experiment on what a language model adds to a prediction: its problems, its arms and its statistics."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.descriptions import word_runs
from benchmarks.equations import FAMILIES, FAMILY, of_family
from benchmarks.language_prediction import (
    ARMS,
    CARD,
    Features,
    Texts,
    errors,
    layers_of,
    new_model,
    summary,
    told,
)  # fmt: skip
from tests.small_models import write_language_model
from ups_server.catalog import shipped_folder
from ups_server.model.lead import problems
from ups_server.model.lead_config import ANY
from ups_server.pde.equation import TERMS
from ups_server.pde.families.evolution_1d import UNSEEN_TERM

MODEL: Path = shipped_folder() / "ups-mini"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_the_equation_of_its_terms(name: str) -> None:
    """The family's own solver and that of sums of terms agree."""
    found = of_family(name, 3, 1)
    times = np.arange(5, dtype=np.float64) * FAMILY.dt
    again = FAMILY.solve(found.truth[:, 0], times, FAMILY.default_grid(), found.coefficients, static=found.static)
    error = np.sqrt(((again - found.truth[:, :5]) ** 2).mean() / (found.truth[:, :5] ** 2).mean())
    assert error < 0.03


def test_wordings_of_tests_share_no_four_words_with_training() -> None:
    """But for the library's own line of each term, which every model is told."""
    texts = Texts.read()
    library = {term.text for term in ANY}
    assert all(len(texts.training[name]) > 100 and texts.unseen[name] for name in TERMS)
    learned = {text for name in TERMS for text in texts.training[name]} - library
    known = {run for text in learned for run in word_runs(text)}
    assert not known & {run for name in TERMS for text in texts.unseen[name] for run in word_runs(text)}


def test_another_language_model_is_read_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "another").mkdir()
    folder = write_language_model(tmp_path / "another")
    size = json.loads((folder / "config.json").read_text())["hidden_size"]
    found = layers_of(folder, ("spreads", "decays"))
    assert {feature.shape for feature in found.values()} == {(4 * size,)}
    for feature in found.values():
        np.testing.assert_allclose(np.linalg.norm(feature.reshape(4, size), axis=1), 0.5, rtol=1e-5)
    assert not np.allclose(found["spreads"], found["decays"])
    texts = Texts({name: [f"{name} one", name] for name in TERMS}, {name: [name] for name in TERMS})
    assert Features("another", texts, 0, MODEL, folder).size == 4 * size


def test_arms_differ_in_the_features_alone() -> None:
    texts = Texts({name: [f"{name} one", f"{name} two"] for name in TERMS}, {name: [name] for name in TERMS})
    drawn = {}
    for arm in ARMS:
        features = Features(arm, texts, 0, MODEL)
        drawn[arm] = features.drawn(np.random.default_rng(0), texts.training, 4)
        assert drawn[arm].shape == (4, len(TERMS), features.size)
    assert not drawn["no_text"].any()
    assert torch.equal(drawn["learned_id"][0], drawn["learned_id"][1])
    spread = {arm: drawn[arm].std(0).mean() for arm in ARMS}
    assert all((spread[arm] > 0) == (arm not in ("learned_id", "no_text")) for arm in ARMS)
    own = list(TERMS).index(UNSEEN_TERM)
    assert drawn["learned_id"][0, own].argmax() == own


def test_nothing_but_the_features_says_what_a_term_does() -> None:
    """Two terms with the same feature and number are the same to a model, whatever the equation says of them."""
    texts = Texts({name: [name] for name in TERMS}, {name: [name] for name in TERMS})
    model = new_model(Features("learned_id", texts, 0, MODEL), 0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    blank = {term.text: torch.zeros(1) for term in ANY}
    state = torch.randn(1, 128, 4) * torch.tensor([1.0, 0, 0, 0])
    names = torch.ones(1, len(TERMS), len(TERMS))
    out = []
    for present in ("transport", "logistic"):
        numbers = {name: torch.tensor([0.7 * (name == present)]) for name in TERMS}
        given = problems(CARD, blank, numbers, [0], FAMILY.boundary, FAMILY.default_grid(), state)
        out.append(model(state, torch.tensor([0.05]), told(given, names)).detach())
    assert torch.allclose(out[0], out[1], atol=1e-6)


def test_errors_are_bounded_and_of_the_trajectory() -> None:
    texts = Texts({name: [name] for name in TERMS}, {name: [name] for name in TERMS})
    features = Features("learned_id", texts, 0, MODEL)
    found = of_family("diffusion_reaction_1d", 2, 1)
    model = new_model(features, 0).eval()
    own = errors(model, found, features.drawn(np.random.default_rng(0), texts.training, 2))
    assert own.shape == (2,)
    assert (own > 0).all()
    assert (own <= 10).all()


def test_statistics_compare_with_the_pretrained_arm() -> None:
    rng = np.random.default_rng(0)
    base = np.exp(rng.normal(size=40))
    runs = [
        {"arm": arm, "seed": seed, "steps": 5, "seconds": 1.0, "errors": {"t": (factor * base).tolist()}}
        for seed in range(2)
        for arm, factor in (("pretrained", 1.0), ("random_body", 2.0))
    ]
    found = summary(runs)["tests"]["t"]
    assert found["pretrained"]["times_pretrained"] == pytest.approx(1.0)
    assert found["random_body"]["times_pretrained_interval"] == pytest.approx([2.0, 2.0])
    low, high = found["pretrained"]["interval"]
    assert low <= np.median(base) <= high
    assert found["random_body"]["median"] == pytest.approx(2 * np.median(base))
