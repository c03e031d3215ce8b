"""The families this installation knows, in a fixed order."""

from functools import cache

from ups_server.errors import UserError
from ups_server.pde.family import Family


@cache
def families() -> dict[str, Family]:
    """All families by id."""
    from ups_server.pde.families import FAMILIES

    return {entry.id: entry for entry in FAMILIES}


_declared: dict[str, Family] = {}


def declare(entry: Family) -> None:
    """Make an equation of a user's known to this process (see `described.declare`)."""
    _declared[entry.id] = entry


def declared() -> dict[str, Family]:
    """Equations of users' files that this process knows, by id."""
    return dict(_declared)


def family(family_id: str) -> Family:
    """The family of that id; an equation that was declared in this process counts.

    Raises:
        UserError: ``unknown_family``.
    """
    try:
        return (_declared | families())[family_id]
    except KeyError:
        raise _unknown(family_id) from None


def _unknown(family_id: str) -> UserError:
    from ups_server.pde.described import DESCRIBED

    message, hint = f"there is no family {family_id!r}", None
    for entry in DESCRIBED:
        if entry.id == family_id:
            reason = "solvers and models have at most 2 dimensions" if entry.ndim > 2 else "it has no solver here"
            message = f"{family_id} is known from files only: {reason}"
            hint = "its files can be checked and converted"
    return UserError("unknown_family", message, got=family_id, expected=sorted(families()), hint=hint)
