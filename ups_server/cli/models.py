"""`ups models`: the models of this installation; adapted ones can be removed, all can be carried away."""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ups_server.cli.jobs import open_store
from ups_server.cli.options import AsJson, DataDir, check_suffix, settings_of
from ups_server.cli.output import print_json, print_line, print_note, print_table
from ups_server.errors import UserError

if TYPE_CHECKING:
    from ups_server.catalog import Catalog, ModelCard

app = typer.Typer(help="List, show, export and delete models.", no_args_is_help=True, rich_markup_mode=None)

ModelIdArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model id; `ups models list` lists them.")]


@app.command("list")
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


@app.command()
def show(model: ModelIdArgument, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """One model: its card."""
    card = catalog(data_dir).model(model)
    if as_json:
        print_json(card.model_dump(mode="json"))
    else:
        print_line(card.readme or _origin(card) or f"{card.name} {card.version}: {card.description}")


@app.command()
def delete(model: ModelIdArgument, data_dir: DataDir = None) -> None:
    """Remove an adapted model that no open job uses."""
    installed = catalog(data_dir)
    if installed.model(model).adaptation is not None:
        with open_store(data_dir) as store:
            if (user := store.uses(model)) is not None:
                raise UserError("model_in_use", f"{model} is in use", got=user, hint="cancel the job, or wait for it")
    installed.delete(model)
    print_note(f"{model} is deleted")


@app.command()
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
