"""From an equation in words or symbols to what the service says of it.

A network (`Head`) says which terms the clauses of a description name. It reads features of the language model, the
means over the tokens in a few of its layers, beside counts of the words and of the pieces of words, each part of unit
length. What a clause says of size and direction sets the coefficient. The proposal is answered where all terms, named
or not, are clear enough: the product of their confidences has to reach a threshold that was measured on sentences the
network had not seen.
"""

import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open

from ups_server.catalog import shipped_folder
from ups_server.errors import UserError
from ups_server.language.clauses import GAIN, LEFT, LOSS, NEGATIVE, CutText, stated_size
from ups_server.language.encoder import Activations, Encoder
from ups_server.pde.equation import TERMS, Equation, Formula, recognise
from ups_server.pde.grammar import parse_equation
from ups_server.specs import EquationAnswer, EquationProposal, EquationRequest, EquationTerm, ProposedTerm

READER = "ups-mini"
"""The shipped model whose language model reads descriptions."""
MAX_CHARACTERS = 2000
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


def understood(request: EquationRequest) -> EquationAnswer:
    """The canonical form of an equation in symbols, or the proposal for a description; with the family that solves it.

    Raises:
        UserError: those of `parse_equation` and `Equation.check`, ``text_too_long``.
    """
    if request.equation is not None:
        equation = parse_equation(request.equation, request.coefficients)
        equation.check()
        return _answer(equation)
    proposed = reader_of(shipped_folder() / READER).propose(request.description or "")
    if proposed.equation is None:
        return EquationAnswer(**dict(proposed))
    known = _answer(parse_equation(proposed.equation))
    return EquationAnswer(**dict(proposed), family=known.family, coefficients=known.coefficients)


def _answer(equation: Equation) -> EquationAnswer:
    known = recognise(equation)
    return EquationAnswer(
        equation=str(equation),
        terms=terms_of(equation),
        family=known.family,
        coefficients=known.coefficients,
    )


def terms_of(equation: Equation) -> list[EquationTerm]:
    """Its terms, one entry each."""
    return [
        EquationTerm(name=name, sign=1 if value > 0.0 else -1, coefficient=value)
        for name, value in equation.coefficients
    ]


class Reader:
    """Reads descriptions with the language model and the network of a model folder."""

    def __init__(self, model: Path) -> None:
        self._encoder = Encoder.of_model(model)
        self._head = Head.load(model / HEAD_FILE)

    def propose(self, description: str) -> EquationProposal:
        """What equation a description names; never more than a proposal.

        Raises:
            UserError: ``text_too_long``.
        """
        if len(description) > MAX_CHARACTERS:
            raise UserError(
                "text_too_long",
                "the description is too long",
                got=f"{len(description)} characters",
                expected=f"at most {MAX_CHARACTERS}",
            )
        parts = CutText.of(description)
        texts = sorted(parts.texts)
        features = features_of(texts, self._encoder, self._head.bag)
        logits = {text: self._head.logits(feature) for text, feature in zip(texts, features, strict=True)}
        best = parts.probabilities(logits, len(self._head.names))
        if not (best >= NAMED).any() or confidence_of(best) < self._head.threshold:
            return abstention(parts.clauses)
        found = {
            name: (float(best[index]), parts.clearest(index, logits))
            for index, name in enumerate(self._head.names)
            if best[index] >= NAMED
        }
        placed = {clause for _, clause in found.values()}
        unplaced = [text for text in parts.clauses if text not in placed and logits[text].max() < 0.0]
        return proposal(found, unplaced)


@cache
def reader_of(model: Path) -> Reader:
    """The reader of a model folder, loaded once."""
    return Reader(model)


def abstention(parts: Sequence[str]) -> EquationProposal:
    return EquationProposal(equation=None, terms=[], unplaced=list(parts), abstained=True)


def proposal(found: dict[str, tuple[float, str]], unplaced: list[str]) -> EquationProposal:
    """The equation of terms with (confidence, clause) each; sizes and directions are those that the clauses state."""
    terms = [_term(name, *found[name], found) for name in TERMS if name in found]
    coefficients = tuple((term.name, term.coefficient) for term in terms)
    size = dict(coefficients).get("forcing")
    forcing = None if size is None else Formula("*", (Formula.number(size), _wave()))
    equation = Equation(coefficients, forcing)
    return EquationProposal(equation=str(equation), terms=terms, unplaced=unplaced, abstained=False)


def _term(name: str, confidence: float, clause: str, found: dict[str, tuple[float, str]]) -> ProposedTerm:
    low, high = TERMS[name].magnitude
    word, part = stated_size(clause)
    ends = tuple(low * (high / low) ** share for share in part)
    size = float(f"{math.sqrt(ends[0] * ends[1]):.2g}")
    sign = _sign(name, clause, found)
    return ProposedTerm(
        name=name,
        sign=sign,
        coefficient=sign * size,
        confidence=round(confidence, 4),
        range=(float(f"{ends[0]:.2g}"), float(f"{ends[1]:.2g}")),
        stated=word,
    )


def _sign(name: str, clause: str, found: dict[str, tuple[float, str]]) -> int:
    """Of the coefficient: the usual one, unless the clause says otherwise."""
    if name == "transport":
        return 1 if LEFT.search(clause) else -1
    if name == "diffusion":
        return -1 if _grows_waves(clause, found) else 1
    if name == "quadratic":
        return -1 if LOSS.search(clause) else 1
    if name == "cubic":
        return 1 if GAIN.search(clause) and not LOSS.search(clause) else -1
    return -1 if name in ("self_advection", "dispersion", "biharmonic", "decay") else 1


def _grows_waves(clause: str, found: dict[str, tuple[float, str]]) -> bool:
    """Is it a second order that makes waves grow, which a fourth order holds back?

    Said so, or known by the name of an equation that has both.
    """
    if "biharmonic" not in found:
        return False
    together = found["biharmonic"][1] == clause and ("self_advection" in found or "cubic" in found)
    return together or NEGATIVE.search(clause) is not None


def _wave() -> Formula:
    """sin(2 pi x): a source to begin with, for whoever edits the proposal."""
    turn = Formula("*", (Formula("2"), Formula("*", (Formula.number(math.pi), Formula("x")))))
    return Formula("sin", (turn,))
