"""Adaptation methods: how an operator is aligned with its language model; here by name, with their options.

Other packages add theirs by entry points of the group `ups_server.alignment`, each of which names a subclass of
`align.base.Alignment`. Imports no torch: what is offered can be asked without it.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from ups_server.errors import UserError
from ups_server.plugins import broken_plugin, load_plugin, plugins

if TYPE_CHECKING:
    from ups_server.align.base import Alignment

GROUP = "ups_server.alignment"
ORCA_SHARE, RECRAFT_SHARE, UPS_SHARE = 60 / (60 + 200), (60 + 4) / (60 + 4 + 200), 20 / (20 + 100)
"""Epochs of stage 1 over those of both stages: on PDEBench (RECRAFT, Appendix H, which has ORCA's too); of UPS."""
MONA_SHARE = 10 / (10 + 200)
"""Of MoNA, whose stage 1 is short, with ORCA's stage 2."""
OTHER_SHARE = 0.2
"""Of the methods of plug-ins."""


@dataclass(frozen=True)
class Offered:
    """A method of this package.

    Attributes:
        place: module and class.
        aligns, mixes, bilevel: as `Alignment` has them.
        share: of the steps, that its paper spends in stage 1.
        alone: does its paper train the embedder by the distance alone in stage 1, without the task loss?
        options: what may be chosen, by name; the first value of each is the default, and its paper's.
        only: options that mean something with one value of another option only, and which.
    """

    place: str
    aligns: bool = False
    mixes: bool = False
    bilevel: bool = False
    share: float = 0.0
    alone: bool = False
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    only: Mapping[str, tuple[str, str]] = field(default_factory=dict)


_BUILTIN: dict[str, Offered] = {
    "none": Offered("base:NoAlignment"),
    "euclidean": Offered("distances:EuclideanAlignment", aligns=True, share=ORCA_SHARE, alone=True),
    "mmd": Offered("distances:MMDAlignment", aligns=True, share=UPS_SHARE),
    "otdd": Offered(
        "distances:OTDDAlignment",
        aligns=True,
        share=ORCA_SHARE,
        alone=True,
        options={"label_cost": ("gaussian", "transport")},
    ),
    "recraft": Offered(
        "recraft:RecraftAlignment",
        aligns=True,
        share=RECRAFT_SHARE,
        alone=True,
        options={"terms": ("both", "fa", "fld")},
    ),
    "mona": Offered("mona:ModalityKnowledge", aligns=True, bilevel=True, share=MONA_SHARE),
    "pare": Offered(
        "pare:PatchReplacement",
        mixes=True,
        options={
            "mix": ("replacement", "random", "mixup", "cutmix"),
            "schedule": ("linear", "piecewise", "exponential", "constant", "random"),
            "gate": ("linear", "mlp", "dropout"),
        },
        only={"gate": ("mix", "replacement")},
    ),
}


class Alignments(Mapping[str, "Callable[..., Alignment]"]):
    """What makes each method, by name, given its options: those of this package, then those of plug-ins."""

    def __getitem__(self, name: str) -> "Callable[..., Alignment]":
        if name in _BUILTIN:
            module, _, kind = _BUILTIN[name].place.partition(":")
            return lambda **options: getattr(import_module(f"ups_server.align.{module}"), kind)(**options)
        entry = _added()[name]
        return lambda: _class_of(entry)()

    def __iter__(self) -> Iterator[str]:
        return iter([*_BUILTIN, *_added()])

    def __len__(self) -> int:
        return len(_BUILTIN) + len(_added())


ALIGNMENTS = Alignments()


def aligns(name: str) -> bool:
    """Has the method a stage of its own before tuning?"""
    return _BUILTIN[name].aligns if name in _BUILTIN else name in _added() and _class_of(_added()[name]).aligns


def mixes(name: str) -> bool:
    """Does the method mix text into the tokens during tuning?"""
    return _BUILTIN[name].mixes if name in _BUILTIN else name in _added() and _class_of(_added()[name]).mixes


def reads_twice(name: str) -> bool:
    """Does a step of the method have a loss of its own on the batch, with a graph of its own beside the task's? Such a
    batch is not shared among processes.
    """
    if name in _BUILTIN:
        return _BUILTIN[name].mixes or _BUILTIN[name].bilevel
    found = _class_of(_added()[name]) if name in _added() else None
    return found is not None and (found.mixes or found.bilevel)


def alignment_share(name: str) -> float:
    """The part of all steps that goes into stage 1, in the ratio of the method's paper."""
    if not aligns(name):
        return 0.0
    return _BUILTIN[name].share if name in _BUILTIN else OTHER_SHARE


def alone(name: str) -> bool:
    """Is the embedder trained by the distance alone in stage 1?"""
    return name in _BUILTIN and _BUILTIN[name].alone


def check_options(name: str, options: Mapping[str, str]) -> None:
    """Raises UserError ``alignment_option_not_offered``, ``alignment_option_unused``."""
    offered = _BUILTIN[name].options if name in _BUILTIN else {}
    for option, value in options.items():
        if value not in offered.get(option, ()):
            raise UserError(
                "alignment_option_not_offered",
                f"the alignment {name} has no such option",
                got={option: value},
                expected={option: list(values) for option, values in offered.items()},
            )
    for option, (other, needed) in (_BUILTIN[name].only if name in _BUILTIN else {}).items():
        chosen = options.get(other, offered[other][0])
        if option in options and chosen != needed:
            raise UserError(
                "alignment_option_unused",
                f"with {other}={chosen} the option {option} of {name} has nothing to act on",
                got={option: options[option], other: chosen},
                expected=f"{other}={needed}, or no {option}",
            )


def _added() -> dict[str, EntryPoint]:
    return plugins(GROUP, frozenset(_BUILTIN))


def _class_of(entry: EntryPoint) -> "type[Alignment]":
    """Raises UserError ``broken_plugin``."""
    from ups_server.align.base import Alignment

    found = load_plugin(entry)
    if not (isinstance(found, type) and issubclass(found, Alignment)) or inspect.isabstract(found):
        raise broken_plugin(entry, repr(found), "a complete subclass of ups_server.align.base.Alignment")
    return found
