"""PDEArena: HDF5 with a group `train`, `valid` or `test` that holds `u`, `vx`, `vy` (N, T, X, Y), their `t` (N, T),
`x` (N, X) and `y` (N, Y), and where trajectories differ in buoyancy `buo_y` (N,)."""

from ups_server.data.containers import Container
from ups_server.data.layouts.axes import placement
from ups_server.data.layouts.draft import Draft, Layout

GROUPS = ("train", "valid", "test")
FIELDS = (("Vx", "vx", 0), ("Vy", "vy", 1), ("smoke", "u", 2))
DESCRIBED = "the layout of PDEArena"


def _group(container: Container) -> str | None:
    return next(
        (group for group in GROUPS if {f"{group}/{name}" for name in ("u", "vx", "vy")} <= set(container.arrays)), None
    )


def propose(container: Container, stem: str) -> Draft:
    draft, group = Draft(), _group(container)
    draft.equation("incompressible Navier-Stokes with buoyancy", "PDEArena's smoke; look at the equation's text")
    for name, array, slot in FIELDS:
        draft.say(f"fields.{name}", {"name": name, "array": f"{group}/{array}", "slot": slot}, "certain", DESCRIBED)
    draft.say("axes", ["trajectory", "time", "x", "y"], "certain", DESCRIBED)
    if f"{group}/t" in container.arrays:
        draft.say("time", {"array": f"{group}/t"}, "certain", DESCRIBED)
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


LAYOUT = Layout("PDEArena", lambda container: _group(container) is not None, propose)
