"""PDEGym, on which Poseidon is trained: NetCDF with one variable over (trajectories, times, channels, x, y).

`velocity` of incompressible flow holds both components and, in some files, a passive tracer; `data` of compressible
flow holds density, velocity, pressure and, in some files, energy. The box is the unit square, the last time 1.
"""

from ups_server.data.containers import Container, StoredArray
from ups_server.data.layouts.draft import Draft, Layout

VELOCITY = (("Vx", 0), ("Vy", 1), ("tracer", 2))
GAS = (("density", 2), ("Vx", 0), ("Vy", 1), ("pressure", 3))
"""Channel -> (field, slot); energy follows from the others, and is left out."""
DESCRIBED = "PDEGym's description of its files"


def _variable(container: Container) -> StoredArray | None:
    for name, least, most in (("velocity", 2, 3), ("data", 4, 5)):
        found = container.arrays.get(name)
        if found is not None and len(found.shape) == 5 and least <= found.shape[2] <= most:
            return found
    return None


def matches(container: Container) -> bool:
    return container.kind.endswith(("NetCDF-4 file", "HDF5 file")) and _variable(container) is not None


def propose(container: Container, stem: str) -> Draft:
    draft, found = Draft(), _variable(container)
    if found is None:
        return draft
    gas = found.name == "data"
    name = "compressible Euler equations" if gas else "incompressible Navier-Stokes equations"
    draft.equation(name, f"a variable `{found.name}` with {found.shape[2]} channels; look at the equation's text")
    for channel, (field, slot) in enumerate((GAS if gas else VELOCITY)[: found.shape[2]]):
        entry = {"name": field, "array": found.name, "component": channel, "slot": slot}
        draft.say(f"fields.{field}", entry, "certain", DESCRIBED)
    draft.say("axes", ["trajectory", "time", "component", "x", "y"], "certain", DESCRIBED)
    step = 1.0 / max(found.shape[1] - 1, 1)
    draft.say("time", {"start": 0.0, "step": step}, "likely", "uniform times up to 1")
    for axis in "xy":
        draft.say(f"space.{axis}", {"low": 0.0, "high": 1.0, "points": "cells"}, "likely", "the unit square")
    periodic = "periodic, as the incompressible and most compressible files are"
    draft.say("boundary", [["periodic", "periodic"]] * 2, "likely", periodic)
    return draft


LAYOUT = Layout("PDEGym", matches, propose)
