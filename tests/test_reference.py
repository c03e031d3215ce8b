"""The reference is current, and nothing in it is left unsaid."""

import pytest
import typer

from docs.generate.reference import FILE, every_command, reference
from ups_server.cli import app
from ups_server.settings import Settings


def test_the_reference_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == reference(), "run: make reference"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_it(name: str) -> None:
    assert f"`UPS_{name.upper()}`" in FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "command"), list(every_command("ups", typer.main.get_command(app))))
def test_every_command_and_option_is_described(name: str, command: object) -> None:
    assert getattr(command, "help", None), name
    for parameter in getattr(command, "params", ()):
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"
