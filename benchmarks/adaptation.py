"""Few-shot adaptation: (a) transfer to equations a model has never seen, beside an FNO trained from scratch on the same
trajectories; (b) every adaptation method with every tuning, at equal steps, fewer than in (a).

Every run, the FNO's too, trains on the first K of one file for the same steps, chooses its checkpoint on the same
validation trajectories of a second file and is scored on the others of it: the same for every K. Scores are on
trajectories of our own solvers: one-step is teacher forcing, rollout is over the trajectory-wide norm. A finished run
is an entry of the JSON at once; the same command goes on where it was stopped, in the middle of a run too. Both tables
are printed as Markdown from all entries (`adaptation_tables.py` does it alone, and puts them into README or card).

    python benchmarks/adaptation.py [--model ups-mini] [--table a|b] [--targets burgers] [--k 10 50] [--rows lora]
        [--minutes 60] [--list] [--quick]
"""

import argparse
import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.adaptation_tables import FNO_NAME, PLAIN, RESULTS, Record, load, report
from ups_server.align import ALIGNMENTS
from ups_server.data.atomic import replacing
from ups_server.data.simulate import build_store
from ups_server.data.splits import held_out_split
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.model.checkpoint import WEIGHTS_FILE, create, save_pretrained
from ups_server.model.config import FNO, UPSConfig
from ups_server.model.lora import digest
from ups_server.pde import family
from ups_server.solvers.registry import choose_device, model_folder
from ups_server.train.adapt import Interrupted, Place, PreparedAdaptation
from ups_server.train.dataset import held, make_card
from ups_server.train.few_shot import AdaptationSettings, FewShotData
from ups_server.train.loop import Diverged, StepReport
from ups_server.train.run import RUNS, stop_on_signal
from ups_server.train.validation import Score

KS = (10, 50, 100)
METHOD_KS, METHOD_SEEDS = (10, 50), 2
METHOD_TUNINGS = ("full", "lora", "layernorm")
METHOD_STEPS, METHOD_HELD_OUT = 60, 24
"""Of each run of table (b): what two cores can afford of so many."""
TRAINING = 100
"""Trajectories of the file that the K are taken from, or K where that is more."""
QUICK = 4
"""Steps of a run that only shows that it works, and trajectories of its second file."""
HELD_OUT = 64
"""Trajectories of the second file: a quarter chooses the checkpoint, the others are the test."""


@dataclass(frozen=True)
class Target:
    """An equation to adapt to.

    Attributes:
        published: nRMSE of UPS by number of trajectories (thesis 6.2; one-step), 0 being zero-shot.
        methods: is it one of table (b)?
        resolution, steps, held_out: of its runs, where not the model's and the defaults; what two cores can afford.
    """

    label: str
    family: str
    coefficients: tuple[tuple[str, float], ...]
    published: tuple[tuple[int, float], ...]
    methods: bool = True
    resolution: int | None = None
    steps: int | None = None
    held_out: int = HELD_OUT


DR_1D = Target(
    "diffusion-reaction 1-D", "diffusion_reaction_1d", (("nu", 0.5), ("rho", 1.0)),
    ((0, 0.0557), (10, 0.0107), (50, 0.0052), (100, 0.0034), (500, 0.001)),
)  # fmt: skip
BURGERS = Target(
    "Burgers nu = 1.0", "burgers", (("nu", 1.0),),
    ((0, 0.0566), (10, 0.0134), (50, 0.0039), (100, 0.0022), (500, 0.0009)),
)  # fmt: skip
DR_2D = Target(
    "diffusion-reaction 2-D", "diffusion_reaction_2d", (),
    ((0, 1.0593), (10, 0.9982), (50, 0.8464), (100, 0.7532), (500, 0.3625)), methods=False,
    resolution=32, steps=400, held_out=16,
)  # fmt: skip
TARGETS = {target.family: target for target in (DR_1D, BURGERS, DR_2D)}


@dataclass(frozen=True)
class Planned:
    """One run.

    Attributes:
        table: the one it belongs to.
        weights: beginning of the checksum of the model's weights; empty for the FNO, which starts from none.
    """

    table: str
    target: Target
    model: str
    weights: str
    k: int
    alignment: str = PLAIN[0]
    tuning: str = PLAIN[1]
    seed: int = 0
    steps: int | None = None
    resolution: int = 128

    @property
    def id(self) -> str:
        """Names the settings: other settings, or other weights, are another run."""
        told = {**asdict(self), "target": (self.target.family, self.target.coefficients)}
        code = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]
        method = f"{self.alignment}-{self.tuning}-seed{self.seed}"
        return f"{self.table}-{self.target.family}-{self.model}-k{self.k}-{method}-{code}"


def planned(
    model: str, weights: str, resolution: int, targets: Sequence[Target], ks: Sequence[int], tables: str, quick: bool
) -> list[Planned]:
    """Table (a) first, then (b) in rounds of a seed."""
    steps = QUICK if quick else None
    runs = list[Planned]()
    for k in ks if "a" in tables else ():
        for target in targets:
            points = target.resolution or resolution
            own = Planned("a", target, model, weights, k, steps=steps or target.steps, resolution=points)
            runs += [own, replace(own, model=FNO_NAME, weights="", tuning="full")]
    tunings = ("lora",) if quick else METHOD_TUNINGS
    methods = [PLAIN, *((alignment, tuning) for alignment in ALIGNMENTS for tuning in tunings)]
    compared = [replace(target, held_out=METHOD_HELD_OUT) for target in targets if target.methods]
    for seed in range(1 if quick else METHOD_SEEDS) if "b" in tables else ():
        for k in [k for k in ks if quick or k in METHOD_KS]:
            for target in compared[: 1 if quick else None]:
                own = Planned("b", target, model, weights, k, seed=seed, steps=steps or METHOD_STEPS,
                              resolution=resolution)  # fmt: skip
                runs += [replace(own, alignment=alignment, tuning=tuning) for alignment, tuning in methods]
    return runs


@dataclass(frozen=True)
class Counts:
    """Trajectories of the two files of a run."""

    training: int
    held_out: int


def counts_of(run: Planned, quick: bool) -> Counts:
    return Counts(run.k, QUICK) if quick else Counts(max(run.k, TRAINING), run.target.held_out)


def stored(run: Planned, folder: Path, counts: Counts) -> Iterator[Store]:
    """Trajectories of the target to train on, then those held out: generated once, the same for every model."""
    entry, values = family(run.target.family), dict(run.target.coefficients)
    for seed, count in enumerate((counts.training, counts.held_out)):
        path = folder / "data" / f"{entry.id}-{count}-{run.resolution}-seed{seed}"
        with held(path.with_suffix(".lock")):
            yield build_store(entry, values, count, run.resolution, seed, path, frame_dt=entry.dt)


def fresh_fno(run: Planned, training: Store, held_out: int, folder: Path) -> Path:
    """A model folder of an FNO that has learned nothing."""
    split = held_out_split(len(training), run.k, held_out)
    card = make_card(run.target.family, training, run.resolution, split.training)
    torch.manual_seed(run.seed)
    config = FNO.changed(resolution=run.resolution, families={training.family: card})
    save_pretrained(create(config), folder)
    return folder


class Silent:
    """Follows an adaptation without a word but its validations."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def phase(self, name: str, facts: dict[str, Any]) -> None: ...

    def scoring(self, what: str, done: int, total: int) -> None: ...

    def step(self, step: int, steps: int, report: StepReport) -> None: ...

    def saved(self, step: int) -> None: ...

    def validation(self, step: int, score: Score, best: bool) -> None:
        self._console.print(f"  step {step}: {score.one_step:.5f} / {score.rollout:.4f}{' *' if best else ''}")


def result_of(run: Planned, model: Path, folder: Path, counts: Counts, console: Console) -> Record:
    """Adapts and scores, from where the folder of the run stands.

    Raises:
        Interrupted: the same command goes on.
    """
    place = folder / run.id
    place.mkdir(parents=True, exist_ok=True)
    settings = AdaptationSettings(
        n_trajectories=run.k, alignment=run.alignment, tuning=run.tuning, max_steps=run.steps, seed=run.seed
    )
    training, validation = stored(run, folder, counts)
    with closing(training), closing(validation), stop_on_signal() as stop:
        own = run.model != FNO_NAME
        source = model if own else fresh_fno(run, training, counts.held_out, place / FNO_NAME)
        where = Place(place / "work", Silent(console), stop.is_set, choose_device("auto"))
        data = FewShotData(training, run.id, validation, f"{run.target.family} held out")
        found = report_of(source, data, settings, where)
    return record_of(run, found)


def report_of(source: Path | None, data: FewShotData, settings: AdaptationSettings, where: Place) -> dict[str, Any]:
    """What an adaptation says in its end; empty where it diverged."""
    try:
        return PreparedAdaptation(source, data, settings, "tuned", where).run()
    except Diverged:
        return {}
    except UserError as error:
        if error.code != "not_finite":
            raise
        return {}


def record_of(run: Planned, found: dict[str, Any]) -> Record:
    """The entry of a run; without a report it has diverged."""
    return {
        **{name: value for name, value in asdict(run).items() if name != "target"},
        "target": run.target.label,
        "published": {str(k): value for k, value in run.target.published},
        **{name: found.get(name) for name in ("split", "steps", "best_step", "seconds", "memory_bytes", "helped")},
        **{part: figures(found[part]) if found else None for part in ("zero_shot", "tuned", "persistence")},
    }


def figures(scores: dict[str, Any]) -> dict[str, float | None]:
    return {"one_step": scores["one_step"]["nrmse"], "rollout": scores["rollout"]["nrmse_trajectory"]}


def keep(run: Planned, record: Record, path: Path, lock: Path) -> None:
    """Adds an entry to the JSON; runs of several processes do not overwrite one another's."""
    with held(lock):
        entries: dict[str, Record] = json.loads(path.read_text()) if path.is_file() else {}
        entries[run.id] = record
        with replacing(path) as part:
            part.write_text(json.dumps(entries, allow_nan=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def finished(path: Path) -> set[str]:
    return set(json.loads(path.read_text())) if path.is_file() else set()


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="ups-mini", help="a model id or folder")
    parser.add_argument("--table", choices=("a", "b", "ab"), default="ab")
    parser.add_argument("--targets", nargs="+", choices=tuple(TARGETS), help="default: all")
    parser.add_argument("--k", type=int, nargs="+", help=f"numbers of trajectories; default: {KS}")
    parser.add_argument("--rows", nargs="+", default=[""], help="only runs whose id contains one of these")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no run is begun after these")
    parser.add_argument("--list", action="store_true", help="tell the runs and whether they are finished")
    parser.add_argument("--quick", action="store_true", help="four steps on four trajectories: does it work?")
    parser.add_argument("--folder", type=Path, default=RUNS / "adaptation", help="data, and runs that are not finished")
    parser.add_argument("--json", type=Path, help="where finished runs are kept")
    options = parser.parse_args(arguments)
    options.json = options.json or (options.folder / "quick.json" if options.quick else RESULTS)
    return options


def chosen(options: argparse.Namespace, model: Path) -> list[Planned]:
    quick = (DR_1D, BURGERS) if options.quick else tuple(TARGETS.values())
    targets = [TARGETS[name] for name in options.targets] if options.targets else quick
    ks = options.k or ([4] if options.quick else KS)
    weights, resolution = digest(model / WEIGHTS_FILE)[:10], UPSConfig.load(model).resolution
    runs = planned(model.name, weights, resolution, targets, ks, options.table, options.quick)
    return [run for run in runs if any(part in run.id for part in options.rows)]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    model = model_folder(options.model)
    runs, console, started = chosen(options, model), Console(stderr=True), time.monotonic()
    for index, run in enumerate(runs, start=1):
        done = run.id in finished(options.json)
        if options.list:
            print(f"{'finished' if done else '-       '} {run.id}")
            continue
        if done or time.monotonic() - started > 60 * options.minutes:
            continue
        console.print(f"run {index} of {len(runs)}: {run.id}")
        try:
            record = result_of(run, model, options.folder, counts_of(run, options.quick), console)
        except Interrupted:
            console.print("interrupted; the same command goes on")
            break
        keep(run, record, options.json, options.folder / "data" / "results.lock")
        shutil.rmtree(options.folder / run.id)
    if not options.list:
        print("\n".join(report(load(options.json))))
    count = len({run.id for run in runs} & finished(options.json))
    print(f"{count} of {len(runs)} runs finished")


if __name__ == "__main__":
    main()
