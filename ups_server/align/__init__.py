"""Adaptation methods: how an operator is aligned with its language model; here by name.

Other packages add theirs by entry points of the group `ups_server.alignment`, each of which names a subclass of
`align.base.Alignment`. Imports no torch: what is offered can be asked without it.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from ups_server.plugins import broken_plugin, load_plugin, plugins

if TYPE_CHECKING:
    from ups_server.align.base import Alignment

GROUP = "ups_server.alignment"


def _none() -> "Alignment":
    from ups_server.align.base import NoAlignment

    return NoAlignment()


def _mmd() -> "Alignment":
    from ups_server.align.distances import MMDAlignment

    return MMDAlignment()


def _otdd() -> "Alignment":
    from ups_server.align.distances import OTDDAlignment

    return OTDDAlignment()


def _recraft() -> "Alignment":
    from ups_server.align.recraft import RecraftAlignment

    return RecraftAlignment()


def _pare() -> "Alignment":
    from ups_server.align.pare import PatchReplacement

    return PatchReplacement()


_BUILTIN: "dict[str, Callable[[], Alignment]]" = {
    "none": _none,
    "mmd": _mmd,
    "otdd": _otdd,
    "recraft": _recraft,
    "pare": _pare,
}
_STAGE_1 = ("mmd", "otdd", "recraft")
_MIXING = ("pare",)


class Alignments(Mapping[str, "Callable[[], Alignment]"]):
    """What makes each method, by name: those of this package, then those of plug-ins."""

    def __getitem__(self, name: str) -> "Callable[[], Alignment]":
        if name in _BUILTIN:
            return _BUILTIN[name]
        entry = _added()[name]
        return lambda: _class_of(entry)()

    def __iter__(self) -> Iterator[str]:
        return iter([*_BUILTIN, *_added()])

    def __len__(self) -> int:
        return len(_BUILTIN) + len(_added())


ALIGNMENTS = Alignments()


def aligns(name: str) -> bool:
    """Has the method a stage of its own before tuning?"""
    return name in _STAGE_1 or (name in _added() and _class_of(_added()[name]).aligns)


def mixes(name: str) -> bool:
    """Does the method mix text into the tokens during tuning?"""
    return name in _MIXING or (name in _added() and _class_of(_added()[name]).mixes)


def _added() -> dict[str, EntryPoint]:
    return plugins(GROUP, frozenset(_BUILTIN))


def _class_of(entry: EntryPoint) -> "type[Alignment]":
    """Raises UserError ``broken_plugin``."""
    from ups_server.align.base import Alignment

    found = load_plugin(entry)
    if not (isinstance(found, type) and issubclass(found, Alignment)) or inspect.isabstract(found):
        raise broken_plugin(entry, repr(found), "a complete subclass of ups_server.align.base.Alignment")
    return found
