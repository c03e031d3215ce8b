"""What the service says of an equation that is written or described."""

from ups_server.catalog import shipped_folder
from ups_server.language.reader import reader_of
from ups_server.pde.equation import Equation, recognise
from ups_server.pde.grammar import parse_equation
from ups_server.specs import EquationAnswer, EquationRequest, EquationTerm

READER = "ups-mini"
"""The shipped model whose language model reads descriptions."""


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
