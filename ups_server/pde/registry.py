"""The families this installation knows, in a fixed order."""

from functools import cache

from ups_server.errors import UserError
from ups_server.pde.family import Family


@cache
def families() -> dict[str, Family]:
    """All families by id."""
    from ups_server.pde.families import FAMILIES

    return {entry.id: entry for entry in FAMILIES}


def family(family_id: str) -> Family:
    """The family of that id.

    Raises:
        UserError: ``unknown_family``.
    """
    try:
        return families()[family_id]
    except KeyError:
        raise UserError(
            "unknown_family", f"there is no family {family_id!r}", got=family_id, expected=sorted(families())
        ) from None
