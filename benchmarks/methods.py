"""Methods of cross-modal fine-tuning side by side, as their papers have them: fresh starts around a language model, the
same around random weights, and the tuning of a trained model.

    python benchmarks/methods.py [--problems burgers darcy] [--k 10 100] [--methods ORCA PaRe] [--seeds 3] [--list]
        [--minutes 60] [--write docs/adapting.md] [--quick]

Every run trains on the first K of one file, chooses its checkpoint on a quarter of a second file and is scored on the
others of it: the same for every method and K. A run has so many steps; with equal minutes, as many steps as its method
makes in them, by the seconds of its run with equal steps, so that learning rates fall to zero in either. K = 10 and 100
are for all methods, 50 and 500 for the three that are best at 100. Scores are on trajectories of our own solvers:
one-step is teacher forcing, rollout is over the trajectory-wide norm; of Darcy flow, which is steady, the error of the
solution (`horizon: final`).

A finished run is an entry of the JSON at once; the same command goes on where it was stopped, in the middle of a run
too. The table (`methods_tables.py` makes it alone) has the mean over seeds with the lowest and the highest, says whose
validation error was still falling at the end, and calls a method better only where these ranges do not overlap.
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

from rich.console import Console

from benchmarks.adaptation import Silent, figures, finished, report_of
from benchmarks.adaptation_tables import write
from benchmarks.methods_tables import ALL_KS, BEST_KS, RESULTS, Record, best_three, flat, load, table
from ups_server.data.atomic import replacing
from ups_server.data.horizon import Horizon
from ups_server.data.simulate import build_store
from ups_server.data.store import Store
from ups_server.model.checkpoint import WEIGHTS_FILE
from ups_server.model.lora import digest
from ups_server.pde import family
from ups_server.solvers.registry import choose_device, model_folder
from ups_server.train.adapt import Interrupted, Place
from ups_server.train.dataset import held
from ups_server.train.few_shot import AdaptationSettings, FewShotData
from ups_server.train.run import RUNS, stop_on_signal

STEPS = 2000
MINUTES = 20.0
SEEDS = {1: 3, 2: 1}
"""By dimension."""
TRAINING = 500
"""Trajectories of the file that the K are taken from."""
HELD_OUT = 64
QUICK_K, QUICK_STEPS, QUICK_HELD_OUT, QUICK_RESOLUTION = 4, 4, 4, 32


@dataclass(frozen=True)
class Problem:
    """What is to be learned."""

    name: str
    family: str
    coefficients: tuple[tuple[str, float], ...]
    resolution: int
    horizon: Horizon = "step"

    @property
    def ndim(self) -> int:
        return family(self.family).ndim

    @property
    def label(self) -> str:
        return f"{self.name}, {self.resolution}{'' if self.ndim == 1 else '²'}"


PROBLEMS = {
    problem.family: problem
    for problem in (
        Problem("Burgers nu = 1.0", "burgers", (("nu", 1.0),), 128),
        Problem("diffusion-reaction 1-D", "diffusion_reaction_1d", (("nu", 0.5), ("rho", 1.0)), 128),
        Problem("diffusion-reaction 2-D", "diffusion_reaction_2d", (), 128),
        Problem("Darcy", "darcy", (("beta", 1.0),), 128, "final"),
    )
}


@dataclass(frozen=True)
class Method:
    """What is started from, and what is done to it.

    Attributes:
        start: "lm", "random", or "model": the weights of `--model`.
    """

    label: str
    start: str
    alignment: str = "none"
    tuning: str = "full"
    embedder: str | None = None


def _fresh() -> Iterator[Method]:
    for embedder in ("fno", "patch"):
        yield Method(f"NFT, {embedder}", "lm", embedder=embedder)
        yield Method(f"from scratch, {embedder}", "random", embedder=embedder)
    yield Method("UPS", "lm", "mmd", embedder="fno")
    for label, alignment in (("ORCA", "otdd"), ("ORCA, Euclidean", "euclidean"), ("RECRAFT", "recraft"),
                             ("MoNA", "mona"), ("PaRe", "pare")):  # fmt: skip
        yield Method(label, "lm", alignment, embedder="patch")
    for label, tuning in (("FPT", "layernorm"), ("prefix tuning", "prefix"), ("frozen", "operator")):
        yield Method(label, "lm", tuning=tuning, embedder="patch")


METHODS = (
    *_fresh(),
    *(Method(f"tuned, {tuning}", "model", tuning=tuning) for tuning in ("operator", "full", "lora", "head")),
)
QUICK = ("NFT, patch", "from scratch, patch", "ORCA", "PaRe", "tuned, operator")


@dataclass(frozen=True)
class Run:
    """One entry of the JSON.

    Attributes:
        weights: beginning of the checksum of the model that is tuned; empty for fresh starts.
        budget: "steps" or "minutes".
        steps: of training; those of equal minutes follow from another run. layers: of the language model, 0: all.
    """

    problem: Problem
    method: Method
    k: int
    seed: int
    budget: str
    steps: int
    weights: str = ""
    layers: int = 0
    held_out: int = HELD_OUT
    training: int = TRAINING

    @property
    def id(self) -> str:
        """Names the settings: other settings, or other weights, are another run."""
        code = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]
        label = "".join(letter if letter.isalnum() else "-" for letter in self.method.label)
        return f"{self.problem.family}-k{self.k}-{label}-{self.budget}-seed{self.seed}-{code}"


def planned(options: argparse.Namespace, weights: str, records: Sequence[Record]) -> list[Run]:
    """All runs that can be named now: those of equal minutes once their speed is known, K = 50 and 500 once all methods
    have run with 100 trajectories.
    """
    runs = list[Run]()
    for name in options.problems:
        problem = replace(PROBLEMS[name], resolution=options.resolution or PROBLEMS[name].resolution)
        methods = [method for method in METHODS if any(part in method.label for part in options.methods)]
        for k in options.k:
            chosen = methods
            if k in BEST_KS and not options.quick:
                best = best_three(records, problem.label)
                chosen = [method for method in methods if method.label in best]
            for seed in range(options.seeds or SEEDS[problem.ndim]):
                own = [
                    Run(
                        problem, method, k, seed, "steps", options.steps, weights if method.start == "model" else "",
                        options.body_layers or 0, options.held_out, max(options.training, k),
                    )
                    for method in chosen
                ]  # fmt: skip
                runs += own
                runs += [found for run in own if (found := in_minutes(run, records, options.each)) is not None]
    return runs


def in_minutes(run: Run, records: Sequence[Record], minutes: float) -> Run | None:
    """The run of as many steps as its method makes in so many minutes, by that of equal steps; None before it."""
    for record in records:
        if record["id"] == run.id and record["trained"]:
            steps = math.ceil(60 * minutes * record["trained"] / max(record["seconds"], 0.1))  # they are in tenths
            return replace(run, budget="minutes", steps=max(steps, QUICK_STEPS))
    return None


def stored(run: Run, folder: Path) -> Iterator[Store]:
    """Trajectories to train on, then those held out: generated once, the same for every method."""
    problem, entry = run.problem, family(run.problem.family)
    for seed, count in enumerate((run.training, run.held_out)):
        path = folder / "data" / f"{entry.id}-{count}-{problem.resolution}-seed{seed}"
        with held(path.with_suffix(".lock")):
            yield build_store(
                entry, dict(problem.coefficients), count, problem.resolution, seed, path, frame_dt=entry.dt
            )


def result_of(run: Run, model: Path, folder: Path, console: Console) -> Record:
    """Adapts and scores, from where the folder of the run stands.

    Raises:
        Interrupted: the same command goes on.
    """
    place, method = folder / run.id, run.method
    settings = AdaptationSettings.asked(
        n_trajectories=run.k,
        start=method.start,
        embedder=method.embedder,
        body_layers=run.layers or None if method.start != "model" else None,
        alignment=method.alignment,
        tuning=method.tuning,
        horizon=run.problem.horizon,
        max_steps=run.steps,
        seed=run.seed,
    )
    settings.check()
    training, validation = stored(run, folder)
    with closing(training), closing(validation), stop_on_signal() as stop:
        where = Place(place, Silent(console), stop.is_set, choose_device("auto"))
        data = FewShotData(training, run.id, validation, f"{run.problem.family} held out")
        source = model if method.start == "model" else None
        found = report_of(source, data, settings, where)
    return record_of(run, found)


def record_of(run: Run, found: dict[str, Any]) -> Record:
    """The entry of a run; without a report it has diverged."""
    return {
        "id": run.id,
        "problem": run.problem.label,
        "horizon": run.problem.horizon,
        **{f"method_{name}": value for name, value in asdict(run.method).items()},
        **{name: getattr(run, name) for name in ("k", "seed", "budget", "steps", "weights", "layers")},
        "trained": found.get("steps"),
        **{name: found.get(name) for name in ("best_step", "seconds", "memory_bytes", "helped", "kept")},
        **{part: figures(found[part]) if found else None for part in ("tuned", "persistence")},
        "before": figures(found["base"]) if found.get("base") else None,
        "flat": flat(found["curve"]) if found else None,
        "terms": found.get("alignment_terms"),
    }


def keep(run: Run, record: Record, path: Path, lock: Path) -> None:
    """Adds an entry to the JSON; runs of several processes do not overwrite one another's."""
    with held(lock):
        entries: dict[str, Record] = json.loads(path.read_text()) if path.is_file() else {}
        entries[run.id] = record
        with replacing(path) as part:
            part.write_text(json.dumps(entries, allow_nan=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="ups-mini", help="what is tuned: a model id or folder")
    parser.add_argument("--problems", nargs="+", choices=tuple(PROBLEMS), help="default: all")
    parser.add_argument("--k", type=int, nargs="+", help=f"numbers of trajectories; default: {ALL_KS + BEST_KS}")
    parser.add_argument("--methods", nargs="+", help="only those whose name contains one of these; default: all")
    parser.add_argument("--seeds", type=int, help="of each method; default: 3 in one dimension, 1 in two")
    parser.add_argument("--steps", type=int, help=f"of a run with equal steps; default: {STEPS}")
    parser.add_argument("--each", type=float, help=f"minutes of a run with equal minutes; default: {MINUTES:g}")
    parser.add_argument("--resolution", type=int, help="points per axis; default: 128")
    parser.add_argument("--body-layers", type=int, help="of the language model of fresh starts; default: all")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no run is begun after these")
    parser.add_argument("--list", action="store_true", help="tell the runs and whether they are finished")
    parser.add_argument("--quick", action="store_true", help="few steps on few trajectories: does it work?")
    parser.add_argument("--write", type=Path, nargs="+", default=[], help="files whose block of methods is replaced")
    parser.add_argument("--folder", type=Path, default=RUNS / "methods", help="data, and runs that are not finished")
    parser.add_argument("--json", type=Path, help="where finished runs are kept")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.json = options.json or (options.folder / "quick.json" if quick else RESULTS)
    options.problems = options.problems or list(PROBLEMS)
    options.k = options.k or ([QUICK_K] if quick else [*ALL_KS, *BEST_KS])
    options.methods = options.methods or (list(QUICK) if quick else [""])
    options.seeds = options.seeds or (1 if quick else None)
    options.resolution = options.resolution or (QUICK_RESOLUTION if quick else None)
    options.steps = options.steps or (QUICK_STEPS if quick else STEPS)
    options.each = options.each or (0.01 if quick else MINUTES)
    options.held_out, options.training = (QUICK_HELD_OUT, QUICK_K) if quick else (HELD_OUT, TRAINING)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    model, console, started = model_folder(options.model), Console(stderr=True), time.monotonic()
    weights = digest(model / WEIGHTS_FILE)[:10]
    tried = set[str]()
    while not options.list:
        # Anew after each: what has finished decides what else there is to do.
        left = [run for run in planned(options, weights, load(options.json)) if run.id not in tried]
        left = [run for run in left if run.id not in finished(options.json)]
        if not left or time.monotonic() - started > 60 * options.minutes:
            break
        run = left[0]
        tried.add(run.id)
        console.print(f"{len(left)} runs left: {run.id}")
        try:
            record = result_of(run, model, options.folder, console)
        except Interrupted:
            console.print("interrupted; the same command goes on")
            break
        keep(run, record, options.json, options.folder / "data" / "results.lock")
        shutil.rmtree(options.folder / run.id)
    runs = planned(options, weights, load(options.json))
    done = finished(options.json)
    for run in runs if options.list else ():
        print(f"{'finished' if run.id in done else '-       '} {run.id}")
    text = "\n".join(table(load(options.json)))
    print(text)
    for file in options.write:
        write(text, file, "methods")
    print(f"{len({run.id for run in runs} & done)} of {len(runs)} runs finished")


if __name__ == "__main__":
    main()
