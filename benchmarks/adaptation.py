"""Few-shot adaptation: (a) transfer to equations a model has never seen, beside an FNO trained from scratch on the same
trajectories; (b) every adaptation method with every tuning at equal steps.

A finished run leaves a small JSON file in `runs/adaptation`; the same command goes on where it was stopped, in the
middle of a run too. Scores are on held-out trajectories of our own solvers: one-step is teacher forcing, rollout is
over the trajectory-wide norm. Both tables are printed as Markdown from what is finished.

    python benchmarks/adaptation.py [--model ups-mini] [--table a|b] [--k 10 50] [--minutes 60] [--quick]
"""

import argparse
import hashlib
import json
import math
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ups_server.align.registry import ALIGNMENTS
from ups_server.data.build import build_store
from ups_server.data.splits import few_shot_split
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.model.checkpoint import create, save_pretrained
from ups_server.model.config import FNO, UPSConfig
from ups_server.pde import family
from ups_server.solve.solver import choose_device, model_folder
from ups_server.train import RUNS, stop_on_signal
from ups_server.train.adapt import Adaptation, Interrupted, Place
from ups_server.train.dataset import make_card
from ups_server.train.few_shot import AdaptationSettings
from ups_server.train.loop import Diverged, StepReport
from ups_server.train.trajectories import FewShotData
from ups_server.train.validate import Score

KS = (10, 50, 100)
HELD_OUT = 64
"""Trajectories besides those to train on: a quarter for validation, the rest for the test."""
FNO_NAME = "fno"


@dataclass(frozen=True)
class Target:
    """An equation to adapt to.

    Attributes:
        published: nRMSE of UPS by number of trajectories (thesis 6.2; one-step), 0 being zero-shot.
    """

    label: str
    family: str
    coefficients: tuple[tuple[str, float], ...]
    published: tuple[tuple[int, float], ...]


DR_1D = Target(
    "diffusion-reaction 1-D", "diffusion_reaction_1d", (("nu", 0.5), ("rho", 1.0)),
    ((0, 0.0557), (10, 0.0107), (50, 0.0052), (100, 0.0034), (500, 0.001)),
)  # fmt: skip
DR_2D = Target(
    "diffusion-reaction 2-D", "diffusion_reaction_2d", (),
    ((0, 1.0593), (10, 0.9982), (50, 0.8464), (100, 0.7532), (500, 0.3625)),
)  # fmt: skip
BURGERS = Target(
    "Burgers nu = 1.0", "burgers", (("nu", 1.0),),
    ((0, 0.0566), (10, 0.0134), (50, 0.0039), (100, 0.0022), (500, 0.0009)),
)  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """One run."""

    table: str
    target: Target
    model: str
    k: int
    alignment: str = "none"
    tuning: str = "full"
    seed: int = 0
    steps: int | None = None
    resolution: int = 128

    @property
    def id(self) -> str:
        """Names the settings: other settings are another run. Both tables share what they have in common."""
        digest = hashlib.sha256(json.dumps(asdict(replace(self, table="")), sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.target.family}-{self.model}-k{self.k}-{self.alignment}-{self.tuning}-seed{self.seed}-{digest}"


def planned(model: str, resolution: int, quick: bool, ks: Sequence[int], tables: str) -> Iterator[Planned]:
    """Table (a) first, then (b) in rounds of a seed."""
    steps = 4 if quick else None
    for k in ks if "a" in tables else ():
        for target in (DR_1D, BURGERS) if quick else (DR_1D, BURGERS, DR_2D):
            for name in (model, FNO_NAME):
                yield Planned("a", target, name, k, steps=steps, resolution=resolution)
    tunings = ("full", "lora") if quick else ("full", "lora", "layernorm")
    for seed in (range(1 if quick else 2)) if "b" in tables else ():
        for k in ks[:1] if quick else [k for k in ks if k <= 50]:
            for target in (DR_1D,) if quick else (DR_1D, BURGERS):
                for alignment in ALIGNMENTS:
                    for tuning in tunings:
                        yield Planned("b", target, model, k, alignment, tuning, seed, steps, resolution)


def stored(run: Planned, folder: Path, held_out: int) -> Store:
    """Trajectories of the target, generated once for every k."""
    entry = family(run.target.family)
    path = folder / "data" / f"{entry.id}-{run.k + held_out}-{run.resolution}"
    values = dict(run.target.coefficients)
    return build_store(entry, values, run.k + held_out, run.resolution, 0, path, frame_dt=entry.dt)


def fresh_fno(run: Planned, store: Store, folder: Path) -> Path:
    """A model folder of an FNO that has learned nothing."""
    split = few_shot_split(len(store), run.k)
    card = make_card(run.target.family, store, run.resolution, split.training)
    torch.manual_seed(run.seed)
    save_pretrained(
        create(FNO.model_copy(update={"resolution": run.resolution, "families": {store.family: card}})), folder
    )
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


def result_of(run: Planned, model: Path, folder: Path, held_out: int, console: Console) -> dict[str, Any]:
    """Adapts and scores; the folder of the run is dropped when its result is kept.

    Raises:
        Interrupted: the same command goes on.
    """
    path, place = folder / f"{run.id}.json", folder / run.id
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    place.mkdir(parents=True, exist_ok=True)
    settings = AdaptationSettings(
        n_trajectories=run.k, alignment=run.alignment, tuning=run.tuning, max_steps=run.steps, seed=run.seed
    )
    with closing(stored(run, folder, held_out)) as store, stop_on_signal() as stop:
        source = fresh_fno(run, store, place / FNO_NAME) if run.model == FNO_NAME else model
        where = Place(place / "work", Silent(console), stop.is_set, choose_device("auto"))
        try:
            report = Adaptation(source, FewShotData(store, run.id), settings, "tuned", where).run()
        except (Diverged, UserError) as error:
            if isinstance(error, UserError) and error.code != "not_finite":
                raise
            report = {}
    parts = ("zero_shot", "tuned", "persistence")
    record = {
        **{name: value for name, value in asdict(run).items() if name not in ("table", "target")},
        "target": run.target.label,
        "steps": report.get("steps"),
        "seconds": report.get("seconds"),
        "helped": report.get("helped"),
        **{part: figures(report[part]) if report else None for part in parts},
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, allow_nan=False, indent=1) + "\n")
    part.replace(path)
    shutil.rmtree(place)
    return record


def figures(scores: dict[str, Any]) -> dict[str, float | None]:
    return {"one_step": scores["one_step"]["nrmse"], "rollout": scores["rollout"]["nrmse_trajectory"]}


def shown(record: dict[str, Any] | None, part: str) -> str:
    """`one-step / rollout` of a part of a result."""
    if record is None:
        return "-"
    if record[part] is None:
        return "diverged"
    return " / ".join("inf" if value is None else f"{value:.4f}" for value in record[part].values())


def transfer_table(runs: list[Planned], results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Table (a): one row a target and number of trajectories, one-step / rollout."""
    yield "| target | k | zero-shot | tuned | FNO from scratch on the same | persistence | UPS, published one-step |"
    yield "|" + "---|" * 7
    for run in runs:
        if run.table != "a" or run.model == FNO_NAME:
            continue
        own, fno = results.get(run.id), results.get(replace(run, model=FNO_NAME).id)
        ups = dict(run.target.published)
        published = f"{ups[0]:.4f} to {ups[run.k]:.4f}" if run.k in ups else "-"
        cells = [shown(own, "zero_shot"), shown(own, "tuned"), shown(fno, "tuned"), shown(own, "persistence")]
        yield "| " + " | ".join([run.target.label, str(run.k), *cells, published]) + " |"


def method_table(runs: list[Planned], results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Table (b): one row a method, mean over seeds and half the distance of the outermost, one-step / rollout."""
    rows = [run for run in runs if run.table == "b"]
    columns = list(dict.fromkeys((run.target.label, run.k) for run in rows))
    yield "| alignment | tuning | " + " | ".join(f"{label}, k = {k}" for label, k in columns) + " |"
    yield "|" + "---|" * (2 + len(columns))
    for alignment, tuning in dict.fromkeys((run.alignment, run.tuning) for run in rows):
        cells = []
        for column in columns:
            found = [
                results[run.id]
                for run in rows
                if (run.alignment, run.tuning, (run.target.label, run.k)) == (alignment, tuning, column)
                and run.id in results
            ]
            cells.append(" / ".join(spread(found, name) for name in ("one_step", "rollout")) if found else "-")
        yield "| " + " | ".join([alignment, tuning, *cells]) + " |"


def spread(results: list[dict[str, Any]], name: str) -> str:
    values = [math.inf if result["tuned"] is None else result["tuned"][name] or math.inf for result in results]
    if not all(map(math.isfinite, values)):
        return "diverged"
    half = f" ± {(max(values) - min(values)) / 2:.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{half}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="ups-mini", help="a model id or folder")
    parser.add_argument("--table", choices=("a", "b", "ab"), default="ab")
    parser.add_argument("--k", type=int, nargs="+", help=f"numbers of trajectories; default: {KS}")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no run is begun after these")
    parser.add_argument("--quick", action="store_true", help="four steps on four trajectories: does it work?")
    parser.add_argument("--folder", type=Path, default=RUNS / "adaptation")
    parser.add_argument("--json", type=Path, help="where the results are gathered")
    options = parser.parse_args(arguments)
    model = model_folder(options.model)
    ks = options.k or ([4] if options.quick else KS)
    runs = list(planned(model.name, UPSConfig.load(model).resolution, options.quick, ks, options.table))
    console, results, started = Console(stderr=True), dict[str, dict[str, Any]](), time.monotonic()
    for index, run in enumerate(runs, start=1):
        if time.monotonic() - started > 60 * options.minutes and not (options.folder / f"{run.id}.json").exists():
            continue
        console.print(f"run {index} of {len(runs)}: {run.id}")
        try:
            results[run.id] = result_of(run, model, options.folder, 4 if options.quick else HELD_OUT, console)
        except Interrupted:
            console.print("interrupted; the same command goes on")
            break
    for letter, table in (("a", transfer_table), ("b", method_table)):
        if letter in options.table:
            print("\n".join(table(runs, results)) + "\n")
    print(f"{len(results)} of {len({run.id for run in runs})} runs finished")
    if options.json:
        options.json.write_text(json.dumps(list(results.values()), allow_nan=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
