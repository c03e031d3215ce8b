"""`ups families`, `ups equation` and `ups models`: what this installation knows, and what a text names of it.

Adapted models can be removed; all can be carried away.
"""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ups_server.cli.jobs import open_store
from ups_server.cli.options import AsJson, CoefficientOptions, DataDir, check_suffix, parse_coefficients, settings_of
from ups_server.cli.output import print_facts, print_json, print_line, print_note, print_table
from ups_server.errors import UserError

if TYPE_CHECKING:
    from ups_server.catalog import Catalog, ModelCard
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
        for entry in chosen:
            print_line(f"{entry.id}  (dt {entry.dt:g}, n {entry.n}; {_coefficients(entry)})")
            print_line(f"    {entry.equation}")
    else:
        print_facts(_facts(chosen[0]))


def _coefficients(equation: "Family") -> str:
    return ", ".join(f"{entry.name}={entry.default:g}" for entry in equation.coefficients) or "no coefficients"


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


models = typer.Typer(help="List, show, export and delete models.", no_args_is_help=True, rich_markup_mode=None)

ModelIdArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model id; `ups models list` lists them.")]


@models.command("list")
def list_models(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The models of this installation."""
    installed = catalog(data_dir)
    cards = installed.models()
    for error in installed.unreadable().values():
        print_note(f"left out: {error}")
    if as_json:
        print_json([card.model_dump(mode="json") for card in cards])
        return
    rows = [
        (card.id, card.version, str(card.resolution or "any"), parent(card), ", ".join(card.families)) for card in cards
    ]
    print_table(("model", "version", "n", "parent", "families"), rows)


@models.command()
def show(model: ModelIdArgument, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One model: its card."""
    card = catalog(data_dir).model(model)
    if as_json:
        print_json(card.model_dump(mode="json"))
    else:
        print_line(card.readme or _origin(card) or f"{card.name} {card.version}: {card.description}")


@models.command()
def delete(model: ModelIdArgument, data_dir: DataDir = None) -> None:
    """Remove an adapted model that no open job uses."""
    installed = catalog(data_dir)
    if installed.model(model).adaptation is not None:
        with open_store(data_dir) as store:
            if (user := store.uses(model)) is not None:
                raise UserError("model_in_use", f"{model} is in use", got=user, hint="cancel the job, or wait for it")
    installed.delete(model)
    print_note(f"{model} is deleted")


@models.command()
def export(
    model: ModelIdArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .zip file to write.")],
    data_dir: DataDir = None,
) -> None:
    """Pack a model folder into one file; unpacked, it is a MODEL for every command.

    With adapters comes the model they belong to, in a folder beside theirs.
    """
    check_suffix(output, (".zip",))
    card = catalog(data_dir).model(model)
    if card.kind == "builtin":
        raise UserError("not_exportable", f"{model} has no files", got=model, expected="a trained model")
    from ups_server.catalog import base_folder

    folders = {model: Path(card.source)}
    if card.adapters_of is not None:
        folders[card.adapters_of] = base_folder(folders[model], card.adapters_of)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:  # weights do not compress
        for name, folder in folders.items():
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.write(path, Path(name, path.relative_to(folder)))
    print_note(f"{model} written to {output}")


def catalog(data_dir: Path | None) -> "Catalog":
    from ups_server.catalog import Catalog

    return Catalog(settings_of(data_dir).data_dir)


def parent(card: "ModelCard") -> str:
    return "-" if card.adaptation is None else card.adaptation.parent


def _origin(card: "ModelCard") -> str | None:
    """What is known of an adapted model, which has no card of its own."""
    origin = card.adaptation
    if origin is None:
        return None
    return (
        f"{card.name}: {origin.parent} version {origin.parent_version}, tuned ({origin.tuning}, alignment "
        f"{origin.alignment}, {origin.steps} steps at most, seed {origin.seed}) on {origin.n_trajectories} "
        f"trajectories of {origin.family}, data {origin.data_fingerprint[:12]}.\n{card.scores['verdict']}"
    )
