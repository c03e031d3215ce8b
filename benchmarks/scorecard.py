"""The scores on the card of a shipped model: fresh trajectories of the reference solvers, one-step and rollout.

The initial states are drawn with a seed of their own, at PDEBench's resolution and coefficients; every score stands
beside persistence and beside the same model without its language model, with a random one, and with steps that are not
averaged over the symmetry of the equation. What lies outside the training is asked by `unseen.py`.

    python benchmarks/scorecard.py models/ups-mini [-n 32] [--json models/ups-mini/fresh.json]
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ups_server.data.simulate import generate
from ups_server.evaluation.evaluate import evaluate
from ups_server.evaluation.scores import FileScores, PerField
from ups_server.model.operator import BodyControl
from ups_server.pde import family
from ups_server.solvers.neural import UPSSolver, load_neural

SEED = 7_000_001
BODIES: dict[str, BodyControl] = {"no body": "none", "random body": "random"}
NOT_AVERAGED = "not averaged"
PERSISTENCE = "persistence"


@dataclass(frozen=True)
class Case:
    """What is scored, and on which grid: `share` is the part of the asked number of trajectories that is affordable."""

    family: str
    coefficients: dict[str, float]
    resolution: int = 128
    share: float = 1.0


CASES = (
    *(Case("advection", {"beta": beta}) for beta in (0.1, 0.4, 1.0, 4.0)),
    *(Case("burgers", {"nu": nu}) for nu in (0.001, 0.01, 0.1, 0.4)),
    Case("diffusion_sorption", {}),
    *(Case("compressible_ns_1d", {"eta": eta, "zeta": eta}) for eta in (0.1, 0.03)),
    Case("shallow_water", {}, share=0.0625),
    Case("compressible_ns_2d", {"M": 0.1, "eta": 0.1, "zeta": 0.1}, share=0.25),
    Case("incompressible_ns_2d", {"nu": 0.01}, resolution=64, share=0.25),
)
T_FINAL = {"incompressible_ns_2d": 0.5}
"""Time of the last frame, where not the family's."""


def fresh_file(case: Case, count: int, folder: Path, seed: int) -> Path:
    """A file of fresh trajectories in PDEBench's layout; its name carries the coefficients."""
    entry = family(case.family)
    name = "_".join([case.family, *(f"{key}{value:g}" for key, value in case.coefficients.items())])
    path = folder / f"{name}.hdf5"
    count = max(1, round(count * case.share))
    t_final = T_FINAL.get(case.family)
    return generate(entry, case.coefficients, count, entry.n, path, seed, frame_dt=entry.dt, t_final=t_final)


def controls(folder: Path) -> dict[str, UPSSolver]:
    """The model with one part changed."""
    found = {name: load_neural(folder, "cpu", body) for name, body in BODIES.items()}
    plain = load_neural(folder, "cpu")
    plain.model.config = plain.model.config.changed(averaged=False)
    return found | {NOT_AVERAGED: plain}


def row(case: Case, full: FileScores, others: Sequence[FileScores]) -> list[str]:
    name = " ".join([case.family, *(f"{key}={value:g}" for key, value in case.coefficients.items())])
    one_step = [scored.one_step for scored in (full, *others) if scored.one_step is not None]
    one_step.append(full.persistence.one_step)
    rolled = [*(scored.rollout for scored in (full, *others)), full.persistence.rollout]
    return [
        name,
        str(full.trajectories),
        *(figure(part.nrmse) for part in one_step),
        per_field(one_step[0].skill_per_field),
        *(figure(part.nrmse_trajectory) for part in rolled),
        per_field(rolled[0].per_field),
    ]


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def per_field(values: PerField) -> str:
    return " / ".join("–" if value is None else f"{value:.3g}" for value in values.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", "--count", type=int, default=32)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    solvers = {"model": load_neural(options.model, "cpu"), **controls(options.model)}
    compared = [*list(solvers)[1:], PERSISTENCE]
    heading = ["equation", "trajectories", "one-step", *compared, "skill per field", "rollout", *compared, "per field"]
    rows, results, diverged = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for case in track(CASES, "scoring", console=Console(stderr=True)):
            file = fresh_file(case, options.count, Path(folder), SEED)
            found = {name: evaluate(each, [file], resolution=case.resolution)[0] for name, each in solvers.items()}
            full, *others = found.values()
            results.append({name.replace(" ", "_"): scored.as_dict() for name, scored in found.items()})
            rows.append(row(case, full, others))
            if not full.rollout.finite:
                diverged.append(file.stem)
    title = (
        f"{solvers['model'].name}, {options.count} trajectories a row, fewer in 2-D; rollout over the trajectory norm"
    )
    table = Table(*heading, title=title)
    for cells in rows:
        table.add_row(*cells)
    console = Console(width=140)
    console.print(table)
    print("\n| " + " | ".join(heading) + " |\n|" + "---|" * len(heading))
    print("\n".join("| " + " | ".join(cells) + " |" for cells in rows))
    if options.json:
        command = f"python benchmarks/scorecard.py models/{options.model.name} -n {options.count}"
        record = {"command": command, "seed": SEED, "cases": results}
        options.json.write_text(json.dumps(record, allow_nan=False) + "\n")
    print(f"\nrollouts that diverged: {', '.join(diverged) or 'none'}")


if __name__ == "__main__":
    main()
