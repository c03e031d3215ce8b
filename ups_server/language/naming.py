"""Which terms a text names: its features and the network that reads them.

Features are those of the language model, the means over the tokens in a few of its layers, beside counts of the words
and of the pieces of words. Each part is of unit length.
"""

import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from ups_server.language.encoder import Activations, Encoder

HEAD_FILE = "words.safetensors"
"""In a model folder: the network that names terms. `benchmarks/language.py` makes it."""
NAMED = 0.5
"""Least probability of a term that is proposed."""
PIECES, PIECE_LENGTHS = 2048, (3, 4, 5)
"""Pieces of words are counted in so many places, by a hash."""


@dataclass(frozen=True)
class Bag:
    """Counts of known words, weighted by how rare they are, and of pieces of any words."""

    words: tuple[str, ...]
    weights: Activations

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Bag":
        """The words that stand in two of the texts at least."""
        count = Counter(word for text in texts for word in set(words_of(text)))
        words = tuple(sorted(word for word, times in count.items() if times > 1))
        return cls(words, np.array([math.log(len(texts) / count[word]) for word in words], np.float32))

    def counts(self, text: str) -> Activations:
        """(W,) of unit length; zero where no word is known."""
        said = Counter(words_of(text))
        return _unit(self.weights * np.array([said[word] for word in self.words], np.float32))

    def pieces(self, text: str) -> Activations:
        """(PIECES,) of unit length: pieces of three to five letters, with signs so that collisions cancel."""
        found = np.zeros(PIECES, np.float32)
        for word in words_of(text):
            framed = f"<{word}>"
            for length in PIECE_LENGTHS:
                for start in range(len(framed) - length + 1):
                    place = zlib.crc32(framed[start : start + length].encode())
                    found[place % PIECES] += 1.0 if place & (1 << 20) else -1.0
        return _unit(found)

    def features(self, text: str) -> Activations:
        """(W + PIECES,) of unit length."""
        return _unit(np.concatenate([self.counts(text), self.pieces(text)]))


def words_of(text: str) -> list[str]:
    """Words and signs of formulas."""
    return re.findall(r"[\w^*]+|[+-]", text.lower())


def features_of(texts: Sequence[str], encoder: Encoder, bag: Bag) -> list[Activations]:
    """(E,) of unit length for each text: the language model's layers beside words and their pieces.

    Raises:
        UserError: ``text_too_long``.
    """
    layers = encoder.layers_of(texts)
    return [joined(layer, bag.counts(text), bag.pieces(text)) for layer, text in zip(layers, texts, strict=True)]


def joined(*parts: Activations) -> Activations:
    """Features beside each other, of unit length where each of them is."""
    result: Activations = np.concatenate(parts) / math.sqrt(len(parts))
    return result


def _unit(values: Activations) -> Activations:
    result: Activations = values / max(float(np.linalg.norm(values)), 1e-6)
    return result


@dataclass(frozen=True)
class Head:
    """The network: features (E,) -> GELU layer -> one logit per term of `names`."""

    names: tuple[str, ...]
    threshold: float
    bag: Bag
    hidden: Activations
    hidden_bias: Activations
    out: Activations
    out_bias: Activations

    @classmethod
    def load(cls, file: Path) -> "Head":
        with safe_open(file, "np") as stored:
            about = stored.metadata()
            weights, *tensors = (
                stored.get_tensor(name).astype(np.float32)
                for name in ("rarity", "hidden", "hidden_bias", "out", "out_bias")
            )
        bag = Bag(tuple(json.loads(about["words"])), weights)
        return cls(tuple(json.loads(about["terms"])), float(about["threshold"]), bag, *tensors)

    def logits(self, features: Activations) -> Activations:
        """(K,) of a text's features (E,)."""
        inner = features @ self.hidden.T + self.hidden_bias
        # The tanh form is what the network was trained with.
        hidden = 0.5 * inner * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (inner + 0.044715 * inner**3)))
        result: Activations = (hidden @ self.out.T + self.out_bias).astype(np.float32)
        return result


def confidence_of(best: Activations) -> float:
    """That all terms, named or not, are right, given each one's probability (K,)."""
    return float(np.prod(np.maximum(best, 1.0 - best)))
