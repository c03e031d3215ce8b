"""Is ups-mini better than an FNO, a U-Net and the published architecture trained for as long on the same data?

`baselines.yaml` says the data and the batches. Everything is trained from scratch for the same wall-clock of training
steps, ups-mini too; side by side, so that a busy machine is as busy for all of them:

    for name in from-scratch fno unet ups-paper; do
        OMP_NUM_THREADS=1 ups train baseline $name benchmarks/baselines.yaml --minutes 45 &
    done

Then the shipped model, which was trained for longer, stands beside them: on files of PDEBench and on the test
trajectories of the data, which chose nothing.

    python benchmarks/baselines.py models/ups-mini [FILE ...] [--json OUT.json] [--picture OUT.png]

The picture shows how the errors grow along the rollouts of the files. Some of them alone, trained for as many steps as
take as long as those of the shipped model (`training_cost.py --beside` counts them), are compared with it by

    OMP_NUM_THREADS=1 ups train baseline unet benchmarks/baselines.yaml --set stage1.minutes=0 \
        --set stage1.steps=STEPS --set validate_every=3000
    python benchmarks/baselines.py models/ups-mini [FILE ...] --beside unet [--recorded EARLIER.json]

`--recorded` takes the columns of competitors that an earlier `--json` holds.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from ups_server.data.formats import open_source
from ups_server.data.splits import Split
from ups_server.data.windows import Windows
from ups_server.evaluation.evaluate import evaluate
from ups_server.pde import family
from ups_server.solvers.neural import UPSSolver, load_neural
from ups_server.train.config import TrainConfig
from ups_server.train.dataset import FamilyWindows, prepare
from ups_server.train.loop import read_position
from ups_server.train.run import RUNS
from ups_server.train.validation import score

RECIPE = Path(__file__).with_suffix(".yaml")
SHIPPED, SCRATCH, COMPETITORS = "shipped", "from-scratch", ("fno", "unet", "ups-paper")
PERSISTENCE = "persistence"
COLUMNS = (SHIPPED, SCRATCH, *COMPETITORS, PERSISTENCE)
RESOLUTION = 128
"""Points per axis at which a file is read, or all where it has fewer."""
TEST_TRAJECTORIES = {1: 48, 2: 6}
"""By dimensions; fewer where the split has no more."""
PIXELS = 110
"""Of the picture, per inch."""
HALF = 0.5
"""Of the best competitor's rollout error: what is asked for."""


def on_file(solvers: dict[str, UPSSolver], file: Path) -> dict[str, Any]:
    """One row: lumped nRMSE one step ahead, and of the rollout over the trajectory-wide norm."""
    with closing(open_source(file)) as source:
        points = min(RESOLUTION, source.grid.n[0])
    found = {name: evaluate(solver, [file], resolution=points)[0] for name, solver in solvers.items()}
    shipped = found[SHIPPED]
    parts = {name: (scores.one_step, scores.rollout) for name, scores in found.items()}
    parts[PERSISTENCE] = (shipped.persistence.one_step, shipped.persistence.rollout)
    return {
        "row": shipped.family,
        "trajectories": shipped.trajectories,
        "points": shipped.resolution,
        "errors": {
            name: {"one_step": one_step and one_step.nrmse, "rollout": rolled.nrmse_trajectory}
            for name, (one_step, rolled) in parts.items()
        },
        "per_step": {name: rolled.per_step_trajectory for name, (_, rolled) in parts.items()},
    }


def on_test_split(solvers: dict[str, UPSSolver], entry: FamilyWindows) -> dict[str, Any]:
    """One row: both errors over the norm of the whole trajectory, on the grid that was trained."""
    grid = entry.training.grid
    windows = Windows(entry.training.store, family(entry.id).dt, grid.n[0], Split.TEST, augment=False)
    count = min(TEST_TRAJECTORIES[grid.ndim], len(windows.rows))
    found = {name: score(solver, entry.id, windows, count) for name, solver in solvers.items()}
    errors = {name: {"one_step": scores.one_step, "rollout": scores.rollout} for name, scores in found.items()}
    persistence = {PERSISTENCE: {"one_step": found[SHIPPED].persistence, "rollout": None}}
    return {"row": entry.id, "trajectories": count, "points": list(grid.n), "errors": errors | persistence}


def join(rows: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]]) -> bool:
    """Takes columns of competitors from `earlier` rows; not if those are of other trajectories or another norm."""
    known = {row["row"]: row for row in earlier}
    if not all(
        row["row"] in known and same(row["errors"][PERSISTENCE], known[row["row"]]["errors"][PERSISTENCE])
        for row in rows
    ):
        return False
    for row in rows:
        for kind in {"errors", "per_step"} & row.keys():
            found = known[row["row"]][kind] | row[kind]
            row[kind] = {name: found[name] for name in COLUMNS if name in found}
    return True


def same(one: dict[str, float | None], other: dict[str, float | None]) -> bool:
    """Whether two scores of persistence, which is not computed by a network, are those of the same task."""
    return all(
        value == other[kind] or math.isclose(value or 0.0, other[kind] or 0.0, rel_tol=1e-6)
        for kind, value in one.items()
    )


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Markdown: one-step / rollout."""
    heading = ["family", "trajectories", *(name for name in COLUMNS if name in rows[0]["errors"])]
    yield "| " + " | ".join(heading) + " |"
    yield "|" + "---|" * len(heading)
    for row in rows:
        cells = [
            " / ".join(figure(row["errors"][name][kind]) for kind in ("one_step", "rollout")) for name in heading[2:]
        ]
        grid = "x".join(map(str, row["points"]))
        yield "| " + " | ".join([f"`{row['row']}` ({grid})", str(row["trajectories"]), *cells]) + " |"


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}" if value >= 10 else f"{value:.4f}"


def verdicts(rows: Sequence[dict[str, Any]], name: str) -> Iterator[str]:
    """What was asked of `name`, and on how many rows it holds."""

    def error(row: dict[str, Any], who: str, kind: str) -> float:
        value = row["errors"][who][kind]
        return float("inf") if value is None else float(value)

    others = [other for other in COMPETITORS if other in rows[0]["errors"]]
    for other in others:
        better = [row["row"] for row in rows if error(row, name, "one_step") <= error(row, other, "one_step")]
        yield f"{name}: one step no worse than {other} on {len(better)} of {len(rows)}"
    half = [
        row["row"]
        for row in rows
        if error(row, name, "rollout") <= HALF * min(error(row, other, "rollout") for other in others)
    ]
    yield f"{name}: rollout at most half of the best competitor's on {len(half)} of {len(rows)}: {', '.join(half)}"
    known = [row for row in rows if row["errors"][PERSISTENCE]["rollout"] is not None]
    if known:
        below = [row for row in known if error(row, name, "rollout") < error(row, PERSISTENCE, "rollout")]
        yield f"{name}: rollout below persistence on {len(below)} of {len(known)}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Error of every step of the rollouts over the norm of the trajectory: a panel a family, a line a solver."""
    from matplotlib.figure import Figure

    across = 4
    down = -(-len(rows) // across)
    figure = Figure(figsize=(3.1 * across, 2.5 * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    style: dict[str, dict[str, Any]] = {
        SHIPPED: {"color": "black", "linewidth": 2},
        PERSISTENCE: {"color": "grey", "linestyle": ":"},
    }
    for panel, row in zip(panels, rows, strict=False):
        for name, values in row["per_step"].items():
            known = [float("nan") if value is None else value for value in values]
            panel.plot(range(1, len(known) + 1), known, label=name, **style.get(name, {}))
        panel.set(yscale="log", title=row["row"], xlabel="step")
        panel.set_ylim(top=3)
    for panel in panels[len(rows) :]:
        panel.set_axis_off()
    panels[0].set_ylabel("error over the norm of the trajectory")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower right", ncols=2, frameon=False)
    figure.savefig(path, dpi=PIXELS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="of PDEBench")
    parser.add_argument("--beside", action="append", choices=(SCRATCH, *COMPETITORS), help="default: all")
    parser.add_argument("--recorded", type=Path, help="what an earlier --json gathered of other competitors")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    recipe = TrainConfig.load(RECIPE)
    trained = {name: RUNS / f"{recipe.name}-{name}" for name in options.beside or (SCRATCH, *COMPETITORS)}
    solvers = {name: load_neural(run / "model", "cpu") for name, run in trained.items()}
    solvers = {SHIPPED: load_neural(options.model, "cpu"), **solvers}
    lengths = {}
    for name, run in trained.items():
        progress = read_position(run)
        if progress is None:
            parser.error(f"{run} holds no finished run")
        lengths[name] = {"minutes": round(progress.seconds / 60, 1), "best_at": progress.best_at}
    console = Console(stderr=True)
    families = prepare(recipe, RUNS / "data", RESOLUTION, {}, lambda *_: None)
    tables = {
        "files": [on_file(solvers, file) for file in track(options.files, "files", console=console)],
        "test split": [on_test_split(solvers, entry) for entry in track(families, "test split", console=console)],
    }
    if options.recorded:
        earlier = json.loads(options.recorded.read_text())
        lengths = earlier["training"] | lengths
        for title, rows in tables.items():
            if not join(rows, earlier["tables"][title]):
                print(f"{title}: {options.recorded} is of other trajectories or another norm, and is not shown")
    for name, length in lengths.items():
        print(f"{name}: {length['minutes']} minutes, best at {length['best_at']}")
    for title, rows in tables.items():
        if rows:
            print(f"\n{title}, one-step / rollout\n\n" + "\n".join(table(rows)) + "\n")
            print("\n".join(line for name in (SHIPPED, SCRATCH) if name in solvers for line in verdicts(rows, name)))
    if options.picture:
        draw(tables["files"], options.picture)
    if options.json:
        record = {"training": lengths, "tables": tables}
        options.json.write_text(json.dumps(record, allow_nan=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
