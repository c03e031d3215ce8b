"""The PDE families that this process knows, by id.

A family is one file in `pde.families`: every subclass of `Family` that is defined there with an `id` is one. Other
packages add theirs by entry points of the group `ups_server.families`, each of which names such a subclass. Some
families are known from files only (`UnsolvedFamily`): they can be read, checked, drawn and converted. So can the
equations of users' files, which are added while the process runs.
"""

import importlib
import inspect
import logging
import pkgutil
from collections.abc import Iterator
from functools import cache

from ups_server.errors import UserError
from ups_server.pde.family import Family, UnsolvedFamily
from ups_server.plugins import broken_plugin, load_plugin, plugins

GROUP = "ups_server.families"

logger = logging.getLogger(__name__)

_user_families: dict[str, Family] = {}


@cache
def families() -> dict[str, Family]:
    """The families of this installation that have a solver, by id: in the order of their dimensions and ids."""
    return {entry.id: entry for entry in _installed().values() if not isinstance(entry, UnsolvedFamily)}


def known_families() -> dict[str, Family]:
    """All families whose files can be read: those without a solver, those of users' files, those with one."""
    unsolved = {key: entry for key, entry in _installed().items() if isinstance(entry, UnsolvedFamily)}
    return unsolved | _user_families | families()


def user_families() -> dict[str, Family]:
    """The equations of users' files that this process knows."""
    return dict(_user_families)


def family(family_id: str) -> Family:
    """The family of that id: one with a solver, or one of a user's file.

    Raises:
        UserError: ``unknown_family``.
    """
    try:
        return (_user_families | families())[family_id]
    except KeyError:
        raise _unknown(family_id) from None


def known_family(family_id: str) -> Family:
    """The family of that id, with or without a solver.

    Raises:
        UserError: ``unknown_family``.
    """
    known = known_families()
    return known[family_id] if family_id in known else family(family_id)


def add_user_family(entry: Family) -> None:
    """Makes the equation of a user's file known to this process, in place of an earlier one of the same id.

    Raises:
        UserError: ``family_exists``: that id belongs to an equation of this installation.
    """
    if is_installed(entry.id):
        raise UserError("family_exists", f"{entry.id} is a family of this installation", hint="choose another id")
    _user_families[entry.id] = entry


def is_installed(family_id: str) -> bool:
    """Is this the id of an equation of this installation?"""
    return family_id in _installed() or family_id in families()


@cache
def _installed() -> dict[str, Family]:
    found = {entry.id: entry for entry in _of_this_package()}
    for entry in _of_plugins():
        if entry.id in found:
            logger.warning("left out: the family %s of a plug-in, whose id is taken", entry.id)
        else:
            found[entry.id] = entry
    return dict(sorted(found.items(), key=lambda item: (item[1].ndim, item[0])))


def _of_this_package() -> Iterator[Family]:
    package = importlib.import_module("ups_server.pde.families")
    for place in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(place.name)
        for defined in vars(module).values():
            if is_family(defined) and defined.__module__ == module.__name__:
                yield defined()


def _of_plugins() -> Iterator[Family]:
    """Those that can be used; the log says what is wrong with the others."""
    for entry in plugins(GROUP).values():
        try:
            found = load_plugin(entry)
            if not is_family(found):
                raise broken_plugin(entry, repr(found), "a subclass of ups_server.pde.Family with an id")
            yield found()
        except UserError as error:
            logger.warning("left out: %s", error)


def is_family(found: object) -> bool:
    """Is it a class of a family, complete and with an id?"""
    return (
        inspect.isclass(found) and issubclass(found, Family) and not inspect.isabstract(found) and hasattr(found, "id")
    )


def _unknown(family_id: str) -> UserError:
    message, hint = f"there is no family {family_id!r}", None
    if (entry := _installed().get(family_id)) is not None:
        reason = "solvers and models have at most 2 dimensions" if entry.ndim > 2 else "it has no solver here"
        message = f"{family_id} is known from files only: {reason}"
        hint = "its files can be checked and converted"
    return UserError("unknown_family", message, got=family_id, expected=sorted(families()), hint=hint)
