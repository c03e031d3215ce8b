"""The Well: HDF5 with groups `dimensions`, `boundary_conditions`, `scalars`, `t0_fields`, `t1_fields`, `t2_fields`.

A field of order n has n axes of components behind those of space, here one; where a field does not vary with the
trajectory, with time or along a spatial axis, that axis is left out. Boundary conditions name the axes they hold on.
"""

from typing import Any

from ups_server.data.containers import Container, StoredArray
from ups_server.data.layouts.draft import Draft, Layout, safe_name

KINDS = {"periodic": "periodic", "wall": "no_slip", "open": "outflow"}
"""Names of The Well -> boundary conditions here. Enumerated: wall 0, open 1, periodic 2."""
ENUMERATED = ("wall", "open", "periodic")


def matches(container: Container) -> bool:
    return any(name.startswith("dimensions/") for name in container.arrays) and any(
        name.startswith(("t0_fields/", "t1_fields/")) for name in container.arrays
    )


def propose(container: Container, stem: str) -> Draft:
    draft = Draft()
    attributes = container.attributes
    draft.equation(str(attributes.get("dataset_name", stem)), "The Well names the collection, not the equation")
    axes = _axes(container)
    names = dict(zip(axes, "xyz", strict=False))
    leading = ["trajectory", "time", *names.values()]
    entries: list[dict[str, Any]] = []
    fixed: list[dict[str, Any]] = []
    for array in container.arrays.values():
        group, _, name = array.name.partition("/")
        if group not in ("t0_fields", "t1_fields", "t2_fields") or not array.numeric:
            continue
        order = int(group[1])
        own = _order(array, list(names.values()), order)
        count = array.shape[-1] if order == 1 else 1
        if own is None or order == 2:
            continue
        (entries if "time" in own else fixed).extend(
            _field(array, name, own, leading, None if order == 0 else k, list(names.values())) for k in range(count)
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
        points, sure, why = _points(array, _kind(container, stored))
        draft.say(f"space.{name}", {"array": array.name, "points": points}, sure, why)
    sides = [[KINDS.get(_kind(container, stored), "outflow")] * 2 for stored in names]
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


def _axes(container: Container) -> list[str]:
    named = container.groups.get("dimensions", {}).get("spatial_dims")
    if isinstance(named, list) and all(f"dimensions/{name}" in container.arrays for name in named):
        return named
    stored = [name.partition("/")[2] for name in container.arrays if name.startswith("dimensions/")]
    return [name for name in stored if name != "time"]


def _order(array: StoredArray, space: list[str], order: int) -> list[str] | None:
    """The axes of a field; None where it does not vary along all axes of space."""
    varying = array.attributes
    if not all(varying.get("dim_varying", [True] * len(space))):
        return None
    leading = ["trajectory"] * bool(varying.get("sample_varying", True)) + ["time"] * bool(
        varying.get("time_varying", True)
    )
    found = [*leading, *space, *["component"] * order]
    return found if len(found) == len(array.shape) else None


def _field(
    array: StoredArray, name: str, own: list[str], leading: list[str], component: int | None, space: list[str]
) -> dict[str, Any]:
    word = safe_name(name if component is None else f"{name}_{[*space, 'u', 'v'][component]}")
    entry: dict[str, Any] = {"name": word, "array": array.name}
    if component is not None:
        entry["component"] = component
    if own != (leading if "time" in own else [axis for axis in leading if axis != "time"]):
        entry["axes"] = own
    return entry


def _kind(container: Container, axis: str) -> str:
    """The kind of the boundary along an axis, as its group says by name or number."""
    for group, attributes in container.groups.items():
        if group.startswith("boundary_conditions/") and axis in attributes.get("associated_dims", ()):
            kind = attributes.get("bc_type", "")
            return ENUMERATED[kind] if isinstance(kind, int) and 0 <= kind < 3 else str(kind).lower()
    return "open"


def _points(array: StoredArray, kind: str) -> tuple[str, Any, str]:
    from ups_server.data.layouts.axes import placement

    return placement(array.whole().ravel(), periodic=kind == "periodic")


LAYOUT = Layout("The Well", matches, propose)
