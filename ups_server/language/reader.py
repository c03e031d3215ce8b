"""From a description to a proposed equation.

Every clause becomes the mean of its tokens' features, and a small network says which terms it names. A term counts
with the clause that names it most clearly. The proposal is answered where all terms, named or not, are clear enough:
the product of their confidences has to reach a threshold that was measured on wordings the network had not seen.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from ups_server.errors import UserError
from ups_server.language.clauses import LEFT, LOSS, clauses, stated_size
from ups_server.language.encoder import Encoder
from ups_server.pde.equation import TERMS, Equation, Formula
from ups_server.specs import EquationProposal, ProposedTerm

Array = NDArray[np.float32]

HEAD_FILE = "words.safetensors"
"""In a model folder: the network that names terms. `benchmarks/language.py` makes it."""

MAX_CHARACTERS = 2000
NAMED = 0.5
"""Least probability of a term that is proposed."""


@dataclass(frozen=True)
class Head:
    """The network: features (E,) -> GELU layer -> one logit per term of `names`."""

    names: tuple[str, ...]
    threshold: float
    hidden: Array
    hidden_bias: Array
    out: Array
    out_bias: Array

    @classmethod
    def load(cls, file: Path) -> "Head":
        with safe_open(file, "np") as stored:
            about = stored.metadata()
            tensors = [stored.get_tensor(name) for name in ("hidden", "hidden_bias", "out", "out_bias")]
        return cls(tuple(json.loads(about["terms"])), float(about["threshold"]), *tensors)

    def probabilities(self, features: Array) -> Array:
        """(C, K) of clauses (C, E)."""
        inner = features @ self.hidden.T + self.hidden_bias
        # The tanh form is what the network was trained with.
        hidden = 0.5 * inner * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (inner + 0.044715 * inner**3)))
        logits = hidden @ self.out.T + self.out_bias
        result: Array = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        return result


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
        parts = clauses(description)
        if not parts:
            return abstention(parts)
        named = self._head.probabilities(np.stack([self._encoder.mean(part) for part in parts]))
        best = named.max(axis=0)
        if not (best >= NAMED).any() or confidence_of(best) < self._head.threshold:
            return abstention(parts)
        found = {
            name: (float(best[index]), parts[int(named[:, index].argmax())])
            for index, name in enumerate(self._head.names)
            if best[index] >= NAMED
        }
        unplaced = [part for part, row in zip(parts, named, strict=True) if row.max() < NAMED]
        return proposal(found, unplaced)


def confidence_of(best: Array) -> float:
    """That all terms, named or not, are right, given each one's largest probability (K,)."""
    return float(np.prod(np.maximum(best, 1.0 - best)))


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
        # What a fourth order has to hold back are waves that a negative second order makes grow.
        return -1 if "biharmonic" in found and ("self_advection" in found or "cubic" in found) else 1
    if name in ("quadratic", "cubic"):
        gains = name == "quadratic" and not LOSS.search(clause)
        return 1 if gains else -1
    return -1 if name in ("self_advection", "dispersion", "biharmonic", "decay") else 1


def _wave() -> Formula:
    """sin(2 pi x): a source to begin with, for whoever edits the proposal."""
    turn = Formula("*", (Formula("2"), Formula("*", (Formula.number(math.pi), Formula("x")))))
    return Formula("sin", (turn,))


@cache
def reader_of(model: Path) -> Reader:
    """The reader of a model folder, loaded once."""
    return Reader(model)
