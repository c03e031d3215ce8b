"""`ups equation`: an equation in symbols as it is understood, or a proposal for a description in words."""

from typing import Annotated

import typer

from ups_server.cli.options import AsJson, Coefficients, parse_coefficients
from ups_server.cli.output import print_json, print_line, print_note


def equation(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A description in words; what holds an = is read as symbols.")
    ],
    coef: Coefficients = None,
    as_json: AsJson = False,
) -> None:
    """Say what equation a text names: its canonical form, or a proposal to confirm. Nothing is solved."""
    from ups_server.language.understanding import understood
    from ups_server.specs import EquationRequest, ProposedTerm

    coefficients = parse_coefficients(coef)
    words = "=" not in text
    request = EquationRequest(
        equation=None if words else text, description=text if words else None, coefficients=coefficients
    )
    found = understood(request)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    if found.equation is None:
        print_note("no equation is clear enough in this description; write it in symbols, or say it in other words")
        return
    print_line(found.equation)
    for term in found.terms:
        said = f"  confidence {term.confidence:.2f}" if isinstance(term, ProposedTerm) else ""
        print_line(f"  {term.name:16} {term.coefficient:g}{said}")
    if found.unplaced:
        print_note(f"not placed: {'; '.join(found.unplaced)}")
    if words:
        print_note("a proposal: check the terms, put in your coefficients, and pass it to ups solve --equation")
