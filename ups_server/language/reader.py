"""From an equation in words or symbols to what the service says of it.

A network says which terms the clauses of a description name (`naming`); what a clause says of size and direction sets
the coefficient. The proposal is answered where all terms, named or not, are clear enough: the product of their
confidences has to reach a threshold that was measured on sentences the network had not seen.
"""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ups_server.catalog import shipped_folder
from ups_server.errors import UserError
from ups_server.language.clauses import GAIN, LEFT, LOSS, NEGATIVE, CutText, stated_size
from ups_server.language.encoder import Encoder
from ups_server.language.naming import HEAD_FILE, NAMED, Head, confidence_of, features_of
from ups_server.pde.equation import TERMS, Equation, Formula, recognise
from ups_server.pde.grammar import parse_equation
from ups_server.specs import EquationAnswer, EquationProposal, EquationRequest, EquationTerm, ProposedTerm

READER = "ups-mini"
"""The shipped model whose language model reads descriptions."""
MAX_CHARACTERS = 2000


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
