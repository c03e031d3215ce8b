"""How large are the errors of a shipped model, and does its envelope hold?

For every family of the model, fresh trajectories at PDEBench's own coefficients size a split-conformal envelope, and
others measure how often a rollout stays inside at every step. The envelopes are written into the model's folder. What
was rolled out is kept in `runs/envelope`, where a measurement that was interrupted goes on.

    python benchmarks/envelope.py models/ups-mini [--family burgers ...] [--workers 1]
"""

import argparse
import hashlib
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from ups_server.data.build import build_store
from ups_server.model.envelope import ModelEnvelopes
from ups_server.model.own import of_family
from ups_server.pde import family
from ups_server.solve.calibrate import calibrate
from ups_server.solve.neural import UPSSolver, load_neural

SEED = 9_000_001
CALIBRATION, TEST = 280, 200
FEWER = {"compressible_ns_2d": (140, 120), "shallow_water": (120, 100), "incompressible_ns_2d": (60, 40)}
"""In two dimensions, where trajectories are expensive."""
LEVEL, LOWEST, HIGHEST = 0.9, 0.85, 0.95
SOURCE_POINTS = {"compressible_ns_1d": 512, "compressible_ns_2d": 64, "incompressible_ns_2d": 64}
"""Points the reference is solved at, where not PDEBench's; it is subsampled to the model's."""
COEFFICIENTS = {"advection": {"beta": 0.4}, "burgers": {"nu": 0.001}}
"""Where not the family's defaults."""
STORES = Path("runs") / "envelope"


def errors_folder(solver: UPSSolver, name: str, n: int) -> Path:
    """Where the errors of the family's rollouts are kept: another one for other weights, statistics or points."""
    found = hashlib.sha256(f"{SEED} {n} {solver.model.config.families[name]}".encode())
    for key, value in sorted(of_family(solver.model, name).state_dict().items()):
        found.update(key.encode())
        found.update(value.cpu().contiguous().numpy().tobytes())
    return STORES / f"{name}-errors-{found.hexdigest()[:12]}"


def report(progress: Progress, bar: TaskID, done: int, count: int | None = None) -> None:
    progress.update(bar, completed=done, total=count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--family", action="append")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    solver = load_neural(options.model)
    cards = solver.model.config.families
    known = ModelEnvelopes.load(options.model)
    found = dict(known.families) if known else {}
    with Progress(console=Console(stderr=True)) as progress:
        for name in options.family or cards:
            entry, card = family(name), cards[name]
            calibration, test = FEWER.get(name, (CALIBRATION, TEST))
            points = SOURCE_POINTS.get(name, entry.n)
            n = min(points, solver.model.config.resolution)
            bar, rolled = (
                progress.add_task(f"{name}, {part}", total=calibration + test) for part in ("reference", "rollouts")
            )
            store = build_store(
                entry, COEFFICIENTS.get(name, {}), calibration + test, points, SEED,
                STORES / f"{name}-{calibration + test}", frame_dt=card.dt, progress=partial(report, progress, bar),
                workers=options.workers,
            )  # fmt: skip
            found[name] = calibrate(
                solver, card, store, n, test, LEVEL, partial(report, progress, rolled), errors_folder(solver, name, n)
            )
            command = f"python benchmarks/envelope.py models/{options.model.name}"
            ModelEnvelopes(command=command, families=found).save(options.model)
    table = Table("family", "field", "n", "calibration", "test", "first step", "last step", "coverage", "95 % interval")
    missed = []
    for name, envelope in found.items():
        for field, coverage in envelope.coverage.items():
            bounds = envelope.bounds[field]
            figures = (f"{bounds[0]:.4f}", f"{bounds[-1]:.4f}", f"{coverage.share:.3f}")
            sizes = (str(envelope.n), str(envelope.calibration), str(envelope.test))
            table.add_row(name, field, *sizes, *figures, f"{coverage.low:.3f}-{coverage.high:.3f}")
            if not LOWEST <= coverage.share <= HIGHEST:
                missed.append(f"{name} {field}")
    Console(width=140).print(table)
    print(f"coverage outside {LOWEST}-{HIGHEST}: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
