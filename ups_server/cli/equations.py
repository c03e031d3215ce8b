"""`ups families` and `ups equation`: the equations that are known, and the one that a text names."""

from typing import TYPE_CHECKING, Annotated

import typer

from ups_server.cli.options import AsJson, CoefficientOptions, parse_coefficients
from ups_server.cli.output import print_facts, print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from ups_server.pde import BoundaryCondition, Coefficient, Family


def list_families(
    family: Annotated[str | None, typer.Argument(metavar="[FAMILY]", help="One family, in full.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the equations this installation knows, or describe one."""
    from ups_server.pde import families
    from ups_server.pde import family as find

    chosen = list(families().values()) if family is None else [find(family)]
    if as_json:
        from ups_server.catalog import family_card

        documents = [family_card(entry).model_dump(mode="json") for entry in chosen]
        print_json(documents if family is None else documents[0])
    elif family is None:
        rows = [(entry.id, entry.equation, _coefficients(entry), f"{entry.dt:g}", str(entry.n)) for entry in chosen]
        print_table(("family", "equation", "coefficients", "dt", "n"), rows)
    else:
        print_facts(_facts(chosen[0]))


def _coefficients(equation: "Family") -> str:
    return ", ".join(f"{entry.name}={entry.default:g}" for entry in equation.coefficients) or "-"


def _facts(equation: "Family") -> dict[str, str]:
    return {
        "family": equation.id,
        "name": equation.name,
        "equation": equation.equation,
        "fields": ", ".join(f"{entry.name} ({entry.description or entry.unit})" for entry in equation.fields),
        "coefficients": "; ".join(map(_coefficient, equation.coefficients)) or "-",
        "box": " x ".join(f"[{low:g}, {high:g}]" for low, high in equation.extent),
        "boundary": "; or ".join(map(_sides, equation.boundaries)),
        "initial kinds": "; ".join(["rand", *(f"{kind.name}: {kind.description}" for kind in equation.kinds)]),
        "time": f"0 to {equation.t_final:g}, dt {equation.dt:g}, frames every {equation.frame_dt:g}",
        "resolution": str(equation.n),
    }


def _sides(boundary: "BoundaryCondition") -> str:
    return ", ".join("/".join(dict.fromkeys(axis)) for axis in boundary.as_names())


def _coefficient(entry: "Coefficient") -> str:
    low, high = entry.domain
    return f"{entry.name}: {entry.description}, default {entry.default:g}, domain {low:g} to {high:g}"


def equation(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A description in words; what holds an = is read as symbols.")
    ],
    coef: CoefficientOptions = None,
    as_json: AsJson = False,
) -> None:
    """Say what equation a text names: its canonical form, or a proposal to confirm. Nothing is solved."""
    from ups_server.language.reader import understood
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
