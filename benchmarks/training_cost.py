"""How many minutes of one core are the shipped weights, and for how long must a baseline be trained to compare?

Every recipe that the weights went through is timed for a few steps of each of its parts, unrolled as it says, on the
data of `baselines.yaml` (a step costs what its batch costs, whichever trajectories are in it) and with the parts that
the architecture had then, in the code of today. Alone on a core, as the baselines should be too:

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/training_cost.py models/ups-mini [--json OUT.json]
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ups_server.align.registry import ALIGNMENTS
from ups_server.model.checkpoint import create
from ups_server.train import RUNS
from ups_server.train.config import FamilyData, Stage, TrainConfig
from ups_server.train.dataset import FamilyWindows, prepare
from ups_server.train.loop import StageTrainer
from ups_server.train.run import check_config

DATA = Path(__file__).with_name("baselines.yaml")
STEPS = {
    "train": 6000, "refine": 4000, "stage2": 240, "grow": 550, "mix": 1300, "finish": 400, "polish": 240, "carry": 1200,
    "settle": 600, "project": 880, "own_diffusion_sorption": 2400, "own_compressible_ns_1d": 2000, "own_burgers": 2000,
    "own_advection": 1200, "fine_burgers": 3000, "fine_compressible_ns_1d": 1600,
}  # fmt: skip
"""Made with each recipe, in order; fewer than it says where it was ended by hand (the card)."""
VERSION_3: dict[str, object] = {"projection": False, "retention": False}
VERSION_2 = VERSION_3 | {"transport": False}
VERSION_1 = VERSION_2 | {"joint_modes": 0, "defect": False, "levels": False, "padding": 0.25}
LACKED = {
    **dict.fromkeys(("train", "refine", "stage2"), VERSION_1),
    **dict.fromkeys(("grow", "mix", "finish", "polish"), VERSION_2),
    **dict.fromkeys(("carry", "settle"), VERSION_3),
}
"""What the architecture did not have yet in a recipe."""
BATCH = ("trajectories", "windows", "every", "early", "unroll", "n", "coarse")
"""What a recipe says of a family's part of a step."""
LEAST_TIMED = 4


def recipe_minutes(path: Path, steps: int, data: dict[str, FamilyWindows]) -> float:
    """Minutes of `steps` steps of the recipe, from a few of each of its parts."""
    recipe = TrainConfig.load(path)
    index = 0 if recipe.stage1.steps else 1
    stage = (recipe.stage1, recipe.stage2)[index]
    entries = [as_batched(data[name], batch) for name, batch in recipe.families.items()]
    families = {"families": {entry.id: entry.card for entry in entries}}
    model = create(check_config(recipe).model_copy(update=LACKED.get(path.stem, {}) | families))
    seconds = 0.0
    for unroll, share in parts(stage, steps):
        timed = stage.model_copy(update={"steps": 10**6, "unroll": ((0.0, unroll),)})
        config = recipe.model_copy(update={("stage1", "stage2")[index]: timed})
        trainer = StageTrainer(model, entries, config, index, ALIGNMENTS[stage.alignment]())
        trainer.run_step()
        count = max(LEAST_TIMED, math.lcm(*(entry.data.every for entry in entries)))
        before = trainer.seconds
        for _ in range(count):
            trainer.run_step()
        seconds += steps * share * (trainer.seconds - before) / count
    return seconds / 60


def as_batched(entry: FamilyWindows, batch: FamilyData) -> FamilyWindows:
    """The trajectories of `entry`, in a step as `batch` takes them."""
    changed = entry.data.model_copy(update={name: getattr(batch, name) for name in BATCH})
    n = min(batch.n or entry.training.grid.n[0], changed.resolution)
    return FamilyWindows(entry.id, changed, entry.training.store, n)


def parts(stage: Stage, steps: int) -> Iterator[tuple[int, float]]:
    """(unrolled steps, share of the steps made) of a stage that may have ended early."""
    made = steps / stage.steps
    bounds = [start for start, _ in stage.unroll] + [1.0]
    for (start, unroll), end in zip(stage.unroll, bounds[1:], strict=True):
        share = max(min(end, made) - start, 0.0) / made
        if share:
            yield unroll, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--workers", type=int, default=1, help="processes that generate the data")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    plan = TrainConfig.load(DATA)
    families = prepare(plan, RUNS / "data", check_config(plan).resolution, {}, lambda *_: None, options.workers)
    data = {entry.id: entry for entry in families}
    table = Table("recipe", "steps", "minutes")
    minutes = {}
    for name, steps in STEPS.items():
        minutes[name] = recipe_minutes(options.model / f"{name}.yaml", steps, data)
        table.add_row(name, str(steps), f"{minutes[name]:.1f}")
    table.add_row("all", str(sum(STEPS.values())), f"{sum(minutes.values()):.1f}")
    Console().print(table)
    if options.json:
        record = {"threads": torch.get_num_threads(), "steps": STEPS, "minutes": minutes}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
