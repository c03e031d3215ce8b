"""How large are the errors of a shipped model, and do its envelopes hold?

For every family of the model, fresh trajectories at PDEBench's own coefficients, solved in one go at four or more times
the points, size split-conformal envelopes: one for each number of points and, where an axis is bounded, for each place
of them (cell centres, and PDEBench's grid strided). Others measure how often a rollout stays inside at every step. The
envelopes are written into the model's folder. What was solved and rolled out is kept in `runs/envelope`, where a
measurement that was interrupted goes on.

    python benchmarks/envelope.py models/ups-mini [--family burgers ...] [--workers 1]
    python benchmarks/envelope.py models/ups-mini --print     # the table of what is there
"""

import argparse
import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from ups_server.data.simulate import build_store
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.evaluation.calibrate import Observed, calibrate
from ups_server.evaluation.envelope import FamilyEnvelope, ModelEnvelopes
from ups_server.model.config import KnownFamily
from ups_server.model.lead_config import LeadCard
from ups_server.pde import Family, Grid, family
from ups_server.solvers.lead import LeadSolver
from ups_server.solvers.neural import UPSSolver
from ups_server.solvers.registry import load

SEED = 9_000_001
CALIBRATION, TEST = 120, 40
"""Trajectories of each place of points; along periodic axes both places size one envelope together."""
FEWER = {"compressible_ns_1d": (80, 24)}
"""Where they are dear."""
LEVEL = 0.9
TIMES_FINER = 4
POINTS = {"compressible_ns_1d": 512}
"""Points the truth is solved at, where not PDEBench's."""
GRIDS = (64, 128, 256)
COEFFICIENTS = {"advection": {"beta": 0.4}, "burgers": {"nu": 0.001}}
"""Where not the family's defaults."""
TOO_DEAR = "at four times the points, too few of its trajectories can be solved for bounds that hold"
WITHHELD = {
    **{name: TOO_DEAR for name in ("compressible_ns_2d", "shallow_water", "incompressible_ns_2d")},
    "evolution_1d": "bounds are of one equation, and this is any of many",
}
STORES = Path("runs") / "envelope"


def places(entry: Family, points: int) -> dict[str, float]:
    """Offset of the fine grids of which cell centres, and the points of PDEBench's strided grid, are a part."""
    return {"cells": 0.0, "strided": Grid.CENTRE * points / entry.n}


def observed(stores: dict[str, Store], entry: Family, n: int) -> Iterator[list[Observed]]:
    """What one envelope each is measured on: places that differ along periodic axes only are taken together."""
    offsets = {"cells": Grid.CENTRE, "strided": Grid.CENTRE * n / entry.n}
    seen = [
        Observed.at(store, Grid((n,) * entry.ndim, entry.extent, (offsets[place],) * entry.ndim))
        for place, store in stores.items()
    ]
    yield from [seen] if all(entry.boundary.periodic) else [[one] for one in seen]


def cards(solver: UPSSolver | LeadSolver) -> dict[str, KnownFamily] | dict[str, LeadCard]:
    return solver.model.config.families if isinstance(solver, UPSSolver) else solver.system.config.families


def errors_folder(solver: UPSSolver | LeadSolver, name: str, n: int) -> Path:
    """Where the errors of the family's rollouts are kept: another one for other weights, statistics or points."""
    card = cards(solver)[name]
    found = hashlib.sha256(f"{SEED} {n} {card}".encode())
    operator = (
        solver.checkpoint.of_family(name).operator if isinstance(solver, UPSSolver)
        else solver.system.operators[family(name).ndim]
    )  # fmt: skip
    for key, value in sorted(operator.state_dict().items()):
        found.update(key.encode())
        found.update(value.cpu().contiguous().numpy().tobytes())
    return STORES / f"{name}-errors-{found.hexdigest()[:12]}"


def report(progress: Progress, bar: TaskID, done: int, count: int | None = None) -> None:
    progress.update(bar, completed=done, total=count)


def measured(solver: UPSSolver | LeadSolver, name: str, workers: int, progress: Progress) -> list[FamilyEnvelope]:
    """All envelopes of a family."""
    card = cards(solver)[name]
    entry, stores = family(name), dict[str, Store]()
    points, (calibration, test) = POINTS.get(name, entry.n), FEWER.get(name, (CALIBRATION, TEST))
    count = calibration + test
    for place, offset in places(entry, points).items():
        bar = progress.add_task(f"{name}, truth, {place}", total=count)
        stores[place] = build_store(
            entry, COEFFICIENTS.get(name, {}), count, points, SEED + len(stores),
            STORES / f"{name}-{place}-{points}-{count}", frame_dt=card.dt,
            progress=partial(report, progress, bar), workers=workers, offset=offset,
        )  # fmt: skip
    envelopes = []
    for n in (n for n in GRIDS if TIMES_FINER * n <= points):
        for seen in observed(stores, entry, n):
            bar = progress.add_task(f"{name}, rollouts at {n}", total=len(seen) * count)
            folder = errors_folder(solver, name, n)
            envelopes.append(calibrate(solver, card, seen, test, LEVEL, partial(report, progress, bar), folder))
    return envelopes


def table(envelopes: ModelEnvelopes) -> Iterator[str]:
    """The table of the card, as Markdown."""
    yield "| family | points | calibration, test | first, last step | coverage (95 % interval) |"
    yield "|---|---|---|---|---|"
    for name, found in envelopes.families.items():
        for envelope in found:
            offset = ", ".join("any" if place is None else f"{place:g}" for place in envelope.offset)
            shares = (
                f"{field} {coverage.share:.3f} ({coverage.low:.3f}–{coverage.high:.3f})"
                for field, coverage in envelope.coverage.items()
            )
            sizes = ", ".join(f"{bounds[0]:.4f}, {bounds[-1]:.4f}" for bounds in envelope.bounds.values())
            counts = f"{envelope.calibration}, {envelope.test}"
            yield f"| `{name}` | {envelope.n}, offset {offset} | {counts} | {sizes} | {'; '.join(shares)} |"
    for name, why in envelopes.withheld.items():
        yield f"| `{name}` | – | – | – | none: {why} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--family", action="append")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--print", action="store_true", dest="only_print")
    options = parser.parse_args()
    known = ModelEnvelopes.load(options.model) or ModelEnvelopes(command="")
    if not options.only_print:
        solver = load(options.model, "cpu")
        if not isinstance(solver, UPSSolver | LeadSolver):
            raise SystemExit(f"{options.model} is no trained model")
        with Progress(console=Console(stderr=True)) as progress:
            for name in options.family or cards(solver):
                families, withheld = dict(known.families), dict(known.withheld)
                families.pop(name, None)
                withheld.pop(name, None)
                try:
                    if name in WITHHELD:
                        raise UserError("no_bounds", WITHHELD[name])
                    families[name] = tuple(measured(solver, name, options.workers, progress))
                except UserError as error:
                    if error.code != "no_bounds":
                        raise
                    withheld[name] = error.message
                command = f"python benchmarks/envelope.py models/{options.model.name}"
                known = ModelEnvelopes(command=command, families=families, withheld=withheld)
                known.save(options.model)
    print("\n".join(table(known)))


if __name__ == "__main__":
    main()
