"""The alignment methods by name. Imports no torch: what is offered can be asked without it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ups_server.align.base import Alignment


def _none() -> "Alignment":
    from ups_server.align.base import NoAlignment

    return NoAlignment()


def _mmd() -> "Alignment":
    from ups_server.align.mmd import MMDAlignment

    return MMDAlignment()


ALIGNMENTS: "dict[str, Callable[[], Alignment]]" = {"none": _none, "mmd": _mmd}
