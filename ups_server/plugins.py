"""What other packages add to this one: the entry points that they register in its groups.

A package names what it brings in its `pyproject.toml`, and is installed beside this one:

    [project.entry-points."ups_server.families"]
    heat = "my_package.heat:Heat"

Names of this installation come first: an entry point of the same name is left out, and the log says so.
"""

import logging
from collections.abc import Collection
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ups_server.errors import UserError

logger = logging.getLogger(__name__)


@cache
def plugins(group: str, taken: Collection[str] = frozenset()) -> dict[str, EntryPoint]:
    """The entry points of a group by name, in the order of names; they are looked up once in a process.

    Args:
        taken: names that belong to this installation.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        if entry.name in taken or entry.name in found:
            logger.warning("left out: %s of %s, whose name is taken", entry.name, origin(entry))
        else:
            found[entry.name] = entry
    return found


def load_plugin(entry: EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        UserError: ``broken_plugin`` where importing it fails.
    """
    try:
        return entry.load()
    except Exception as error:
        raise broken_plugin(entry, f"{type(error).__name__}: {error}") from error


def broken_plugin(entry: EntryPoint, got: object, expected: str | None = None) -> UserError:
    """What is wrong with what an entry point names."""
    return UserError(
        "broken_plugin",
        f"{entry.name} of the package {origin(entry)} cannot be used",
        got=got,
        expected=expected,
        hint=f"{entry.group}: {entry.value}",
    )


def origin(entry: EntryPoint) -> str:
    """The package that brings it, and its version."""
    return "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
