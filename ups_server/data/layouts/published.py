"""Layouts of published collections: each names the arrays of its files, so that a mapping can be written from them.

The Well: HDF5 with groups `dimensions`, `boundary_conditions`, `scalars`, `t0_fields`, `t1_fields`, `t2_fields`. A
field of order n has n axes of components behind those of space, here one; where a field does not vary with the
trajectory, with time or along a spatial axis, that axis is left out. Boundary conditions name the axes they hold on.

PDEArena: HDF5 with a group `train`, `valid` or `test` that holds `u`, `vx`, `vy` (N, T, X, Y), their `t` (N, T), `x`
(N, X) and `y` (N, Y), and where trajectories differ in buoyancy `buo_y` (N,).

PDEGym, on which Poseidon is trained: NetCDF with one variable over (trajectories, times, channels, x, y). `velocity` of
incompressible flow holds both components and, in some files, a passive tracer; `data` of compressible flow holds
density, velocity, pressure and, in some files, energy. The box is the unit square, the last time 1.

APEBench: one array over (samples, frames, channels, x[, y[, z]]), as it exports them (.npy); no coordinates. The
published scenarios are periodic, mostly on the unit box, their points from its lower end on.
"""

from collections.abc import Sequence
from typing import Any

from ups_server.data.containers import Container, StoredArray
from ups_server.data.containers.saved_arrays import ALONE
from ups_server.data.layouts.cf import CF
from ups_server.data.layouts.draft import Draft, Layout, placement, safe_name

WELL_KINDS = {"periodic": "periodic", "wall": "no_slip", "open": "outflow"}
"""Names of The Well -> boundary conditions here. Enumerated: wall 0, open 1, periodic 2."""
WELL_ENUMERATED = ("wall", "open", "periodic")


def is_well(container: Container) -> bool:
    return any(name.startswith("dimensions/") for name in container.arrays) and any(
        name.startswith(("t0_fields/", "t1_fields/")) for name in container.arrays
    )


def well_draft(container: Container, stem: str) -> Draft:
    draft = Draft()
    attributes = container.attributes
    draft.equation(str(attributes.get("dataset_name", stem)), "The Well names the collection, not the equation")
    axes = _well_axes(container)
    names = dict(zip(axes, "xyz", strict=False))
    leading = ["trajectory", "time", *names.values()]
    entries: list[dict[str, Any]] = []
    fixed: list[dict[str, Any]] = []
    for array in container.arrays.values():
        group, _, name = array.name.partition("/")
        if group not in ("t0_fields", "t1_fields", "t2_fields") or not array.numeric:
            continue
        order = int(group[1])
        own = _well_order(array, list(names.values()), order)
        count = array.shape[-1] if order == 1 else 1
        if own is None or order == 2:
            continue
        (entries if "time" in own else fixed).extend(
            _well_field(array, name, own, leading, None if order == 0 else k, list(names.values()))
            for k in range(count)
        )
    slots = draft.place([entry["name"] for entry in entries])
    for entry in entries:
        draft.say(
            f"fields.{entry['name']}", {**entry, "slot": slots[entry["name"]]}, "likely", "the slot follows its name"
        )
    for place, entry in enumerate(fixed):
        draft.say(f"static_fields.{entry['name']}", {**entry, "slot": place}, "certain", "it does not vary in time")
    draft.say("axes", leading, "certain", "the layout of The Well")
    draft.say("time", {"array": "dimensions/time"}, "certain", "the layout of The Well")
    for stored, name in names.items():
        array = container.arrays[f"dimensions/{stored}"]
        points, sure, why = _well_points(array, _well_kind(container, stored))
        draft.say(f"space.{name}", {"array": array.name, "points": points}, sure, why)
    sides = [[WELL_KINDS.get(_well_kind(container, stored), "outflow")] * 2 for stored in names]
    draft.say("boundary", sides, "certain", "boundary_conditions of the file")
    for name in attributes.get("simulation_parameters", ()):
        if f"scalars/{name}" in container.arrays:
            where: dict[str, Any] = {"array": f"scalars/{name}"}
        elif isinstance(attributes.get(name), int | float):
            where = {"attribute": name}
        else:
            continue
        draft.say(f"coefficients.{safe_name(name)}", where, "certain", "a parameter of the simulation")
    return draft


def _well_axes(container: Container) -> list[str]:
    named = container.groups.get("dimensions", {}).get("spatial_dims")
    if isinstance(named, list) and all(f"dimensions/{name}" in container.arrays for name in named):
        return named
    stored = [name.partition("/")[2] for name in container.arrays if name.startswith("dimensions/")]
    return [name for name in stored if name != "time"]


def _well_order(array: StoredArray, space: list[str], order: int) -> list[str] | None:
    """The axes of a field; None where it does not vary along all axes of space."""
    varying = array.attributes
    if not all(varying.get("dim_varying", [True] * len(space))):
        return None
    leading = ["trajectory"] * bool(varying.get("sample_varying", True)) + ["time"] * bool(
        varying.get("time_varying", True)
    )
    found = [*leading, *space, *["component"] * order]
    return found if len(found) == len(array.shape) else None


def _well_field(
    array: StoredArray, name: str, own: list[str], leading: list[str], component: int | None, space: list[str]
) -> dict[str, Any]:
    word = safe_name(name if component is None else f"{name}_{[*space, 'u', 'v'][component]}")
    entry: dict[str, Any] = {"name": word, "array": array.name}
    if component is not None:
        entry["component"] = component
    if own != (leading if "time" in own else [axis for axis in leading if axis != "time"]):
        entry["axes"] = own
    return entry


def _well_kind(container: Container, axis: str) -> str:
    """The kind of the boundary along an axis, as its group says by name or number."""
    for group, attributes in container.groups.items():
        if group.startswith("boundary_conditions/") and axis in attributes.get("associated_dims", ()):
            kind = attributes.get("bc_type", "")
            return WELL_ENUMERATED[kind] if isinstance(kind, int) and 0 <= kind < 3 else str(kind).lower()
    return "open"


def _well_points(array: StoredArray, kind: str) -> tuple[str, Any, str]:
    return placement(array.whole().ravel(), periodic=kind == "periodic")


WELL = Layout("The Well", is_well, well_draft)


PDEARENA_GROUPS = ("train", "valid", "test")
PDEARENA_FIELDS = (("Vx", "vx", 0), ("Vy", "vy", 1), ("smoke", "u", 2))
PDEARENA_DESCRIBED = "the layout of PDEArena"


def _pdearena_group(container: Container) -> str | None:
    return next(
        (
            group
            for group in PDEARENA_GROUPS
            if {f"{group}/{name}" for name in ("u", "vx", "vy")} <= set(container.arrays)
        ),
        None,
    )


def pdearena_draft(container: Container, stem: str) -> Draft:
    draft, group = Draft(), _pdearena_group(container)
    draft.equation("incompressible Navier-Stokes with buoyancy", "PDEArena's smoke; look at the equation's text")
    for name, array, slot in PDEARENA_FIELDS:
        draft.say(
            f"fields.{name}", {"name": name, "array": f"{group}/{array}", "slot": slot}, "certain", PDEARENA_DESCRIBED
        )
    draft.say("axes", ["trajectory", "time", "x", "y"], "certain", PDEARENA_DESCRIBED)
    if f"{group}/t" in container.arrays:
        draft.say("time", {"array": f"{group}/t"}, "certain", PDEARENA_DESCRIBED)
    else:
        draft.say("time", {"start": 0.0, "step": 1.0}, "guess", "the file has no t: frames are counted")
    for axis, stored in (("x", 2), ("y", 3)):
        coordinates = container.arrays.get(f"{group}/{axis}")
        if coordinates is None:
            draft.say(
                f"space.{axis}", {"low": 0.0, "high": 32.0}, "guess", f"no {axis}: the box of the published files"
            )
            continue
        n = container.arrays[f"{group}/u"].shape[stored]
        points, sure, why = placement(coordinates.whole().reshape(-1, n)[0], periodic=False)
        draft.say(f"space.{axis}", {"array": coordinates.name, "points": points}, sure, why)
    draft.say("boundary", [["no_slip", "no_slip"]] * 2, "likely", "the published simulations have closed walls")
    if f"{group}/buo_y" in container.arrays:
        draft.say("coefficients.buo_y", {"array": f"{group}/buo_y"}, "certain", "one buoyancy a trajectory")
    return draft


PDEARENA = Layout("PDEArena", lambda container: _pdearena_group(container) is not None, pdearena_draft)


VELOCITY = (("Vx", 0), ("Vy", 1), ("tracer", 2))
GAS = (("density", 2), ("Vx", 0), ("Vy", 1), ("pressure", 3))
"""Channel -> (field, slot); energy follows from the others, and is left out."""
PDEGYM_DESCRIBED = "PDEGym's description of its files"


def _pdegym_variable(container: Container) -> StoredArray | None:
    for name, least, most in (("velocity", 2, 3), ("data", 4, 5)):
        found = container.arrays.get(name)
        if found is not None and len(found.shape) == 5 and least <= found.shape[2] <= most:
            return found
    return None


def is_pdegym(container: Container) -> bool:
    return container.kind.endswith(("NetCDF-4 file", "HDF5 file")) and _pdegym_variable(container) is not None


def pdegym_draft(container: Container, stem: str) -> Draft:
    draft, found = Draft(), _pdegym_variable(container)
    if found is None:
        return draft
    gas = found.name == "data"
    name = "compressible Euler equations" if gas else "incompressible Navier-Stokes equations"
    draft.equation(name, f"a variable `{found.name}` with {found.shape[2]} channels; look at the equation's text")
    for channel, (field, slot) in enumerate((GAS if gas else VELOCITY)[: found.shape[2]]):
        entry = {"name": field, "array": found.name, "component": channel, "slot": slot}
        draft.say(f"fields.{field}", entry, "certain", PDEGYM_DESCRIBED)
    draft.say("axes", ["trajectory", "time", "component", "x", "y"], "certain", PDEGYM_DESCRIBED)
    step = 1.0 / max(found.shape[1] - 1, 1)
    draft.say("time", {"start": 0.0, "step": step}, "likely", "uniform times up to 1")
    for axis in "xy":
        draft.say(f"space.{axis}", {"low": 0.0, "high": 1.0, "points": "cells"}, "likely", "the unit square")
    periodic = "periodic, as the incompressible and most compressible files are"
    draft.say("boundary", [["periodic", "periodic"]] * 2, "likely", periodic)
    return draft


PDEGYM = Layout("PDEGym", is_pdegym, pdegym_draft)


MOST_CHANNELS = 4


def is_apebench(container: Container) -> bool:
    found = container.arrays.get(ALONE)
    if found is None or container.kind != "a .npy file" or len(found.shape) not in (4, 5, 6):
        return False
    channels, *points = found.shape[2:]
    return channels <= MOST_CHANNELS and len(set(points)) == 1 and points[0] > MOST_CHANNELS


def apebench_draft(container: Container, stem: str) -> Draft:
    draft, found = Draft(), container.arrays[ALONE]
    draft.equation(stem.replace("_", " "), "taken from the file's name")
    space = list("xyz"[: len(found.shape) - 3])
    for channel in range(found.shape[2]):
        name = "u" if found.shape[2] == 1 else f"u{channel}"
        entry = {"name": name, "array": ALONE, "component": channel, "slot": channel}
        draft.say(f"fields.{name}", entry, "likely", "APEBench's order of axes: samples, frames, channels, space")
    draft.say("axes", ["trajectory", "time", "component", *space], "likely", "APEBench's order of axes")
    draft.say("time", {"start": 0.0, "step": 1.0}, "guess", "the file has no times: frames are counted")
    for axis in space:
        entry = {"low": 0.0, "high": 1.0, "points": "nodes"}
        draft.say(f"space.{axis}", entry, "guess", "the file has no coordinates: APEBench's unit box")
    draft.say("boundary", [["periodic", "periodic"]] * len(space), "likely", "APEBench's scenarios are periodic")
    return draft


APEBENCH = Layout("APEBench", is_apebench, apebench_draft)


def layouts() -> Sequence[Layout]:
    """All layouts, in the order in which they are asked."""
    return (WELL, PDEARENA, PDEGYM, APEBENCH, CF)
