"""APEBench: one array over (samples, frames, channels, x[, y[, z]]), as it exports them (.npy); no coordinates.

The published scenarios are periodic, mostly on the unit box, their points from its lower end on.
"""

from ups_server.data.containers import Container
from ups_server.data.containers.numpy_files import ALONE
from ups_server.data.layouts.draft import Draft, Layout

MOST_CHANNELS = 4


def matches(container: Container) -> bool:
    found = container.arrays.get(ALONE)
    if found is None or container.kind != "a .npy file" or len(found.shape) not in (4, 5, 6):
        return False
    channels, *points = found.shape[2:]
    return channels <= MOST_CHANNELS and len(set(points)) == 1 and points[0] > MOST_CHANNELS


def propose(container: Container, stem: str) -> Draft:
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


LAYOUT = Layout("APEBench", matches, propose)
