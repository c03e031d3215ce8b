"""How many minutes of one core are the shipped weights, and how many steps of a baseline take as long?

Every recipe that the weights went through is timed for a few steps of each of its parts, unrolled as it says, on the
data of `baselines.yaml` (a step costs what its batch costs, whichever trajectories are in it) and with the parts that
the architecture had then, in the code of today. The minutes depend on the machine and on what else it does; steps of
the baselines are timed in between, so that the number of them that takes as long does not:

    OMP_NUM_THREADS=1 python benchmarks/training_cost.py models/ups-mini --beside unet --beside ups-paper [--json OUT]
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ups_server.align import ALIGNMENTS
from ups_server.model.checkpoint import create
from ups_server.processes import keep_freed_memory
from ups_server.train.baseline import BASELINES, baseline_config
from ups_server.train.config import FamilyData, Stage, TrainConfig
from ups_server.train.dataset import FamilyWindows, prepare
from ups_server.train.loop import StageTrainer
from ups_server.train.run import RUNS, check_config

DATA = Path(__file__).with_name("baselines.yaml")
STEPS = {
    "01_three_families": 6000,
    "02_thin_shocks": 4000,
    "03_language_model": 240,
    "04_seven_families": 550,
    "05_flows_at_32_points": 1300,
    "06_flows_at_64_points": 400,
    "07_advection_and_sorption": 240,
    "08_transport": 1200,
    "09_smaller_steps": 600,
    "10_projection": 880,
    "11_deltas_of_diffusion_sorption": 2400,
    "12_deltas_of_compressible_ns_1d": 2000,
    "13_deltas_of_burgers": 2000,
    "14_deltas_of_advection": 1200,
    "15_burgers_at_256_points": 3000,
    "16_compressible_ns_1d_at_256_points": 1600,
}
"""Made with each recipe, in order; fewer than it says where it was ended by hand (the card)."""
VERSION_3: dict[str, object] = {"projection": False, "retention": False}
VERSION_2 = VERSION_3 | {"transport": False}
VERSION_1 = VERSION_2 | {"joint_modes": 0, "defect": False, "levels": False, "padding": 0.25}
LACKED = {
    **dict.fromkeys(list(STEPS)[:3], VERSION_1),
    **dict.fromkeys(list(STEPS)[3:7], VERSION_2),
    **dict.fromkeys(list(STEPS)[7:9], VERSION_3),
}
"""What the architecture did not have yet in a recipe."""
BATCH = ("trajectories", "windows", "every", "early", "unroll", "n", "coarse")
"""What a recipe says of a family's part of a step."""
LEAST_TIMED = 4
ROUNDS = 3
"""How often the steps of the baselines are timed among the recipes."""


def recipe_minutes(path: Path, steps: int, data: dict[str, FamilyWindows]) -> float:
    """Minutes of `steps` steps of the recipe."""
    recipe = TrainConfig.load(path)
    index = 0 if recipe.stage1.steps else 1
    entries = [as_batched(data[name], batch) for name, batch in recipe.families.items()]
    return steps * step_seconds(recipe, index, entries, steps, LACKED.get(path.stem)) / 60


def baseline_seconds(name: str, data: dict[str, FamilyWindows]) -> list[float]:
    """Seconds of a step of each stage of a baseline that is trained by steps; 0 where it has no such stage."""
    config = baseline_config(TrainConfig.load(DATA), name)
    entries = list(data.values())
    return [
        step_seconds(config, index, entries) if stage.minutes or stage.steps else 0.0
        for index, stage in enumerate((config.stage1, config.stage2))
    ]


def as_many(name: str, minutes: float, seconds: list[float]) -> list[int]:
    """Steps of each stage of a baseline that take so many minutes together, divided as its recipe divides them."""
    config = baseline_config(TrainConfig.load(DATA), name, minutes=minutes)
    stages = (config.stage1, config.stage2)
    return [round(60 * stage.minutes / each) if each else 0 for stage, each in zip(stages, seconds, strict=True)]


def step_seconds(
    config: TrainConfig,
    index: int,
    entries: list[FamilyWindows],
    made: int | None = None,
    lacked: dict[str, object] | None = None,
) -> float:
    """Seconds of a step of a stage, the mean over its parts, from a few of each; `made`: its steps, default all."""
    families = {"families": {entry.id: entry.card for entry in entries}}
    model = create(check_config(config).with_settings((lacked or {}) | families))
    stage, seconds = (config.stage1, config.stage2)[index], 0.0
    stage = stage.model_copy(update={"minutes": 0.0, "steps": stage.steps or 1})
    for unroll, share in parts(stage, made or stage.steps):
        timed = stage.model_copy(update={"steps": 10**6, "unroll": ((0.0, unroll),)})
        changed = config.model_copy(update={("stage1", "stage2")[index]: timed})
        trainer = StageTrainer(model, entries, changed, index, ALIGNMENTS[stage.alignment]())
        trainer.run_step()
        count = max(LEAST_TIMED, math.lcm(*(entry.data.every for entry in entries)))
        before = trainer.seconds
        for _ in range(count):
            trainer.run_step()
        seconds += share * (trainer.seconds - before) / count
    return seconds


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
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--beside", action="append", default=[], choices=list(BASELINES))
    parser.add_argument("--workers", type=int, default=1, help="processes that generate the data")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    plan = TrainConfig.load(DATA)
    families = prepare(plan, RUNS / "data", check_config(plan).resolution, {}, lambda *_: None, options.workers)
    data = {entry.id: entry for entry in families}
    table = Table("recipe", "steps", "minutes")
    minutes, timed = dict[str, float](), {name: list[list[float]]() for name in options.beside}
    for index, (name, steps) in enumerate(STEPS.items()):
        if index % -(-len(STEPS) // ROUNDS) == 0:
            for other, seconds in timed.items():
                seconds.append(baseline_seconds(other, data))
        minutes[name] = recipe_minutes(options.model / "recipes" / f"{name}.yaml", steps, data)
        table.add_row(name, str(steps), f"{minutes[name]:.1f}")
    total = sum(minutes.values())
    table.add_row("all", str(sum(STEPS.values())), f"{total:.1f}")
    console = Console()
    console.print(table)
    means = {name: [sum(stage) / len(stage) for stage in zip(*seconds, strict=True)] for name, seconds in timed.items()}
    equal = {name: as_many(name, total, seconds) for name, seconds in means.items()}
    for name, counts in equal.items():
        console.print(f"as long: {name}, {' and '.join(str(count) for count in counts if count)} steps")
    if options.json:
        record = {"threads": torch.get_num_threads(), "steps": STEPS, "minutes": minutes, "as_long": equal}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
