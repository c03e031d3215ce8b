"""Do the figures hold that the service gives beside its answers?

A running service is asked as a user asks it: default requests for samples of each family, on three grids, at cell
centres and at the points of PDEBench's grid strided, with diagnostics and reference. Each answer is held against a
solution of its own: the same sample at four or more times the points (and at no fewer than the reference had), solved
in one go from start to end, and seen at the points of the request. An equation that is posed on the given points
(`Family.grid_bound`) is solved on these.

Per family:

- true_error_ratio: least, median and greatest of nRMSE over the trajectory as the service reports it, over what it is;
- coverage: share of answers, by field, whose error stays within the expected one at every step; by step beside it;
- outside_bounds: share of answers with a value beyond the physical bounds of the family (`Family.bounds`).

Families that are already in OUT are kept, so that a run that was interrupted goes on; name them to measure them again.

    python benchmarks/trust.py --json models/ups-mini/trust.json [--families burgers ...] [--seeds 24] [--url URL]
"""

import argparse
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.service import service
from ups_server.client import Client
from ups_server.pde import Family, Grid, family
from ups_server.pde.bounds import SLACK, exceeds, measured
from ups_server.pde.metrics import error_moments, nrmse_trajectory, rmse

Array = NDArray[np.float64]

SEED = 4_400_001
SEEDS = 24
FINER = 4
STEPS, PLANE_STEPS = 20, 5
"""Of a rollout, in one dimension and in two, where the solution at four times the points is dear."""
GRIDS, PLANE_GRIDS = (128, 64, 256), (64, 32, 48)
"""Points an axis; seeds take grids by turns."""
PATIENCE_S = 900.0


@dataclass
class Answer:
    """What one answer says beside what is so.

    Attributes:
        reported, true: nRMSE over the trajectory; None where the service has no figure.
        inside: by field, is each frame within its expected error? Empty where none is offered.
        beyond: is a value beyond the bounds of the equation?
        remarks: why something is missing.
    """

    reported: float | None
    true: float
    inside: dict[str, list[bool]]
    beyond: bool
    remarks: list[str] = field(default_factory=list)


def solution(entry: Family, grid: Grid, seed: int, times: Array, least: int = 0) -> Array:
    """(T, X..., C) at the points of `grid`, from the sample of a seed, solved in one go on a finer grid.

    Args: least: points along the first axis, no fewer than which it is solved on.
    """
    # An odd factor leaves cell centres among cell centres, which is all that some solvers take.
    step = 1 if anywhere(entry) else 2
    factor = 1 if entry.grid_bound else FINER + step - 1
    while not entry.grid_bound and factor * grid.n[0] < least:
        factor += step
    fine, points = grid.refined(factor)
    coefficients = {name: np.array([value]) for name, value in entry.complete({}).items()}
    rng = np.random.default_rng(seed)
    initial = entry.fit_initial(entry.sample_initial(rng, 1, fine), coefficients)
    static = entry.sample_static(rng, 1, fine)
    (solved,) = entry.solve(initial, times, fine, coefficients, static)
    seen: Array = solved[:, *points]
    return seen


def asked(client: Client, model: str | None, entry: Family, grid: Grid, seed: int, steps: int) -> Answer:
    options: dict[str, Any] = {} if model is None else {"model": model}
    place = {} if set(grid.offset) == {Grid.CENTRE} else {"offset": list(grid.offset)}
    found = client.rollout(
        entry.id, steps, {"sample": {"seed": seed}}, grid={"n": list(grid.n), **place}, diagnostics=True,
        reference=True, **options,
    )  # fmt: skip
    names = [quantity.name for quantity in entry.fields]
    values = np.stack([found[name].values for name in names], axis=-1)
    said, reference = json.loads(found.attrs["diagnostics"]), json.loads(found.attrs["reference"])
    # What is judged must not be finer than what it is judged by.
    truth = solution(entry, grid, seed, found["time"].values, reference["points"][0])
    moments = error_moments(values[None], truth[None])
    later = error_moments(values[None, 1:], truth[None, 1:])
    expected = said["expected_error"]
    errors = dict(zip(names, rmse(moments)[0].T, strict=True))
    inside = {
        name: (errors[name][1:] <= np.asarray(bounds)[1 : len(values)]).tolist()
        for name, bounds in expected["bounds"].items()
    }
    remarks = [] if expected["available"] else [f"no expected error: {expected['reason']}"]
    if reference["reason"] is not None or reference["nrmse_trajectory"] is None:
        remarks.append(f"no true error: {reference['reason']}")
    if len(values) <= steps:
        remarks.append("ended early")
    complete = reference["complete"] and len(values) > 1
    return Answer(
        reported=reference["nrmse_trajectory"] if complete else None,
        true=float(nrmse_trajectory(later)[0]),
        inside=inside,
        beyond=out_of_bounds(entry, values),
        remarks=remarks,
    )


def out_of_bounds(entry: Family, values: NDArray[np.floating]) -> bool:
    """Is a frame (T, X..., C) beyond the physical bounds that the first implies, by more than they leave room for?"""
    coefficients = {name: np.array([value]) for name, value in entry.complete({}).items()}
    found = []
    for bound in entry.bounds(values[:1], coefficients):
        room = SLACK * bound.scale * (-1.0 if bound.measure == "least" else 1.0)
        found.append(exceeds(bound.measure, measured(bound.measure, values[..., bound.field]), bound.limit + room))
    return bool(np.any(found))


def grids(entry: Family) -> list[Grid]:
    """Three numbers of points, at cell centres and, unless its solver works on these alone, where PDEBench's grid
    strided has its points."""
    found = []
    for n in GRIDS if entry.ndim == 1 else PLANE_GRIDS:
        strided = Grid.CENTRE * n / max(entry.n, n)
        for offset in dict.fromkeys((Grid.CENTRE, strided) if anywhere(entry) else (Grid.CENTRE,)):
            found.append(Grid((n,) * entry.ndim, entry.extent, (offset,) * entry.ndim))
    return found


def anywhere(entry: Family) -> bool:
    """Does its solver know points that are no cell centres?"""
    return entry.anywhere or all(entry.boundary.periodic)


def report(answers: list[Answer], seeds: int, steps: int) -> dict[str, Any]:
    """The figures of one family."""
    ratios = [answer.reported / answer.true for answer in answers if answer.reported is not None]
    offered = [answer for answer in answers if answer.inside]
    names = list(offered[0].inside) if offered else []
    per_step = {name: np.array([answer.inside[name] for answer in offered]).mean(0).tolist() for name in names}
    per_field = {name: float(np.mean([all(answer.inside[name]) for answer in offered])) for name in names}
    remarks = [remark for answer in answers for remark in answer.remarks]
    return {
        "true_error_ratio": [float(f(ratios)) for f in (np.min, np.median, np.max)] if ratios else None,
        "coverage": float(np.mean(list(per_field.values()))) if names else None,
        "outside_bounds": float(np.mean([answer.beyond for answer in answers])),
        "seeds": seeds,
        "answers": len(answers),
        "with_true_error": len(ratios),
        "with_expected_error": len(offered),
        "steps": steps,
        "coverage_per_field": per_field,
        "coverage_per_step": per_step,
        "remarks": {remark: remarks.count(remark) for remark in sorted(set(remarks))},
    }


def measure(client: Client, model: str | None, name: str, seeds: int) -> dict[str, Any]:
    entry = family(name)
    steps, places = STEPS if entry.ndim == 1 else PLANE_STEPS, grids(entry)
    answers = [
        asked(client, model, entry, places[index % len(places)], SEED + index, steps)
        for index in track(range(seeds), name, console=Console(stderr=True))
    ]
    return {**report(answers, seeds, steps), "grids": [grid.as_json() for grid in places]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT")
    parser.add_argument("--families", nargs="+")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of each family")
    parser.add_argument("--model")
    parser.add_argument("--url", help="of a service that runs; default: one is started")
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    served: AbstractContextManager[tuple[str, int]] = nullcontext((options.url, 0)) if options.url else service(1)
    with served as (url, _), Client(url, timeout=PATIENCE_S) as client:
        known = next(entry for entry in client.models() if entry["id"] == (options.model or "ups-mini"))
        for name in options.families or [name for name in known["families"] if name not in found]:
            found[name] = measure(client, options.model, name, options.seeds)
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    for name, figures in found.items():
        ratio = ", ".join(f"{value:.3f}" for value in figures["true_error_ratio"] or []) or "none"
        coverage = "none" if figures["coverage"] is None else f"{figures['coverage']:.3f}"
        print(f"{name}: true error {ratio}; coverage {coverage}; outside bounds {figures['outside_bounds']:.3f}")


if __name__ == "__main__":
    main()
