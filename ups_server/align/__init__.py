"""Adaptation methods: how an operator is aligned with its language model; here by name.

Imports no torch: what is offered can be asked without it.
"""

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


def _otdd() -> "Alignment":
    from ups_server.align.otdd import OTDDAlignment

    return OTDDAlignment()


def _recraft() -> "Alignment":
    from ups_server.align.recraft import RecraftAlignment

    return RecraftAlignment()


def _pare() -> "Alignment":
    from ups_server.align.pare import PatchReplacement

    return PatchReplacement()


ALIGNMENTS: "dict[str, Callable[[], Alignment]]" = {
    "none": _none,
    "mmd": _mmd,
    "otdd": _otdd,
    "recraft": _recraft,
    "pare": _pare,
}

STAGE_1 = ("mmd", "otdd", "recraft")
"""Methods that have a stage of their own before tuning."""
MIXING = ("pare",)
"""Methods that mix text into the tokens during tuning."""
