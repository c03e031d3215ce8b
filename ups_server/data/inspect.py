"""What is in a file whose arrays may mean anything, and a mapping that is proposed for it.

Each entry of the proposal says how sure it is and why: nothing of it is used until somebody hands it back.
"""

import re
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ups_server.data.containers import Container, StoredArray, open_container
from ups_server.data.containers.base import stacked
from ups_server.data.formats import matching
from ups_server.data.layouts.draft import Draft, Finding, Sure, as_yaml, placement, safe_name
from ups_server.data.layouts.published import layouts
from ups_server.data.mapping import equal_steps, line_of
from ups_server.errors import UserError

FROZEN = ConfigDict(frozen=True, extra="forbid")
TIMES = {"t", "time", "times", "tt", "tspan", "t-coordinate", "t_coordinate", "tsave", "tgrid", "t_grid", "grid_t"}
TIME_STEPS = {"dt", "delta_t", "deltat", "time_step", "timestep", "tstep", "t_step"}
SPACINGS = {axis: {f"d{axis}", f"delta_{axis}", f"delta{axis}", f"h{axis}"} for axis in "xyz"}
COORDINATES = {
    axis: {
        axis,
        f"{axis}{axis}",
        f"{axis}-coordinate",
        f"{axis}_coordinate",
        f"{axis}s",
        f"grid_{axis}",
        f"{axis}grid",
        f"{axis}_grid",
    }
    for axis in "xyz"
}
MOST_COMPONENTS = 5
LISTED = 256
LOOKED_AT = 64
"""Files of a data set whose arrays are looked at: the rest is read when it is used."""
SEGMENTS, FEWEST_FRAMES = 5, 8
"""Pieces that a single trajectory is cut into, and frames that each must have at least."""
SAMPLED = 2**22
"""Values that are read to see what the ends of an axis do."""


class ArrayReport(BaseModel):
    """An array of a file."""

    model_config = FROZEN

    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...] = ()


class FindingReport(BaseModel):
    """Why an entry of the mapping is proposed: `certain`, `likely`, or a `guess`."""

    model_config = FROZEN

    entry: str
    sure: Sure
    why: str


class Inspection(BaseModel):
    """What was found.

    Attributes:
        kind: of the file.
        layout: the collection whose layout it is; None where nothing says so.
        mapping: what is proposed, None where no array can be trajectories; `yaml` is the same, to be edited.
    """

    model_config = FROZEN

    file: str
    kind: str
    layout: str | None
    arrays: tuple[ArrayReport, ...]
    attributes: dict[str, Any]
    mapping: dict[str, Any] | None
    findings: tuple[FindingReport, ...]
    yaml: str | None


def inspect(path: Path) -> Inspection:
    """Look at a file's arrays and propose what they mean; reads coordinates and a few values only.

    A pattern such as `shock_*.mat`, or a folder of files, is looked at as one data set.

    Raises:
        UserError: where it is of no format that is read.
    """
    return inspect_all(matching(path) or [path], path.name)


def inspect_all(paths: Sequence[Path], name: str) -> Inspection:
    """As `inspect`, of files that are one data set, or of one: the arrays of the first, which the others have too.

    Args:
        name: what their user calls them.

    Raises:
        UserError: as `inspect`; ``ragged`` where another of the files lacks an array that the mapping names.
    """
    with closing(open_container(paths[0])) as container:
        found = inspect_open(container, name, len(paths))
    for path in paths[1:LOOKED_AT]:
        with closing(open_container(path)) as container:
            for array in sorted(_named_arrays(found.mapping)):
                if "*" not in array and array not in container.arrays:
                    raise UserError(
                        "ragged",
                        f"{path.name} has no array {array}, which {paths[0].name} has",
                        got=list(container.arrays)[:32],
                        hint="files of one data set hold the same arrays",
                    )
    return found


def _named_arrays(document: Any) -> set[str]:
    """The arrays that a mapping names."""
    if isinstance(document, list):
        return set().union(*map(_named_arrays, document))
    if not isinstance(document, dict):
        return set()
    own = {document["array"]} if isinstance(document.get("array"), str) else set()
    return own.union(*map(_named_arrays, document.values()))


def inspect_open(container: Container, name: str, files: int = 1) -> Inspection:
    """As `inspect_all`, of the first file, which is open; `files`: of the data set."""
    layout = next((entry for entry in layouts() if entry.matches(container)), None)
    stem = re.sub(r"\.[A-Za-z0-9]+$", "", name).replace("*", "").strip("_-. ") or "data"
    draft = _generic(container, stem) if layout is None else layout.propose(container, stem)
    title = f"{name}: {container.kind}" + (f" in the layout of {layout.name}" if layout is not None else "")
    if files > 1:
        title = f"{name}: {files} files, the first {container.kind}" + title.partition(container.kind)[2]
        if draft is not None:
            draft.leave_out("segments")  # whole trajectories of some files train, those of others are the test
    return Inspection(
        file=name,
        kind=container.kind,
        layout=None if layout is None else layout.name,
        arrays=tuple(
            ArrayReport(name=array.name, shape=array.shape, dtype=str(array.dtype), axes=array.axes)
            for array in list(container.arrays.values())[:LISTED]
        ),
        attributes=dict(container.attributes),
        mapping=None if draft is None else draft.document,
        findings=()
        if draft is None
        else tuple(FindingReport(entry=f.entry, sure=f.sure, why=f.why) for f in draft.findings),
        yaml=None if draft is None else as_yaml(draft, title),
    )


@dataclass(frozen=True)
class _Vector:
    """A list of increasing numbers, which may be an axis; `turned` where the file has a spatial one decreasing."""

    array: StoredArray
    values: NDArray[np.float64]
    axis: str | None
    turned: bool = False

    @classmethod
    def of(cls, array: StoredArray) -> "_Vector | None":
        word = array.name.rpartition("/")[2].lower()
        found = ["time"] * (word in TIMES) + [axis for axis, words in COORDINATES.items() if word in words]
        sizes = [n for n in array.shape if n != 1]
        if not sizes or (len(sizes) > 1 and not found) or not array.numeric or not 1 < array.size <= 2**20:
            return None
        try:
            values = line_of(array.whole())
        except UserError:
            return None
        if values is None or not np.isfinite(values).all():
            return None
        turned = bool(found and found[0] != "time" and values[0] > values[-1])
        values = values[::-1] if turned else values
        return None if (np.diff(values) <= 0).any() else cls(array, values, found[0] if found else None, turned)


def _generic(container: Container, stem: str) -> Draft | None:
    """A mapping from names, shapes and numbers alone; None where no array can be trajectories."""
    container = _runs_together(container)
    vectors = [found for array in container.arrays.values() if (found := _Vector.of(array)) is not None]
    listed = {found.array.name for found in vectors}
    values = [
        array
        for array in container.arrays.values()
        if array.numeric and array.size and array.name not in listed and len([n for n in array.shape if n > 1]) >= 2
    ]
    meshes = [a for a in values if a.name.lower() in TIMES | set().union(*COORDINATES.values())]
    values = [array for array in values if array not in meshes] or values
    if not values:
        return None
    first = max(values, key=lambda array: array.size)
    fields = [array for array in values if array.shape == first.shape]
    draft = Draft()
    draft.equation(re.sub(r"[_-]+", " ", stem), "taken from the file's name")
    order, along, sure, why = _axes(first, vectors)
    for entry in _field_entries(fields, order, first):
        draft.say(f"fields.{entry['name']}", entry, "likely" if len(fields) == 1 else "guess", _field_reason(first))
    draft.say("axes", order, sure, why)
    time = along.get("time")
    steps = _Steps(container)
    if time is None and (step := steps.take(TIME_STEPS)) is not None:
        draft.say("time", {"start": 0.0, "step": step[1]}, "likely", f"the step is the number {step[0]} of the file")
    elif time is None:
        draft.say("time", {"start": 0.0, "step": 1.0}, "guess", "no array fits the time axis: frames are counted")
    else:
        named = "its name and length fit" if time.axis == "time" else "its length fits"
        named += _unequal(time.values)
        draft.say("time", {"array": time.array.name}, "likely" if time.axis == "time" else "guess", named)
    space = [axis for axis in "xyz" if axis in order]
    sides = []
    for axis in space:
        kind, points, reason = _ends(first, order, axis)
        vector = along.get(axis)
        sides.append([kind, kind])
        if vector is None and (step := steps.take(SPACINGS[axis])) is not None:
            high = float(f"{step[1] * first.shape[order.index(axis)]:.12g}")
            said = (
                f"as many spacings as points, each the number {step[0]} of the file; where the first lies is not known"
            )
            draft.say(f"space.{axis}", {"low": 0.0, "high": high, "points": "cells"}, "guess", said)
        elif vector is None:
            draft.say(
                f"space.{axis}",
                {"low": 0.0, "high": 1.0, "points": "cells"},
                "guess",
                "no array fits this axis: a unit box",
            )
        else:
            where, certain, said = placement(vector.values, kind == "periodic")
            if points is not None and where != points and certain != "likely":
                where = points
            proposed: dict[str, Any] = {"array": vector.array.name, "points": where}
            said += "; it decreases, and is turned round as it is read" if vector.turned else ""
            if where == "ends" and kind != "periodic":
                proposed["onto"] = _cells(len(vector.values))
                said += "; models learn on cells of a bounded axis: `onto` interpolates to so many"
            draft.say(f"space.{axis}", proposed, certain, said)
        draft.findings.append(Finding("boundary", "guess", f"{axis}: {reason}"))
    draft.document["boundary"] = sides
    frames = first.shape[order.index("time")] if "time" in order else 1
    if "trajectory" not in order and frames >= SEGMENTS * FEWEST_FRAMES:
        draft.say("segments", SEGMENTS, "guess", "one trajectory: in pieces, some can train and others be the test")
    used = {a.name for a in fields} | {v.array.name for v in along.values()} | steps.taken
    _coefficients(draft, container, first, order, used)
    return draft


class _Steps:
    """The numbers of a file, in arrays or attributes, that may be steps; `taken`: those that are."""

    def __init__(self, container: Container) -> None:
        self.taken: set[str] = set()
        self._numbers: dict[str, float] = {}
        for name, value in container.attributes.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._numbers[name] = float(value)
        for array in container.arrays.values():
            if array.numeric and array.size == 1:
                with suppress(UserError):
                    self._numbers[array.name] = float(array.whole().ravel()[0])

    def take(self, words: set[str]) -> tuple[str, float] | None:
        """(name, number) of the first that is called so and can be a step."""
        for name, value in self._numbers.items():
            if name.rpartition("/")[2].lower() in words and np.isfinite(value) and value > 0:
                self.taken.add(name)
                return name, value
        return None


def _runs_together(container: Container) -> Container:
    """The arrays, those of groups that hold the same names and shapes put together, one group a trajectory."""
    runs: dict[str, dict[str, dict[str, StoredArray]]] = {}
    for name, array in container.arrays.items():
        group, _, last = name.rpartition("/")
        above, _, run = group.rpartition("/")
        if group:
            runs.setdefault(above, {}).setdefault(run, {})[last] = array
    arrays = dict(container.arrays)
    for above, groups in runs.items():
        kinds = {tuple(sorted((n, a.shape, str(a.dtype)) for n, a in held.items())) for held in groups.values()}
        if len(groups) > 1 and len(kinds) == 1:
            for last in next(iter(groups.values())):
                members = [held[last] for held in groups.values()]
                for member in members:
                    del arrays[member.name]
                pattern = f"{above}/*/{last}".removeprefix("/")
                arrays[pattern] = stacked(pattern, members)
    return replace(container, arrays=arrays)


def _axes(array: StoredArray, vectors: list[_Vector]) -> tuple[list[str], dict[str, _Vector], Sure, str]:
    """The meaning of each axis, the vectors along them, how sure, and why."""
    order: list[str | None] = ["-" if n == 1 else None for n in array.shape]
    found: dict[str, _Vector] = {}
    ambiguous = False
    for vector in sorted(vectors, key=lambda vector: vector.axis is None):
        name = vector.axis
        lengths = {len(vector.values), len(vector.values) - (name == "time")}  # PDEBench has a time too many
        places = [i for i, n in enumerate(array.shape) if order[i] is None and n in lengths]
        if not places or name is None or name in found:
            continue
        ambiguous |= len(places) > 1
        # Where several axes are as long: time before space, as most files have it.
        place = places[0] if name == "time" or len(places) == 1 else places[-1 if name == "x" else 0]
        order[place], found[name] = name, vector
    reasons = [f"{vector.array.name} is as long as the axis {name}" for name, vector in found.items()]
    left = [i for i, name in enumerate(order) if name is None]
    for place in list(left):
        if array.shape[place] <= MOST_COMPONENTS and place in (1, 2, len(order) - 1) and len(left) > 1:
            order[place] = "component"
            left.remove(place)
            reasons.append(f"an axis of {array.shape[place]} is taken for components")
            ambiguous = True
            break
    wanted = [name for name in ("time", "x", "y", "z") if name not in found]
    if "x" in found and "time" in found:
        wanted = ["trajectory", *[name for name in wanted if name != "x"]]
    elif len(left) > len([name for name in ("time", "x") if name not in found]):
        wanted = ["trajectory", *wanted]
    for place, name in zip(left, wanted, strict=False):
        order[place] = name
        ambiguous = True
        reasons.append(f"axis {place} of length {array.shape[place]} is taken for {name}")
    sure: Sure = "guess" if ambiguous else "likely"
    return [name or "-" for name in order], found, sure, "; ".join(reasons)


def _unequal(times: NDArray[np.float64]) -> str:
    """A remark on times with unequal steps, which are refused as they are."""
    try:
        equal_steps(times, "time")
    except UserError:
        steps = np.diff(times)
        return f"; its steps differ, {steps.min():.6g} to {steps.max():.6g}: `onto: N` interpolates to N equal ones"
    return ""


def _cells(nodes: int) -> int:
    """About as many cells as nodes: the number that can be halved more often."""
    return max(nodes, nodes - 1, key=lambda count: count & -count)


def _field_entries(fields: list[StoredArray], order: list[str], first: StoredArray) -> list[dict[str, Any]]:
    names = [safe_name(array.name) for array in fields]
    count = first.shape[order.index("component")] if "component" in order else 0
    if not count:
        slots = Draft().place(names)
        return [
            {"name": name, "array": array.name, "slot": slots[name]} for name, array in zip(names, fields, strict=True)
        ]
    return [
        {
            "name": f"{name}{component}"[:32],
            "array": array.name,
            "component": component,
            "slot": place * count + component,
        }
        for place, (name, array) in enumerate(zip(names, fields, strict=True))
        for component in range(count)
    ]


def _field_reason(first: StoredArray) -> str:
    return f"the largest array, of shape {' x '.join(map(str, first.shape))}"


def _ends(array: StoredArray, order: list[str], axis: str) -> tuple[str, str | None, str]:
    """(kind of boundary, points that fit, why) from the values at both ends of an axis in the first trajectory."""
    place = order.index(axis)
    frames = array.shape[order.index("time")] if "time" in order else 1
    index = tuple(
        slice(0, n, max(1, frames // 32)) if name == "time" else slice(None) if name in "xyz" else 0
        for name, n in zip(order, array.shape, strict=True)
    )
    if array.size > SAMPLED * 64:
        return "periodic", None, "the array is large: the ends were not looked at"
    values = array.read(index).astype(np.float64)
    kept = [name for name in order if name in ("time", "x", "y", "z")]
    along = np.moveaxis(values, kept.index(axis), -1).reshape(-1, array.shape[place])
    if along.shape[-1] < 4 or not np.isfinite(along).all():
        return "periodic", None, "too few or no finite values to look at the ends"
    scale = float(np.abs(np.diff(along, axis=-1)).max()) or 1.0
    first, last = along[:, 0], along[:, -1]
    same = float(np.abs(first - last).max()) < 1e-3 * scale
    still = float(np.ptp(first) + np.ptp(last)) < 1e-3 * scale
    if still and same and float(np.abs(first).max()) < 1e-3 * scale:
        return "dirichlet", "ends", "the values at both ends are zero at all times"
    if still:
        return "dirichlet", "ends", "the values at both ends do not change"
    if same:
        return "periodic", "ends", "both ends hold the same values"
    if float(np.abs(first - last).max()) < 2 * scale:
        return "periodic", None, "the values go on from one end to the other"
    return "outflow", None, "the values at the ends differ"


def _coefficients(draft: Draft, container: Container, first: StoredArray, order: list[str], used: set[str]) -> None:
    rows = first.shape[order.index("trajectory")] if "trajectory" in order else 1
    taken = {entry["name"].lower() for entry in draft.document.get("fields", ())}
    for array in container.arrays.values():
        name = safe_name(array.name)
        if array.name in used or not array.numeric or array.size not in (1, rows) or name.lower() in taken:
            continue
        sure: Sure = "likely" if array.size == 1 else "guess"
        draft.say(
            f"coefficients.{name}",
            {"array": array.name},
            sure,
            "one number" if array.size == 1 else "one number a trajectory",
        )
        taken.add(name.lower())
    for stored, value in container.attributes.items():
        name = safe_name(stored)
        if isinstance(value, int | float) and not isinstance(value, bool) and name.lower() not in taken | used:
            draft.say(f"coefficients.{name}", {"attribute": stored}, "likely", "a numeric attribute of the file")
            taken.add(name.lower())
