"""From an equation in words or symbols to what the service says of it.

A description is cut into clauses. Every clause becomes the mean of its tokens' features, and a small network says which
terms it names; what the clause says of size and direction sets the coefficient. A term counts with the clause that
names it most clearly. The proposal is answered where all terms, named or not, are clear enough: the product of their
confidences has to reach a threshold that was measured on wordings the network had not seen.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from ups_server.catalog import shipped_folder
from ups_server.errors import UserError
from ups_server.language.encoder import Encoder
from ups_server.pde.equation import TERMS, Equation, Formula, recognise
from ups_server.pde.grammar import parse_equation
from ups_server.specs import EquationAnswer, EquationProposal, EquationRequest, EquationTerm, ProposedTerm

SEPARATORS = re.compile(
    r"[.;:!?]\s+|\s*[,;&+]\s*(?:and |but |while |as |whereas |plus )?"
    r"|\s+(?:and|but|while|whereas|plus|together with|with|as|which|that|then|also)\s+|\s+-\s+",
    re.IGNORECASE,
)
DENIAL = re.compile(
    r"\b(no|not|never|without|neglect\w*|ignor\w*|absent|nothing|nor|neither|nobody|free of|leave out|left out"
    r"|instead of|in place of|rather than|doesn't|don't|zero)\b",
    re.IGNORECASE,
)
REPLACED = re.compile(r"\b(instead of|in place of|rather than|without|but not|free of)\b", re.IGNORECASE)
"""Deny what comes after them, not what stands before."""
SMALL = re.compile(
    r"\b(slow\w*|slight\w*|weak\w*|tiny|gentl\w+|faint\w*|small|little|mild\w*|bit|barely|gradual\w*)\b", re.IGNORECASE
)
LARGE = re.compile(
    r"\b(fast\w*|quick\w*|strong\w*|rapid\w*|powerful\w*|large|much|violent\w*|heav(?:y|ily)|vigorous\w*)\b",
    re.IGNORECASE,
)
LEFT = re.compile(r"\b(left\w*|west\w*|backwards?)\b", re.IGNORECASE)
LOSS = re.compile(
    r"\b(los[set]\w*|sink|recombin\w+|annihilat\w+|remov\w+|absor\w+|damp\w*|minus|destroy\w*|vanish\w*|disappear\w*"
    r"|consum\w+|collisions?|collide\w*)\b",
    re.IGNORECASE,
)
HEAD_FILE = "words.safetensors"
"""In a model folder: the network that names terms. `benchmarks/language.py` makes it."""
READER = "ups-mini"
"""The shipped model whose language model reads descriptions."""
MAX_CHARACTERS = 2000
NAMED = 0.5
"""Least probability of a term that is proposed."""
Array = NDArray[np.float32]


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


@cache
def reader_of(model: Path) -> Reader:
    """The reader of a model folder, loaded once."""
    return Reader(model)


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


def clauses(text: str) -> list[str]:
    """The clauses of a description, those that only deny something left out.

    A clause that denies something after it has said something else keeps its beginning: "diffusion without drift".
    """
    found = []
    for part in SEPARATORS.split(text):
        clause = part.strip(" .,;:!?")
        before = REPLACED.split(clause)[0].strip(" .,;:!?")
        if clause and before and not DENIAL.search(before):
            found.append(before)
    return found


def stated_size(clause: str) -> tuple[str | None, tuple[float, float]]:
    """(the word that says so, part of the logarithmic range it stands for): "slowly" is the lower third."""
    for pattern, part in ((SMALL, (0.0, 1.0 / 3.0)), (LARGE, (2.0 / 3.0, 1.0))):
        if (match := pattern.search(clause)) is not None:
            return match.group(0).lower(), part
    return None, (0.0, 1.0)
