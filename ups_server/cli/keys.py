"""`ups keys`: the API keys of a service on this machine, by its data folder or database."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ups_server.access.scopes import DESCRIPTIONS, Scope
from ups_server.cli.jobs import when
from ups_server.cli.options import AsJson, DataDir, settings_of
from ups_server.cli.output import print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from ups_server.access.keys import ApiKey, KeyStore

app = typer.Typer(
    help="Make, list, revoke and delete API keys. From the first one on the service answers nobody without a key.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="A key's id; `ups keys list` lists them.")]
DAYS = 90
SCOPES = "; ".join(f"{scope.value}: {text}" for scope, text in DESCRIPTIONS.items())


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key, or what for.")],
    scope: Annotated[list[Scope] | None, typer.Option(help=f"A right, repeatable. {SCOPES}. [default: read]")] = None,
    days: Annotated[float, typer.Option(min=0.001, help="Days until it expires.")] = DAYS,
    forever: Annotated[bool, typer.Option("--forever", help="It never expires.")] = False,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Requests a minute.")] = None,
    stored_bytes: Annotated[int | None, typer.Option(min=0, help="Bytes of its files and results.")] = None,
    compute_seconds: Annotated[float | None, typer.Option(min=0, help="Seconds of computing a day.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it: it is stored hashed, and shown this once."""
    from ups_server.access.keys import KeyLimits

    with open_keys(data_dir) as store:
        limits = KeyLimits(
            requests_per_minute=requests_per_minute, stored_bytes=stored_bytes, compute_seconds=compute_seconds
        )
        made, key = store.create(name, scope or [Scope.READ], None if forever else days, limits)
    if as_json:
        print_json({**made.model_dump(mode="json"), "key": key})
        return
    print_line(key)
    print_note(f"key {made.id} ({', '.join(made.scopes)}), {until(made)}; keep it, it is not shown again")


@app.command("list")
def list_keys(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """All keys, the latest first; never the keys themselves."""
    with open_keys(data_dir) as store:
        found = store.all()
    at = time.time()
    if as_json:
        print_json([{**key.model_dump(mode="json"), "state": key.state(at)} for key in found])
        return
    rows = [(key.id, key.name, " ".join(key.scopes), key.state(at), when(key.created_at), until(key)) for key in found]
    print_table(("key", "name", "scopes", "state", "created", "valid"), rows)


@app.command()
def revoke(key: KeyId, data_dir: DataDir = None) -> None:
    """End a key at once. The service goes on to ask for keys."""
    with open_keys(data_dir) as store:
        store.revoke(key)
    print_note(f"{key} is revoked")


@app.command()
def delete(key: KeyId, data_dir: DataDir = None) -> None:
    """Forget a revoked or expired key. Without any key the service is open again, on loopback addresses only."""
    with open_keys(data_dir) as store:
        store.delete(key)
        left = store.any()
    print_note(f"{key} is deleted" + ("" if left else "; the service asks for no key any more"))


def until(key: "ApiKey") -> str:
    return "forever" if key.expires_at is None else f"until {when(key.expires_at)}"


@contextmanager
def open_keys(data_dir: Path | None) -> "Iterator[KeyStore]":
    """The table of keys in the data folder, or in the database of the settings; made where there is none."""
    from ups_server.access.keys import KeyStore
    from ups_server.jobs.database import open_database

    settings = settings_of(data_dir)
    database = open_database(settings.data_dir, settings.database)
    try:
        yield KeyStore(database)
    finally:
        database.close()
