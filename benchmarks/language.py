"""What a pretrained language model adds to reading an equation's words.

    python -m benchmarks.language words --json     arms against each other on the test sentences
    python -m benchmarks.language fit              the network of a shipped model, from all training wordings

A small network learns from features of single wordings which terms they name; test sentences are read clause by
clause. Arms differ in the features only: the pretrained body, the same body with random weights, mean word embeddings,
and a bag of words. The threshold below which an arm abstains is measured on training wordings that were held out.
"""

import argparse
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from ups_server.catalog import shipped_folder
from ups_server.language.encoder import Encoder, body_weights
from ups_server.language.reader import HEAD_FILE, NAMED, clauses
from ups_server.pde.equation import TERMS

WORDINGS = Path(__file__).resolve().parent / "wordings"
NAMES = tuple(TERMS)
SUBJECTS = (
    *("it", "the quantity", "the dye", "the concentration", "u", "the field", "a substance", "the population"),
    *("the wave", "heat", "a pulse", "the pollutant", "the signal", "a bump", "everything", "the tracer", "a cloud"),
    *("the profile", "the gas", "this", "each individual", "smoke", "the water", "the material"),
)
DEGREES = ("slowly", "quickly", "gradually", "strongly", "weakly", "steadily", "simply", "gently", "rapidly")
STRENGTHS = ("weak", "strong", "slow", "fast", "slight", "mild", "pronounced")
FRAMES = ("{}", "{}", "with {}", "there is {}", "{} is present", "a model of {}", "{} only", "we include {}")
REQUESTS = ("{}", "{}", "solve {}", "please simulate {}", "I need {}", "show me {}", "{} in one dimension")
VARIANTS = 4
SHARED = 4
"""Words in a row that training and test may not have in common."""
HIDDEN, STEPS, MEMBERS, FOLDS = 128, 300, 5, 4
SCALE = 10.0
"""Of features of unit length: what enters the network is of order one."""
ANSWERED = 0.75
"""Share of held-out wordings that the threshold lets pass."""

Array = NDArray[np.float32]
Features = Callable[[str], Array]


@dataclass(frozen=True)
class Wording:
    """One way to say it. `source` is equal for the variants of one line of the file."""

    text: str
    terms: tuple[str, ...]
    source: int


def training_wordings(seed: int = 0) -> list[Wording]:
    """Every line of the file in a few variants: with a subject, a degree, a frame around it.

    A variant that happens to share `SHARED` words in a row with a test sentence is left out.
    """
    document = yaml.safe_load((WORDINGS / "training.yaml").read_text(encoding="utf-8"))
    rng, found = random.Random(seed), list[Wording]()
    tested = {run for sentence in sentences() for run in word_runs(sentence["text"])}

    def add(lines: Sequence[str], terms: tuple[str, ...], vary: Callable[[str], str], variants: int) -> None:
        for line in lines:
            source = found[-1].source + 1 if found else 0
            texts = sorted({vary(line) for _ in range(variants)})
            found.extend(Wording(text, terms, source) for text in texts if not tested & word_runs(text))

    for name, ways in document["terms"].items():
        add(ways["verbs"], (name,), lambda line: _with_subject(line, rng), VARIANTS)
        add(ways["nouns"], (name,), lambda line: rng.choice(FRAMES).format(_with_strength(line, rng)), VARIANTS)
        add(ways["clauses"], (name,), str, 1)
    for entry in document["named"]:
        add(entry["wordings"], tuple(entry["terms"]), lambda line: rng.choice(REQUESTS).format(line), VARIANTS)
    add(document["none"], (), str, 1)
    return found


def word_runs(text: str) -> set[tuple[str, ...]]:
    """Every `SHARED` words in a row."""
    found = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(found[start : start + SHARED]) for start in range(len(found) - SHARED + 1)}


def _with_subject(verb: str, rng: random.Random) -> str:
    if rng.random() < 0.3:
        verb = f"{rng.choice(DEGREES)} {verb}" if rng.random() < 0.5 else f"{verb} {rng.choice(DEGREES)}"
    return f"{rng.choice(SUBJECTS)} {verb}" if rng.random() < 0.6 else verb


def _with_strength(noun: str, rng: random.Random) -> str:
    if rng.random() > 0.25:
        return noun
    return f"{rng.choice(STRENGTHS)} {re.sub(r'^(a|an|the) ', '', noun)}"


def targets(wordings: Sequence[Wording]) -> Tensor:
    """(N, K): one where a wording names a term."""
    return torch.tensor([[float(name in wording.terms) for name in NAMES] for wording in wordings])


def fitted(features: Tensor, wanted: Tensor, seed: int) -> nn.Sequential:
    """The network of features (N, E)."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(features.shape[1], HIDDEN), nn.GELU("tanh"), nn.Dropout(0.3), nn.Linear(HIDDEN, len(NAMES))
    )
    optimiser = torch.optim.AdamW(network.parameters(), 1e-2, weight_decay=1e-2)
    for _ in range(STEPS):
        loss = nn.functional.binary_cross_entropy_with_logits(network(SCALE * features), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def named(networks: Sequence[nn.Sequential], features: Tensor) -> Tensor:
    """Probabilities (N, K): of the mean logit."""
    with torch.no_grad():
        return torch.stack([network(SCALE * features) for network in networks]).mean(0).sigmoid()


def confidence(best: Tensor) -> Tensor:
    """(N,): that all terms are right, from the largest probability (N, K) of each."""
    return torch.maximum(best, 1.0 - best).prod(dim=1)


def measured_threshold(features: Tensor, wordings: Sequence[Wording], seed: int) -> float:
    """The confidence that a share `ANSWERED` of held-out wordings reaches, in pairs as sentences have them."""
    wanted, folds = targets(wordings), torch.tensor([wording.source % FOLDS for wording in wordings])
    found = torch.zeros_like(wanted)
    for fold in range(FOLDS):
        network = fitted(features[folds != fold], wanted[folds != fold], seed)
        found[folds == fold] = named([network], features[folds == fold])
    equations = found[wanted.any(dim=1)]
    pairs = torch.randperm(len(equations), generator=torch.Generator().manual_seed(seed))
    reached = confidence(torch.maximum(equations, equations[pairs]))
    return float(reached.quantile(1.0 - ANSWERED))


def sentences() -> list[dict[str, Any]]:
    lines = (WORDINGS / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def scored(networks: Sequence[nn.Sequential], features: Features, threshold: float) -> dict[str, Any]:
    """On the test sentences: shares answered, exact among the answered, wrong of all; exact whatever the confidence."""
    answered, exact, styles = list[bool](), list[bool](), dict[str, list[bool]]()
    for sentence in sentences():
        parts = clauses(sentence["text"])
        best = torch.zeros(1, len(NAMES))
        if parts:
            best = named(networks, torch.tensor(np.stack([features(part) for part in parts]))).amax(0, keepdim=True)
        terms = [name for name, value in zip(NAMES, best[0].tolist(), strict=True) if value >= NAMED]
        answered.append(bool(terms) and float(confidence(best)) >= threshold)
        exact.append(terms == sentence["terms"])
        styles.setdefault(sentence["style"], []).append(exact[-1])
    equations = [bool(sentence["terms"]) for sentence in sentences()]
    spoken = [e for e, a in zip(exact, answered, strict=True) if a]
    return {
        "answered": float(np.mean([a for a, is_one in zip(answered, equations, strict=True) if is_one])),
        "exact_among_answered": float(np.mean(spoken)) if spoken else math.nan,
        "wrong_of_all": float(np.mean([a and not e for a, e in zip(answered, exact, strict=True)])),
        "exact_without_abstaining": float(np.mean(exact)),
        "standard_error": float(np.std(exact) / math.sqrt(len(exact))),
        "abstained_from_what_is_none": float(
            np.mean([not a for a, is_one in zip(answered, equations, strict=True) if not is_one])
        ),
        "threshold": threshold,
        "exact_by_style": {style: float(np.mean(values)) for style, values in styles.items()},
    }


def random_encoder(model: Path, seed: int) -> Encoder:
    """The same architecture with weights as BERT draws them; biases zero, norms one."""
    rng = np.random.default_rng(seed)
    weights = dict[str, Array]()
    for name, tensor in body_weights(model).items():
        drawn = rng.normal(0.0, 0.02, tensor.shape)
        plain = np.zeros(tensor.shape) if name.endswith("bias") else drawn
        weights[name] = (np.ones(tensor.shape) if name.endswith("LayerNorm.weight") else plain).astype(np.float32)
    return Encoder(model / "language_model", weights)


def word_means(encoder: Encoder) -> Features:
    """Means of the pretrained word embeddings, of unit length."""

    def features(text: str) -> Array:
        mean = encoder.word_embeddings(text).mean(axis=0)
        feature: Array = (mean / np.linalg.norm(mean)).astype(np.float32)
        return feature

    return features


def bag_of_words(wordings: Sequence[Wording]) -> Features:
    """Counts of the words of the training wordings, of unit length."""
    words = {word: place for place, word in enumerate(sorted({w for entry in wordings for w in _words(entry.text)}))}

    def features(text: str) -> Array:
        counts = np.zeros(len(words), dtype=np.float32)
        for word in _words(text):
            if word in words:
                counts[words[word]] += 1.0
        result: Array = counts / max(float(np.linalg.norm(counts)), 1.0)
        return result

    return features


def _words(text: str) -> list[str]:
    return re.findall(r"[\w^]+", text.lower())


def arm(features: Features, wordings: Sequence[Wording], seeds: int) -> dict[str, Any]:
    """Scores of one kind of features: the mean over seeds, and each seed's exact share."""
    known: dict[str, Array] = {}

    def cached(text: str) -> Array:
        if text not in known:
            known[text] = features(text)
        return known[text]

    stacked = torch.tensor(np.stack([cached(wording.text) for wording in wordings]))
    runs = []
    for seed in range(seeds):
        networks = [fitted(stacked, targets(wordings), MEMBERS * seed + member) for member in range(MEMBERS)]
        runs.append(scored(networks, cached, measured_threshold(stacked, wordings, seed)))
    numbers = [name for name, value in runs[0].items() if isinstance(value, float)]
    mean = {name: float(np.mean([run[name] for run in runs])) for name in numbers}
    styles = {name: float(np.mean([run["exact_by_style"][name] for run in runs])) for name in runs[0]["exact_by_style"]}
    return {**mean, "exact_by_style": styles, "exact_by_seed": [run["exact_without_abstaining"] for run in runs]}


def words(model: Path, seeds: int) -> dict[str, Any]:
    """Every arm on the test sentences."""
    wordings, encoder = training_wordings(), Encoder.of_model(model)
    arms: dict[str, Features] = {
        "pretrained": encoder.mean,
        "random_body": random_encoder(model, 0).mean,
        "word_embeddings": word_means(encoder),
        "bag_of_words": bag_of_words(wordings),
    }
    return {
        "sentences": len(sentences()),
        "wordings": len({wording.source for wording in wordings}),
        "seeds": seeds,
        "arms": {name: arm(features, wordings, seeds) for name, features in arms.items()},
    }


def fit(model: Path) -> dict[str, Any]:
    """Trains the network of a model folder on all wordings and writes it there; its scores on the test sentences."""
    wordings, encoder = training_wordings(), Encoder.of_model(model)
    features = torch.tensor(np.stack([encoder.mean(wording.text) for wording in wordings]))
    networks = [fitted(features, targets(wordings), member) for member in range(MEMBERS)]
    threshold = measured_threshold(features, wordings, 0)
    layers = [tuple(part for part in network if isinstance(part, nn.Linear)) for network in networks]
    tensors = {
        "hidden": SCALE * torch.cat([first.weight for first, _ in layers]),
        "hidden_bias": torch.cat([first.bias for first, _ in layers]),
        "out": torch.cat([last.weight for _, last in layers], dim=1) / MEMBERS,
        "out_bias": torch.stack([last.bias for _, last in layers]).mean(0),
    }
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    about = {"terms": json.dumps(NAMES), "threshold": repr(threshold)}
    save_file(plain, model / HEAD_FILE, metadata=about)
    return scored(networks, encoder.mean, threshold)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("words", "fit"))
    parser.add_argument("--model", type=Path, default=shipped_folder() / "ups-mini", help="A model folder.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="Print JSON only.")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = fit(options.model) if options.command == "fit" else words(options.model, options.seeds)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, scores in found.get("arms", {options.command: found}).items():
        print(
            f"{name:16} answered {scores['answered']:.2f}, exact among these {scores['exact_among_answered']:.2f}, "
            f"wrong of all {scores['wrong_of_all']:.2f}, exact of all {scores['exact_without_abstaining']:.3f} "
            f"± {scores['standard_error']:.3f}"
        )


if __name__ == "__main__":
    main()
