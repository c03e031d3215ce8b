"""NetCDF and Zarr that follow the CF conventions: variables whose axes have names, coordinates of those names."""

from typing import Any

from ups_server.data.containers import Container, StoredArray
from ups_server.data.layouts.draft import Draft, Layout, placement, safe_name

TIME = ("time", "t")
SPACE = {"x": ("x", "lon", "longitude", "projection_x_coordinate"), "y": ("y", "lat", "latitude"), "z": ("z", "height")}
ROWS = ("trajectory", "sample", "member", "realization", "batch", "run", "ensemble")


def _time(array: StoredArray) -> str | None:
    return next((axis for axis in array.axes if axis.lower() in TIME), None)


def _space(array: StoredArray) -> dict[str, str]:
    """Its spatial axes: the file's name -> ours."""
    named = {axis: ours for axis in array.axes for ours, words in SPACE.items() if axis.lower() in words}
    return named if len(set(named.values())) == len(named) else {}


def _values(container: Container) -> list[StoredArray]:
    """The variables over time and space, all with the axes of the first."""
    found = [array for array in container.arrays.values() if array.axes and _time(array) and _space(array)]
    return [array for array in found if array.axes == found[0].axes and array.numeric]


def matches(container: Container) -> bool:
    return bool(_values(container))


def propose(container: Container, stem: str) -> Draft:
    draft, values = Draft(), _values(container)
    first = values[0]
    space = _space(first)
    names = dict(zip(sorted(space, key=lambda axis: space[axis]), "xyz", strict=False))
    order = []
    for axis, n in zip(first.axes, first.shape, strict=True):
        if axis in names:
            order.append(names[axis])
        elif axis == _time(first):
            order.append("time")
        elif axis.lower() in ROWS or n > 1:
            order.append("trajectory")
        else:
            order.append("-")
    draft.equation(str(container.attributes.get("title", stem)), "the file's title or name")
    slots = draft.place([safe_name(array.name) for array in values])
    for array in values:
        entry: dict[str, Any] = {"name": safe_name(array.name), "array": array.name}
        if isinstance(unit := array.attributes.get("units"), str) and len(unit) <= 16:
            entry["unit"] = unit
        draft.say(
            f"fields.{entry['name']}", {**entry, "slot": slots[entry["name"]]}, "likely", "a variable over its axes"
        )
    draft.say("axes", order, "certain", f"the axes are named {', '.join(first.axes)}")
    time = _time(first) or ""
    if time in container.arrays:
        draft.say("time", {"array": time}, "certain", "the coordinate of the axis")
    else:
        draft.say("time", {"start": 0.0, "step": 1.0}, "guess", "the axis has no coordinate: frames are counted")
    for axis, ours in names.items():
        if axis in container.arrays and len(container.arrays[axis].shape) == 1:
            places = container.arrays[axis].whole()
            turned = len(places) > 1 and places[0] > places[-1]
            points, sure, why = placement(places[::-1] if turned else places, None)
            why += "; it decreases, and is turned round as it is read" if turned else ""
            draft.say(f"space.{ours}", {"array": axis, "points": points}, sure, why)
        else:
            draft.say(f"space.{ours}", {"low": 0.0, "high": 1.0}, "guess", f"{axis} has no coordinate: a unit box")
    draft.say("boundary", [["periodic", "periodic"]] * len(names), "guess", "CF says nothing of boundaries: look at it")
    rows = next((n for name, n in zip(order, first.shape, strict=True) if name == "trajectory"), 1)
    for array in container.arrays.values():
        own = array.name not in (*names, time) and array not in values and array.numeric
        if own and array.size in (1, rows) and array.name.lower() not in ROWS:
            draft.say(f"coefficients.{safe_name(array.name)}", {"array": array.name}, "likely", "numbers by trajectory")
    return draft


CF = Layout("CF conventions", matches, propose)
