"""What each design decision of ups-mini is worth at equal wall-clock: one axis of the recipe changed at a time.

`ablation.yaml` holds the base recipe and the variants of every axis; `language_model.yaml` another plan, of what the
language model adds to the shipped weights. Each variant is trained with each seed for the same minutes of training
steps on the same data and scored on the test split, which chose nothing. A finished run leaves a small JSON file in
`runs/ablation`; the same command goes on where it was stopped, in the middle of a run too. Wall-clock compares only
runs that had the machine to the same degree: on two cores, a seed on each, side by side.

    python benchmarks/ablation.py [--minutes 20] [--seeds 2] [--axis output] [--json models/ups-mini/ablation.json]
    python benchmarks/ablation.py --seeds 1 & python benchmarks/ablation.py --seeds 1 --first-seed 1
    python benchmarks/ablation.py --plan benchmarks/language_model.yaml --minutes 5 \\
        [--json models/ups-mini/language_model.json]
"""

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from ups_server.data.splits import Split
from ups_server.data.windows import Windows
from ups_server.errors import UserError
from ups_server.model.checkpoint import from_pretrained
from ups_server.pde import family
from ups_server.solvers.neural import UPSSolver
from ups_server.train.config import TrainConfig, overridden
from ups_server.train.loop import Diverged, read_position
from ups_server.train.run import RUNS, TerminalListener, TrainingRun, stop_on_signal
from ups_server.train.validation import Score, score

PLAN = Path(__file__).with_suffix(".yaml")
MOST_MINUTES = 20.0
TEST_TRAJECTORIES = 32
BASE = "base"


@dataclass(frozen=True)
class Planned:
    """One run: a variant with a seed."""

    axis: str
    variant: str
    config: TrainConfig

    @property
    def id(self) -> str:
        """Names the settings: another recipe, length or seed is another run."""
        digest = hashlib.sha256(self.config.model_dump_json(exclude={"name"}).encode()).hexdigest()[:10]
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.axis} {self.variant}".lower()).strip("-")
        return f"{words}-seed{self.config.seed}-{digest}"


def read_plan(path: Path) -> dict[str, Any]:
    """A plan, whose recipe may start from a model folder, named relative to the plan."""
    plan: dict[str, Any] = yaml.safe_load(path.read_text())
    init = plan["recipe"].get("init")
    if init is not None:
        plan["recipe"]["init"] = os.path.relpath(path.parent / init)
    return plan


def planned(plan: dict[str, Any], minutes: float, seeds: range, count: int | None, axes: list[str]) -> list[Planned]:
    """Every run, in rounds of a seed: after the first round every axis has a result."""
    recipe = TrainConfig.model_validate(plan["recipe"])
    scale = minutes / (recipe.stage1.minutes + recipe.stage2.minutes)
    shared: dict[str, object] = {
        f"{stage}.minutes": scale * getattr(recipe, stage).minutes for stage in ("stage1", "stage2")
    }
    if count is not None:
        shared |= {f"families.{name}.count": count for name in recipe.families}
    variants = [(BASE, BASE, {})] + [
        (axis, variant, changes) for axis in axes for variant, changes in plan["axes"][axis].items() if variant != BASE
    ]
    return [
        Planned(axis, variant, overridden(recipe, shared | changes | {"seed": seed}))
        for seed in seeds
        for axis, variant, changes in variants
    ]


def result_of(run: Planned, folder: Path, device: str | None, workers: int) -> dict[str, Any]:
    """Trains and scores; the folder of the run is dropped when its result is kept.

    Raises:
        UserError: ``training_interrupted``; the same command goes on.
    """
    path, place = folder / f"{run.id}.json", folder / run.id
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    place.mkdir(parents=True, exist_ok=True)
    config = run.config.model_copy(update={"name": run.id})
    with stop_on_signal() as stop, TerminalListener(place) as listener:
        training = TrainingRun(config, place, listener, device, stop.is_set, workers, RUNS / "data")
        try:
            complete = training.train()
        except Diverged:
            complete, scores = True, {entry.id: Score(math.inf, math.inf, math.nan) for entry in training.families}
        else:
            scores = tested(place, training) if complete else {}
    if not complete:
        raise UserError("training_interrupted", "the ablation was interrupted", hint="the same command resumes it")
    progress = read_position(place)
    record = {
        "axis": run.axis,
        "variant": run.variant,
        "seed": run.config.seed,
        "seconds": None if progress is None else round(progress.seconds, 1),
        "steps_of_stage_2": None if progress is None else progress.step,
        "best_at": None if progress is None else progress.best_at,
        "scores": {name: {key: finite(value) for key, value in vars(s).items()} for name, s in scores.items()},
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, allow_nan=False, indent=2) + "\n")
    part.replace(path)
    shutil.rmtree(place)
    return record


def tested(place: Path, training: TrainingRun) -> dict[str, Score]:
    """The model that the run kept, on trajectories of the test split."""
    if not (place / "best").exists():
        return {entry.id: Score(math.inf, math.inf, math.nan) for entry in training.families}
    solver = UPSSolver(from_pretrained(place / "best", training.device))
    scores = {}
    for entry in training.families:
        known = entry.training
        windows = Windows(known.store, family(entry.id).dt, known.grid.n[0], Split.TEST, augment=False)
        scores[entry.id] = score(solver, entry.id, windows, TEST_TRAJECTORIES)
    return scores


def finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def table(axes: list[str], plan: dict[str, Any], results: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown: one-step / rollout of every variant; mean over seeds, and half the distance of the outermost."""
    names = list(plan["recipe"]["families"])
    heading = ["axis", "variant", "seeds", *names]
    yield "| " + " | ".join(heading) + " |"
    yield "|" + "---|" * len(heading)
    described = ", ".join(dict.fromkeys(plan["axes"][axis][BASE] for axis in axes))
    labels = {(BASE, BASE): ("**base**", described)}
    labels |= {(axis, name): (axis, name) for axis in axes for name in plan["axes"][axis] if name != BASE}
    for variant, label in labels.items():
        own = [result["scores"] for result in results if (result["axis"], result["variant"]) == variant]
        figures = [
            " / ".join(spread([scores[name][kind] for scores in own]) for kind in ("one_step", "rollout"))
            for name in names
        ]
        yield "| " + " | ".join([*label, str(len(own)), *figures]) + " |"


def spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "diverged" if values else "-"
    failed = len(values) - len(known)
    text = rounded(statistics.mean(known), 2)
    if len(known) > 1:
        text += f" ± {rounded((max(known) - min(known)) / 2, 1)}"
    return text + (f" ({failed} diverged)" if failed else "")


def rounded(value: float, digits: int) -> str:
    """To so many significant digits, without an exponent from 0.0001 to a million."""
    return f"{float(f'{value:.{digits}g}'):g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--minutes", type=float, default=MOST_MINUTES, help="of training steps, per run")
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--axis", action="append", help="of the plan; default: all")
    parser.add_argument("--count", type=int, help="trajectories per family; default: the recipe's")
    parser.add_argument("--folder", type=Path, default=RUNS / "ablation")
    parser.add_argument("--device")
    parser.add_argument("--workers", type=int, default=1, help="processes that generate the data")
    parser.add_argument("--json", type=Path, help="where the results are gathered")
    options = parser.parse_args()
    if not 0 < options.minutes <= MOST_MINUTES:
        parser.error(f"--minutes: a run is at most {MOST_MINUTES:g} minutes long")
    plan = read_plan(options.plan)
    axes = options.axis or list(plan["axes"])
    if unknown := set(axes) - plan["axes"].keys():
        parser.error(f"--axis: {', '.join(sorted(unknown))} is not among {', '.join(plan['axes'])}")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    runs = planned(plan, options.minutes, seeds, options.count, axes)
    console, results = Console(stderr=True), []
    for index, run in enumerate(runs, start=1):
        console.print(f"run {index} of {len(runs)}: {run.axis}, {run.variant}, seed {run.config.seed}")
        try:
            results.append(result_of(run, options.folder, options.device, options.workers))
        except UserError as error:
            console.print(str(error))
            raise SystemExit(2) from error
    print(f"{options.minutes:g} minutes a run; test split; error over the trajectory-wide norm, mean over fields\n")
    print("\n".join(table(axes, plan, results)))
    print(f"\n{len(results)} of {len(runs)} runs finished")
    if options.json:
        record = {"minutes": options.minutes, "seeds": options.seeds, "recipe": plan["recipe"], "results": results}
        options.json.write_text(json.dumps(record, allow_nan=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
