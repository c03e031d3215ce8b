"""The reference, from the code itself: settings, routes and commands, every route in detail, the Python client.

`docs/reference.md` is written by

    python -m docs.generate.reference

and the site makes the detailed pages whenever it is built.
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import ups_server.client
from ups_server.api.app import create_app
from ups_server.api.openapi import METHODS
from ups_server.cli import app
from ups_server.client import AsyncClient, Client, Document
from ups_server.settings import Settings

FILE = Path(__file__).resolve().parent.parent / "reference.md"
LONGEST_EXAMPLE = 1500
"""Characters; a longer body is left to the OpenAPI document."""
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
    if value in (None, (), ""):
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


def http() -> str:
    """The page of every route in detail, and of the documents that go over the wire."""
    document: dict[str, Any] = create_app(Settings()).openapi()
    schemas = document["components"]["schemas"]
    parts = ["# HTTP in detail", "Made from the OpenAPI document, which a running service has at `/openapi.json`."]
    tags: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in METHODS:
                tag = (operation.get("tags") or ["service"])[0]
                tags.setdefault(tag, []).extend(route(f"{method.upper()} {path}", operation))
    for tag, described in tags.items():
        parts += [f"## {tag.capitalize()}", *described]
    parts += ["## Documents", "What bodies and answers hold."]
    for name, schema in sorted(schemas.items()):
        parts += [f"### {name} {{ #{anchor(name)} }}", cell(schema.get("description")), fields(schema)]
    return "\n\n".join(part for part in parts if part) + "\n"


def route(name: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{name}`"
    yield re.sub(r"(?<!\n)\n(?!\n)", " ", operation["description"])
    given = [
        f"| `{entry['name']}` | {entry['in']} | {kind(entry['schema'])} | {cell(entry.get('description'))} |"
        for entry in operation.get("parameters", ())
    ]
    if given:
        yield "\n".join(["| parameter | in | | |", "|---|---|---|---|", *given])
    body = operation.get("requestBody", {}).get("content", {})
    if body:
        yield "Body: " + "; ".join(
            f"`{media}` {kind(entry.get('schema', {}))}".strip() for media, entry in body.items()
        )
    yield "\n".join(
        [
            "| status | | |",
            "|---|---|---|",
            *(
                f"| {status} | {cell(answer.get('description'))} | {', '.join(answer_kinds(answer))} |"
                for status, answer in sorted(operation["responses"].items())
            ),
        ]
    )
    for media, entry in (*body.items(), *next(iter(operation["responses"].values())).get("content", {}).items()):
        text = json.dumps(entry.get("example"), indent=2, ensure_ascii=False)
        if "example" in entry and len(text) <= LONGEST_EXAMPLE:
            yield f"An example, `{media}`:\n\n```json\n{text}\n```"


def answer_kinds(answer: Mapping[str, Any]) -> list[str]:
    """What an answer can be: links to documents, media types of everything else."""
    found = (
        kind(entry["schema"]) if "$ref" in entry.get("schema", {}) else f"`{media}`"
        for media, entry in answer.get("content", {}).items()
    )
    return list(dict.fromkeys(found))


def fields(schema: Mapping[str, Any]) -> str:
    """The table of an object's entries, or the values of anything else."""
    if "properties" not in schema:
        return kind({key: value for key, value in schema.items() if key != "title"})
    required = schema.get("required", ())
    rows = [
        f"| `{name}` | {kind(entry)}{', required' if name in required else ''} | {cell(entry.get('description'))} |"
        for name, entry in schema["properties"].items()
    ]
    return "\n".join(["| entry | | |", "|---|---|---|", *rows])


def kind(schema: Mapping[str, Any]) -> str:
    """A schema in words, documents as links."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{anchor(name)})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    several = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if several:
        return " or ".join(dict.fromkeys(kind(entry) for entry in several))
    if schema.get("type") == "array":
        return f"array of {kind(schema['items'])}" if schema.get("items") else "array"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {kind(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def anchor(name: str) -> str:
    return f"document-{name.lower()}"


def python() -> str:
    """The page of the Python client: its methods, and the documents that they return."""
    parts = [
        "# Python client",
        f"From `ups_server.client`. {paragraph(ups_server.client.__doc__)}",
        "Every method is there twice: as written here of `Client`, and to be awaited of `AsyncClient` "
        "(`async for` over the steps of `stream`, the events of `stream_events` and `follow`, which come one by one).",
    ]
    for owner in (Client, AsyncClient):
        parts += [f"## {owner.__name__}", signature(owner.__name__, owner), *documented(owner)]
        if owner is Client:
            for name, method in vars(Client).items():
                if not name.startswith("_") and callable(method):
                    parts += [f"### `{name}`", signature(name, method), *documented(method)]
    parts += ["## What methods return"]
    for name in ups_server.client.__all__:
        value = getattr(ups_server.client, name)
        if value in (Client, AsyncClient):
            continue
        parts += [f"### `{name}`", *documented(value)]
        entries = [
            entry
            for entry in (getattr(value, "_fields", None) or vars(value))
            if not entry.startswith("_") and entry not in ("facts", "report", "problem")
        ]
        properties = [entry for entry in ("report", "problem") if isinstance(vars(value).get(entry), property)]
        if entries or properties:
            parts.append("Attributes: " + ", ".join(f"`{entry}`" for entry in (*entries, *properties)) + ".")
        if issubclass(value, Document) and value is not Document:
            parts.append("It is a dictionary with all entries of the JSON document.")
    return "\n\n".join(part for part in parts if part) + "\n"


def signature(name: str, value: Any) -> str:
    """A call with its arguments, one a line where there are several, and what it returns."""
    found = inspect.signature(value)
    given = [str(entry) for entry in found.parameters.values() if entry.name != "self"]
    named = [entry for entry in found.parameters.values() if entry.kind is inspect.Parameter.KEYWORD_ONLY]
    if named:
        given.insert(len(given) - len(named), "*")
    arguments = ", ".join(given) if len(given) < 3 else "".join(f"\n    {entry}," for entry in given) + "\n"
    returned = "" if inspect.isclass(value) else f" -> {plain(found.return_annotation)}".replace("NoneType", "None")
    return f"```text\n{name}({plain(arguments)}){returned}\n```"


def plain(annotation: Any) -> str:
    """An annotation without the modules of its types."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", text)


def documented(value: Any) -> Iterator[str]:
    """A docstring as Markdown: its sections as lists."""
    for part in (inspect.getdoc(value) or "").split("\n\n"):
        title, _, body = part.partition("\n")
        if title not in ("Args:", "Raises:", "Attributes:"):
            yield part.replace("``", "`")
            continue
        entries = re.split(r"\n(?=\S)", inspect.cleandoc(body))
        lines = [re.sub(r"^(\w+): ", r"`\1`: ", paragraph(entry)) for entry in entries]
        yield f"{title}\n\n" + "\n".join(f"- {line}" for line in lines)


def paragraph(text: str | None) -> str:
    """Text as one line, with the quotes of Markdown."""
    return " ".join((text or "").split()).replace("``", "`")


def main() -> None:
    FILE.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
