"""A mapping as it is proposed: its entries, how sure each is, and why; where the points of an axis may lie."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from ups_server.data.containers import Container

Sure = Literal["certain", "likely", "guess"]
"""`certain`: the file or its collection says so; `likely`: names or numbers fit nothing else; `guess`: look at it."""

SLOT_WORDS: tuple[tuple[int, frozenset[str]], ...] = (
    (0, frozenset({"vx", "u", "velocity_x", "vel_x", "ux"})),
    (1, frozenset({"vy", "v", "velocity_y", "vel_y", "uy"})),
    (2, frozenset({"density", "rho", "tracer", "smoke", "particles", "height", "h", "buoyancy", "s", "c"})),
    (3, frozenset({"pressure", "p", "pres"})),
)
"""Slot of the models -> what fields that usually stand there are called."""


@dataclass(frozen=True)
class Finding:
    """One entry of the mapping, such as `space.x`."""

    entry: str
    sure: Sure
    why: str


@dataclass
class Draft:
    """A mapping in the making, as plain values."""

    document: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def say(self, entry: str, value: Any, sure: Sure, why: str) -> None:
        """Sets an entry; `fields` and `static_fields` are lists, to which `fields.NAME` adds."""
        section, _, name = entry.partition(".")
        if section in ("fields", "static_fields"):
            self.document.setdefault(section, []).append(value)
        elif name:
            self.document.setdefault(section, {})[name] = value
        else:
            self.document[section] = value
        self.findings.append(Finding(entry, sure, why))

    def leave_out(self, section: str) -> None:
        """Takes back what was said of a section."""
        self.document.pop(section, None)
        self.findings = [finding for finding in self.findings if finding.entry.partition(".")[0] != section]

    def equation(self, name: str, why: str) -> None:
        """An equation of the user's own, whose text is to be written."""
        words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:60] or "equation"
        identity = words if re.match(r"^[a-z].", words) else f"my_{words}"
        text = "unknown: write the equation here"
        self.say("equation", {"id": identity, "name": name[:128], "equation": text}, "guess", why)

    def place(self, names: list[str]) -> dict[str, int]:
        """Field -> slot: by its name where that is free, else the first that is left."""
        placed: dict[str, int] = {}
        for name in names:
            wanted = next((slot for slot, words in SLOT_WORDS if name.lower() in words), None)
            if wanted is not None and wanted not in placed.values():
                placed[name] = wanted
        for name in names:
            if name not in placed:
                placed[name] = next(slot for slot in range(len(names) + 4) if slot not in placed.values())
        return placed


ORDER = (
    "family",
    "equation",
    "fields",
    "static_fields",
    "axes",
    "time",
    "space",
    "boundary",
    "coefficients",
    "segments",
)


def as_yaml(draft: Draft, title: str) -> str:
    """The mapping as YAML to be edited, with what is known about each entry above it."""
    parts = [f"# {title}\n"]
    for section in ORDER:
        if section not in draft.document:
            continue
        for finding in draft.findings:
            if finding.entry.partition(".")[0] == section:
                parts.append(f"# {finding.sure}: {finding.entry}: {finding.why}\n")
        parts.append(_section(section, draft.document[section]))
    return "".join(parts)


class _Plain(yaml.SafeDumper):
    """Without aliases, which nobody wants to edit and an upload does not take."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _section(name: str, value: Any) -> str:
    def flow(entry: Any) -> str:
        text = yaml.dump(entry, Dumper=_Plain, default_flow_style=True, sort_keys=False, width=10**6)
        return str(text).strip().removesuffix("\n...")

    if isinstance(value, dict):
        return f"{name}:\n" + "".join(f"  {key}: {flow(entry)}\n" for key, entry in value.items())
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{name}:\n" + "".join(f"  - {flow(entry)}\n" for entry in value)
    return f"{name}: {flow(value)}\n"


def safe_name(name: str) -> str:
    """A field's or coefficient's name that a mapping takes."""
    word = re.sub(r"[^A-Za-z0-9_]+", "_", name.rpartition("/")[2]).strip("_")[:32]
    return word if re.match(r"[A-Za-z]", word) else f"f_{word}"[:32]


@dataclass(frozen=True)
class Layout:
    """The files of a collection.

    Attributes:
        name: of the collection, as a sentence says it.
        matches: are these its arrays?
        propose: the mapping of such a file (its name without suffix is given).
    """

    name: str
    matches: Callable[[Container], bool]
    propose: Callable[[Container, str], Draft]


def placement(values: NDArray[np.float64], periodic: bool | None) -> tuple[str, Sure, str]:
    """(`cells`, `nodes` or `ends`; how sure; why): the box whose ends are the rounder numbers.

    Args:
        periodic: whether the axis wraps around; None where that is not known.
    """
    if len(values) < 2:
        return "cells", "guess", "one point says nothing about where it lies"
    step = (values[-1] - values[0]) / (len(values) - 1)
    boxes = {
        "ends": (values[0], values[-1]),
        "nodes": (values[0], values[-1] + step),
        "cells": (values[0] - step / 2, values[-1] + step / 2),
    }
    if periodic:
        boxes = {"nodes": boxes["nodes"], "cells": boxes["cells"], "ends": boxes["ends"]}
    digits = {name: _digits(low, step) + _digits(high, step) for name, (low, high) in boxes.items()}
    best = min(boxes, key=lambda name: digits[name])
    low, high = boxes[best]
    said = f"{len(values)} points from {values[0]:.6g} to {values[-1]:.6g} make the box [{low:.6g}, {high:.6g}]"
    clear = sorted(digits.values())[1] - digits[best] >= 2
    return best, "likely" if clear else "guess", said + ("" if clear else "; others are as round")


def _digits(value: float, step: float) -> int:
    """Significant decimal digits of a number, multiples of pi counting as round; 0: it is zero; 6: none is exact."""
    if abs(value) < 1e-3 * abs(step):
        return 0
    for scale in (1.0, np.pi):
        for digits in range(1, 6):
            if abs(float(f"{value / scale:.{digits - 1}e}") - value / scale) * scale < 1e-3 * abs(step):
                return digits
    return 6
