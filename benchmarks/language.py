"""What a pretrained language model adds to reading an equation's words.

    python -m benchmarks.language words --seeds 3 --json models/ups-mini/words.json    every arm on the test sentences
    python -m benchmarks.language fit      the network of a shipped model, and its scores on the test sentences

A small network learns from features of descriptions (`benchmarks/descriptions.py`) which terms they name. Arms differ
in the features only: the layers of the pretrained body, those of the same body with random weights, mean word
embeddings, and words with their pieces; the first three also with the words beside them. Choices were made on
`wordings/validation.jsonl`; the threshold below which an arm abstains is measured on `wordings/calibration.jsonl`.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.descriptions import NAMES, Wording, sentences, targets, training_wordings
from ups_server.catalog import shipped_folder
from ups_server.language.clauses import CutText
from ups_server.language.encoder import Encoder, body_weights
from ups_server.language.reader import HEAD_FILE, NAMED, Bag, confidence_of, joined

HIDDEN, EPOCHS, BATCH, RATE, DROPPED, MEMBERS = 64, 10, 128, 3e-3, 0.3, 2
"""`MEMBERS` networks are shipped, as one; an arm has one network per seed."""
SCALE = 10.0
"""Of features of unit length: what enters the network is of order one."""
WRONG = 0.08
"""Share of all calibration sentences that the threshold lets be answered wrongly."""
SHIPPED = "pretrained_and_words"

Array = NDArray[np.float32]
Features = Callable[[str], Array]


class Body:
    """A language model's layers of many texts at once, kept."""

    def __init__(self, model: Path, weights: Mapping[str, NDArray[Any]]) -> None:
        self._encoder = Encoder(model / "language_model", weights)
        self._known = dict[str, Array]()

    @classmethod
    def pretrained(cls, model: Path) -> "Body":
        return cls(model, body_weights(model))

    @classmethod
    def random(cls, model: Path, seed: int) -> "Body":
        """The same architecture with weights as BERT draws them; biases zero, norms one."""
        rng = np.random.default_rng(seed)
        weights = dict[str, Array]()
        for name, tensor in body_weights(model).items():
            drawn = rng.normal(0.0, 0.02, tensor.shape)
            plain = np.zeros(tensor.shape) if name.endswith("bias") else drawn
            weights[name] = (np.ones(tensor.shape) if name.endswith("LayerNorm.weight") else plain).astype(np.float32)
        return cls(model, weights)

    def read(self, texts: Iterable[str]) -> None:
        """Computes what is not known yet."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, self._encoder.layers_of(new), strict=True))

    def layers(self, text: str) -> Array:
        """As `Encoder.layers`."""
        return self._known[text]

    def word_embeddings(self, text: str) -> Array:
        """(E,) of unit length: their mean over the tokens."""
        first = self._known[text][: self._encoder.size]
        mean: Array = first / np.linalg.norm(first)
        return mean


@dataclass(frozen=True)
class Reading:
    """Of one sentence: what was found, and what it names."""

    found: list[str]
    confidence: float
    named: list[str]

    @property
    def exact(self) -> bool:
        return self.found == self.named


def fitted(features: Tensor, wanted: Tensor, seed: int) -> nn.Sequential:
    """The network of features (N, E)."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(features.shape[1], HIDDEN), nn.GELU("tanh"), nn.Dropout(DROPPED), nn.Linear(HIDDEN, len(NAMES))
    )
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    steps = EPOCHS * math.ceil(len(features) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(features)).split(BATCH):
            loss = nn.functional.binary_cross_entropy_with_logits(network(SCALE * features[batch]), wanted[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def readings(networks: Sequence[nn.Sequential], features: Features, file: str) -> list[Reading]:
    """Every sentence of a file, read as the service reads it."""
    entries = sentences(file)
    parts = [CutText.of(entry["text"]) for entry in entries]
    texts = sorted({text for description in parts for text in description.texts})
    with torch.no_grad():
        stacked = torch.tensor(np.stack([features(text) for text in texts]))
        logits = torch.stack([network(SCALE * stacked) for network in networks]).mean(0).numpy()
    known = dict(zip(texts, logits, strict=True))
    found = []
    for description, entry in zip(parts, entries, strict=True):
        best = description.probabilities(known, len(NAMES))
        terms = [name for name, value in zip(NAMES, best, strict=True) if value >= NAMED]
        found.append(Reading(terms, confidence_of(best), entry["terms"]))
    return found


def measured_threshold(read: Sequence[Reading]) -> float:
    """The least confidence at which at most `WRONG` of all sentences are answered wrongly."""
    wrong = sorted((entry.confidence for entry in read if entry.found and not entry.exact), reverse=True)
    allowed = int(WRONG * len(read))
    return wrong[allowed] + 1e-6 if len(wrong) > allowed else NAMED ** len(NAMES)


def scored(read: Sequence[Reading], threshold: float, styles: Sequence[str]) -> dict[str, Any]:
    """Shares answered, exact among the answered, wrong of all; exact whatever the confidence."""
    answered = np.array([bool(entry.found) and entry.confidence >= threshold for entry in read])
    exact = np.array([entry.exact for entry in read])
    equations = np.array([bool(entry.named) for entry in read])
    style = np.array(styles)
    return {
        "answered": float(answered[equations].mean()),
        "exact_among_answered": float(exact[answered].mean()) if answered.any() else math.nan,
        "wrong_of_all": float((answered & ~exact).mean()),
        "exact_without_abstaining": float(exact.mean()),
        "abstained_from_what_is_none": float(1.0 - answered[~equations].mean()),
        "threshold": threshold,
        "exact_by_style": {name: float(exact[style == name].mean()) for name in sorted(set(styles))},
        "exact": exact.tolist(),
    }


def arm(features: Features, wordings: Sequence[Wording], seeds: int) -> list[dict[str, Any]]:
    """Scores of one kind of features on the test sentences, one entry per seed."""
    stacked = torch.tensor(np.stack([features(wording.text) for wording in wordings]))
    styles = [entry["style"] for entry in sentences("test.jsonl")]
    runs = []
    for seed in range(seeds):
        networks = [fitted(stacked, targets(wordings), seed)]
        threshold = measured_threshold(readings(networks, features, "calibration.jsonl"))
        runs.append(scored(readings(networks, features, "test.jsonl"), threshold, styles))
    return runs


def summary(runs: Sequence[dict[str, Any]], best: NDArray[np.float64]) -> dict[str, Any]:
    """Means over seeds; the difference from the shipped arm's exact share (S,), with its standard error by sentence."""
    numbers = [name for name, value in runs[0].items() if isinstance(value, float)]
    mean = {name: float(np.mean([run[name] for run in runs])) for name in numbers}
    exact = np.mean([run["exact"] for run in runs], axis=0)
    root = math.sqrt(len(exact))
    styles = {name: float(np.mean([run["exact_by_style"][name] for run in runs])) for name in runs[0]["exact_by_style"]}
    return {
        **mean,
        "standard_error": float(np.std(exact) / root),
        "less_than_shipped": float(np.mean(best - exact)),
        "less_than_shipped_standard_error": float(np.std(best - exact) / root),
        "exact_by_seed": [run["exact_without_abstaining"] for run in runs],
        "exact_by_style": styles,
    }


def prepared(model: Path) -> tuple[list[Wording], list[str]]:
    """The training descriptions, and every text that an arm has to read."""
    wordings = training_wordings()
    texts = [wording.text for wording in wordings]
    for file in ("validation.jsonl", "calibration.jsonl", "test.jsonl"):
        texts += [text for entry in sentences(file) for text in CutText.of(entry["text"]).texts]
    return wordings, texts


def words(model: Path, seeds: int) -> dict[str, Any]:
    """Every arm on the test sentences."""
    wordings, texts = prepared(model)
    bag = Bag.of([wording.text for wording in wordings])
    body, other = Body.pretrained(model), Body.random(model, 0)
    for read in (body, other):
        read.read(texts)
    arms: dict[str, Features] = {
        SHIPPED: lambda text: joined(body.layers(text), bag.counts(text), bag.pieces(text)),
        "random_body_and_words": lambda text: joined(other.layers(text), bag.counts(text), bag.pieces(text)),
        "word_embeddings_and_words": lambda text: joined(
            body.word_embeddings(text), bag.counts(text), bag.pieces(text)
        ),
        "bag_of_words": bag.features,
        "pretrained": body.layers,
        "random_body": other.layers,
        "word_embeddings": body.word_embeddings,
    }
    runs = {}
    for name, features in arms.items():
        runs[name] = arm(features, wordings, seeds)
        print(name, [round(run["exact_without_abstaining"], 3) for run in runs[name]], flush=True)
    best = np.mean([run["exact"] for run in runs[SHIPPED]], axis=0)
    return {
        "sentences": len(sentences("test.jsonl")),
        "wordings": len({wording.source for wording in wordings}) - 1,
        "descriptions": len(wordings),
        "seeds": seeds,
        "shipped": SHIPPED,
        "arms": {name: summary(found, best) for name, found in runs.items()},
    }


def fit(model: Path) -> dict[str, Any]:
    """Trains the network of a model folder and writes it there; its scores on the validation and test sentences."""
    wordings, texts = prepared(model)
    bag, body = Bag.of([wording.text for wording in wordings]), Body.pretrained(model)
    body.read(texts)

    def features(text: str) -> Array:
        return joined(body.layers(text), bag.counts(text), bag.pieces(text))

    stacked = torch.tensor(np.stack([features(wording.text) for wording in wordings]))
    networks = [fitted(stacked, targets(wordings), member) for member in range(MEMBERS)]
    threshold = measured_threshold(readings(networks, features, "calibration.jsonl"))
    layers = [tuple(part for part in network if isinstance(part, nn.Linear)) for network in networks]
    tensors = {
        "hidden": SCALE * torch.cat([first.weight for first, _ in layers]),
        "hidden_bias": torch.cat([first.bias for first, _ in layers]),
        "out": torch.cat([last.weight for _, last in layers], dim=1) / MEMBERS,
        "out_bias": torch.stack([last.bias for _, last in layers]).mean(0),
        "rarity": torch.tensor(bag.weights),
    }
    plain = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    about = {"terms": json.dumps(NAMES), "threshold": repr(threshold), "words": json.dumps(bag.words)}
    save_file(plain, model / HEAD_FILE, metadata=about)
    (model / HEAD_FILE).chmod(0o644)
    found = {}
    for name in ("validation", "calibration", "test"):
        styles = [entry["style"] for entry in sentences(f"{name}.jsonl")]
        scores = scored(readings(networks, features, f"{name}.jsonl"), threshold, styles)
        found[name] = {**scores, "exact": None}
    return {"arms": found}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("words", "fit"))
    parser.add_argument("--model", type=Path, default=shipped_folder() / "ups-mini", help="A model folder.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="Write all scores into this file.")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = fit(options.model) if options.command == "fit" else words(options.model, options.seeds)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for name, scores in found["arms"].items():
        print(
            f"{name:26} answered {scores['answered']:.2f}, exact among these {scores['exact_among_answered']:.2f}, "
            f"wrong of all {scores['wrong_of_all']:.2f}, exact of all {scores['exact_without_abstaining']:.3f}"
        )


if __name__ == "__main__":
    main()
