"""Writes `docs/reference.md`: every setting, route and command, from the code itself.

python -m tests.reference
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ups_server.api.app import create_app
from ups_server.api.openapi import METHODS
from ups_server.cli import app
from ups_server.settings import Settings

FILE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
BY_MACHINE = "by the machine"


def reference() -> str:
    """The whole page."""
    parts = ["# Reference", "Written by `make reference` from the code.", *settings(), *routes(), *commands()]
    return "\n\n".join(parts) + "\n"


def settings() -> Iterator[str]:
    yield "## Settings"
    yield (
        "Environment variables of `ups serve`; host, port and data folder also as options. The command line and the "
        "client further know `UPS_URL`, the address of a service, and `UPS_KEY`, an API key."
    )
    rows = [
        f"| `UPS_{name.upper()}` | {default(name, field)} | {cell(field.description)} |"
        for name, field in Settings.model_fields.items()
    ]
    yield "\n".join(["| variable | default | |", "|---|---|---|", *rows])


def default(name: str, field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return BY_MACHINE
    value = field.default
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def routes() -> Iterator[str]:
    document: dict[str, Any] = create_app(Settings()).openapi()
    yield "## Routes"
    yield "Bodies, answers and examples are in the OpenAPI document, `/openapi.json`. The page is at `/`."
    rows = ["| route | key | |", "|---|---|---|"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in METHODS:
                security = operation.get("security", [])
                scope = f"`{security[-1]['ApiKey'][0]}`" if security else "none"
                text = operation["description"].split("\n\n")[0]
                rows.append(f"| `{method.upper()} {path}` | {scope} | {cell(text)} |")
    yield "\n".join(rows)


def commands() -> Iterator[str]:
    yield "## Commands"
    yield "`ups COMMAND --help` says it at the terminal."
    for name, command in every_command("ups", typer.main.get_command(app)):
        yield f"### `{name}`"
        yield cell(command.help)
        rows = [
            f"| {cell(label(parameter))} | {cell(getattr(parameter, 'help', None))} |"
            for parameter in command.params
            if parameter.name != "help"
        ]
        if rows:
            yield "\n".join(["| | |", "|---|---|", *rows])


def every_command(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Commands that do something, by their full names."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, below in command.commands.items():
        yield from every_command(f"{name} {word}", below)


def label(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    return ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))


def cell(text: str | None) -> str:
    """Text as one line of a table."""
    return " ".join((text or "").split()).replace("|", "\\|")


def main() -> None:
    FILE.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
