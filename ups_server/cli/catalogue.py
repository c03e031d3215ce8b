"""`ups families`, `ups equation` and `ups models`: what this installation knows, and what a text names of it.

Adapted models can be removed; all can be carried away.
"""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups_server.cli.jobs import open_store
from ups_server.cli.options import (
    AsJson,
    CoefficientOptions,
    DataDir,
    Key,
    ServiceUrl,
    check_suffix,
    parse_coefficients,
    service_client,
    settings_of,
)
from ups_server.cli.output import print_facts, print_json, print_line, print_note, print_table
from ups_server.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ups_server.catalog import Catalog, CoefficientCard, FamilyCard, ModelCard
    from ups_server.pde import Family
    from ups_server.specs import EquationAnswer


def list_families(
    family: Annotated[str | None, typer.Argument(metavar="[FAMILY]", help="One family, in full.")] = None,
    data_dir: DataDir = None,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the equations that are known, those that users declared last, or describe one."""
    cards = _families(data_dir, url, key) if family is None else [_family(family, data_dir, url, key)]
    if as_json:
        documents = [card.model_dump(mode="json") for card in cards]
        print_json(documents if family is None else documents[0])
    elif family is None:
        for card in cards:
            print_line(f"{card.id}  (dt {card.dt:g}, n {card.n}; {_coefficients(card)})")
            print_line(f"    {card.equation}")
    else:
        print_facts(_facts(cards[0]))


def _families(data_dir: Path | None, url: str | None, key: str | None) -> "list[FamilyCard]":
    from ups_server.catalog import FamilyCard, family_card
    from ups_server.pde import families

    if url is not None:
        with service_client(url, key) as client:
            return [FamilyCard.model_validate(entry) for entry in client.families()]
    declared = _declared(data_dir).values()
    return [*map(family_card, families().values()), *(family_card(entry, declared=True) for entry in declared)]


def _family(family_id: str, data_dir: Path | None, url: str | None, key: str | None) -> "FamilyCard":
    """Raises UserError ``unknown_family``."""
    from ups_server.catalog import FamilyCard, family_card
    from ups_server.pde import families
    from ups_server.pde import family as find

    if url is not None:
        with service_client(url, key) as client:
            return FamilyCard.model_validate(client.family(family_id))
    declared = {} if family_id in families() else _declared(data_dir)
    return family_card(declared[family_id], declared=True) if family_id in declared else family_card(find(family_id))


def _declared(data_dir: Path | None) -> "dict[str, Family]":
    """The equations that users of this data folder declared."""
    from ups_server.files.equations import declared_families

    installed = catalog(data_dir)
    return declared_families(settings_of(data_dir).data_dir, installed.models())


def _coefficients(card: "FamilyCard") -> str:
    return ", ".join(f"{entry.name}={entry.default:g}" for entry in card.coefficients) or "no coefficients"


def _facts(card: "FamilyCard") -> dict[str, str]:
    return {
        "family": card.id,
        "name": card.name,
        "equation": card.equation,
        "fields": ", ".join(f"{entry.name} ({entry.description or entry.unit})" for entry in card.fields),
        "coefficients": "; ".join(map(_coefficient, card.coefficients)) or "-",
        "box": " x ".join(f"[{low:g}, {high:g}]" for low, high in card.extent),
        "boundary": "; or ".join(map(_sides, card.boundaries)),
        "initial kinds": "; ".join(f"{kind.name}: {kind.description}" for kind in card.initial_kinds),
        "time": f"0 to {card.t_final:g}, dt {card.dt:g}",
        "resolution": str(card.n),
    }


def _sides(boundary: "Sequence[Sequence[str]]") -> str:
    return ", ".join("/".join(dict.fromkeys(axis)) for axis in boundary)


def _coefficient(entry: "CoefficientCard") -> str:
    low, high = ("inf" if end is None else f"{end:g}" for end in (entry.low, entry.high))
    ends = f"{'-' if entry.low is None else ''}{low} to {high}"
    return f"{entry.name}: {entry.description}, default {entry.default:g}, domain {ends}"


def equation(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A description in words; what holds an = is read as symbols.")
    ],
    coef: CoefficientOptions = None,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Say what equation a text names: its canonical form, or a proposal to confirm. Nothing is solved."""
    from ups_server.specs import ProposedTerm

    words = "=" not in text
    found = _understood(text, words, parse_coefficients(coef), url, key)
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


def _understood(
    text: str, words: bool, coefficients: dict[str, float], url: str | None, key: str | None
) -> "EquationAnswer":
    from ups_server.specs import EquationAnswer, EquationRequest

    said = {"description" if words else "equation": text}
    if url is not None:
        with service_client(url, key) as client:
            answer = client.equation(said.get("equation"), said.get("description"), **coefficients)
        return EquationAnswer.model_validate(answer)
    from ups_server.language.reader import understood

    return understood(EquationRequest.model_validate({**said, "coefficients": coefficients}))


models = typer.Typer(help="List, show, export and delete models.", no_args_is_help=True, rich_markup_mode=None)

ModelIdArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model id; `ups models list` lists them.")]


@models.command("list")
def list_models(data_dir: DataDir = None, url: ServiceUrl = None, key: Key = None, as_json: AsJson = False) -> None:
    """The models of this installation, or of a service."""
    if url is None:
        installed = catalog(data_dir)
        cards = installed.models()
        for error in installed.unreadable().values():
            print_note(f"left out: {error}")
    else:
        with service_client(url, key) as client:
            cards = [_card(entry, url) for entry in client.models()]
    if as_json:
        print_json([card.model_dump(mode="json") for card in cards])
        return
    rows = [
        (card.id, card.version, str(card.resolution or "any"), parent(card), ", ".join(card.families)) for card in cards
    ]
    print_table(("model", "version", "n", "parent", "families"), rows)


@models.command()
def show(
    model: ModelIdArgument, data_dir: DataDir = None, url: ServiceUrl = None, key: Key = None, as_json: AsJson = False
) -> None:
    """One model: its card."""
    if url is None:
        card = catalog(data_dir).model(model)
    else:
        with service_client(url, key) as client:
            card = _card(client.model(model), url)
    if as_json:
        print_json(card.model_dump(mode="json"))
    else:
        print_line(card.readme or _origin(card) or f"{card.name} {card.version}: {card.description}")


@models.command()
def delete(model: ModelIdArgument, data_dir: DataDir = None, url: ServiceUrl = None, key: Key = None) -> None:
    """Remove an adapted model that no open job uses."""
    if url is not None:
        with service_client(url, key) as client:
            client.delete_model(model)
        print_note(f"{model} is deleted")
        return
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


def _card(document: "Mapping[str, Any]", url: str) -> "ModelCard":
    from ups_server.catalog import ModelCard

    return ModelCard.model_validate({**document, "source": url})


def model_source(model: str, data_dir: Path | None) -> str | Path:
    """What a solver is loaded from: a folder, the one of a model id, or the name of a built-in solver.

    Raises:
        UserError: ``unknown_model``.
    """
    if (Path(model) / "config.json").is_file() or len(Path(model).parts) > 1:
        return Path(model)
    card = catalog(data_dir).model(model)
    return model if card.kind == "builtin" else Path(card.source)


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
