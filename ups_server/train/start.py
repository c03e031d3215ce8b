"""Where an adaptation starts from: the weights of a model, or a new embedder and head around a language model.

A fresh start is what the papers on cross-modal fine-tuning do: of what is pretrained only the body is taken, and every
step leads through it. Imports no torch: a request is checked before anything is loaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ups_server.align import aligns, mixes
from ups_server.errors import UserError
from ups_server.language.pretrained import installed_folder
from ups_server.model.config import UPS_PAPER, ReadingConfig, SuperspaceConfig, UPSConfig

Start = Literal["model", "lm", "random"]
"""The weights of a model; the pretrained language model; as a control, random weights in its place."""
Embedder = Literal["fno", "patch"]
"""Of a fresh start, with its head: that of UPS, or that of ORCA."""
FRESH: tuple[Start, ...] = ("lm", "random")
FRESH_TUNINGS = ("full", "operator", "layernorm", "prefix")
"""What may change after a fresh start: more than a part of what is new, since nothing new is of use as it is."""
OPERATORS = {"fno": "paper", "patch": "patch"}
LARGEST = 2
"""Axes at most."""
DEFAULT_TUNING, FRESH_TUNING = "operator", "full"


def with_tuning(document: Any) -> Any:
    """What was asked for, with the tuning that its start has where none was given."""
    if not isinstance(document, Mapping) or document.get("tuning") is not None:
        return document
    start = document.get("from", document.get("start"))
    return {**document, "tuning": FRESH_TUNING if start in FRESH else DEFAULT_TUNING}


def check_start(start: Start, alignment: str, tuning: str, embedder: str | None, layers: int | None) -> None:
    """Do what is started from and what is done to it belong together?

    Raises:
        UserError: ``start_mismatch``, ``language_model_missing``.
    """
    if start not in FRESH:
        for name, value in (("embedder", embedder), ("body_layers", layers)):
            if value is not None:
                raise UserError(
                    "start_mismatch",
                    f"{name} is that of a fresh start; a model has its own",
                    got={name: value, "from": start},
                    hint='start from "lm", or leave it out',
                )
        return
    if tuning not in FRESH_TUNINGS:
        raise UserError(
            "start_mismatch",
            "embedder and head of a fresh start are new: all of them has to be tuned",
            got={"tuning": tuning, "from": start},
            expected=list(FRESH_TUNINGS),
        )
    if start == "random" and (aligns(alignment) or mixes(alignment)):
        raise UserError(
            "start_mismatch",
            "a language model of random weights has read nothing that states could be aligned with",
            got={"alignment": alignment, "from": start},
            expected="none",
        )
    installed_folder()


def unused_model(model: str) -> str:
    """The warning where a model is named beside a fresh start."""
    return f"nothing of {model} is used: a fresh start has a new embedder and head around a language model"


def fresh_config(
    name: str,
    embedder: Embedder,
    points: int,
    ndim: int,
    slots: Sequence[int],
    static_fields: int,
    layers: int | None = None,
) -> UPSConfig:
    """The architecture around the language model for one family: `ups-paper` in the dimensions of the family.

    Args:
        points: along the first axis of the trajectories; the weights are of as many at most as `ups-paper` has.
        layers: of the language model that are kept; default all.
    """
    tokens = UPS_PAPER.reading.tokens
    return UPS_PAPER.changed(
        name=name,
        operator=OPERATORS[embedder],
        resolution=min(UPS_PAPER.resolution, points),
        superspace=SuperspaceConfig(
            slots=max(UPS_PAPER.superspace.slots, 1 + max(slots)),
            max_dimensions=min(ndim, LARGEST),
            static_slots=max(UPS_PAPER.superspace.static_slots, static_fields),
        ),
        reading=ReadingConfig(tokens=2 * tokens if embedder == "patch" and ndim > 1 else tokens, layers=layers or 0),
    )
