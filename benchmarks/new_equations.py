"""A few trajectories of an equation in symbols: `ups-line` as it is, tuned to them, and an FNO from scratch.

Allen and Cahn's, Korteweg and de Vries' and Kuramoto and Sivashinsky's equation, from sums of three sines on a unit box
of 128 points, 20 steps of 0.05. The files are NumPy's, mapped by their equation. Both learners are trained on the same
K trajectories for the same steps, choose their weights on the same 8 others and are scored on the same 24.

    python -m benchmarks.new_equations [--k 1 4 16] [--steps 400] --json OUT

Finished runs are kept in the JSON: the command goes on where it was stopped.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.adaptation import Silent, figures
from ups_server.catalog import shipped_folder
from ups_server.data.formats import open_source
from ups_server.data.mapping import Mapping
from ups_server.data.splits import held_out_split
from ups_server.data.store import Store
from ups_server.data.writer import transcode
from ups_server.model.checkpoint import create, save_pretrained
from ups_server.model.config import FNO
from ups_server.pde import family
from ups_server.pde.equation import EVOLUTION, TERMS
from ups_server.pde.grammar import parse_equation
from ups_server.pde.grid import Array
from ups_server.processes import keep_freed_memory
from ups_server.train.adapt import Place
from ups_server.train.adapt_lead import adaptation_of
from ups_server.train.dataset import make_card
from ups_server.train.few_shot import AdaptationSettings, FewShotData

EQUATIONS = {
    "Allen-Cahn": "u_t = 0.002*u_xx + 5*(u - u^3)",
    "Korteweg-de Vries": "u_t = -0.5*u*u_x - 0.0005*u_xxx",
    "Kuramoto-Sivashinsky": "u_t = -u*u_x - 0.02*u_xx - 0.00001*u_xxxx",
}
LEARNERS = ("ups-line", "FNO")
K, STEPS, HELD_OUT, FRAMES, SEED = (1, 4, 16), 400, 32, 20, 9_500_001
FAMILY = family(EVOLUTION)


def sines(rng: np.random.Generator, count: int, x: Array) -> Array:
    """(count, X): three of one to four periods, amplitudes in [-1, 1]."""
    amplitude, phase = rng.uniform(-1, 1, (count, 3, 1)), rng.uniform(0, 2 * np.pi, (count, 3, 1))
    periods = rng.integers(1, 5, (count, 3, 1))
    waves: Array = amplitude * np.sin(2 * np.pi * periods * x + phase)
    total: Array = waves.sum(1)
    return total


def stored(equation: str, count: int, seed: int, folder: Path) -> Store:
    """Trajectories of the reference solver, by way of a file and its mapping."""
    grid = FAMILY.default_grid()
    own = dict(parse_equation(equation).coefficients)
    rows = {name: np.full(count, own.get(name, 0.0)) for name in TERMS}
    (x,) = grid.axes
    initial = sines(np.random.default_rng(seed), count, x)[..., None]
    times = np.arange(FRAMES + 1, dtype=np.float64) * FAMILY.dt
    values = FAMILY.solve(initial, times, grid, rows, static=np.zeros_like(initial))
    file = folder / f"{seed}.npz"
    np.savez(file, u=values[..., 0], t=times, x=x)
    mapping = Mapping.from_document({
        "symbols": equation, "fields": [{"name": "u", "array": "u"}], "axes": ["trajectory", "time", "x"],
        "time": {"array": "t"}, "space": {"x": {"array": "x", "points": "cells"}},
    })  # fmt: skip
    with closing(open_source(file, mapping=mapping)) as source:
        return transcode(source, folder / f"{seed}-store", {"file": file.name})


def fresh_fno(training: Store, k: int, folder: Path) -> Path:
    """A model folder of an FNO that has learned nothing."""
    split = held_out_split(len(training), k, HELD_OUT)
    card = make_card(EVOLUTION, training, training.grid.n[0], split.training)
    torch.manual_seed(0)
    save_pretrained(create(FNO.changed(resolution=training.grid.n[0], families={EVOLUTION: card})), folder)
    return folder


def run(learner: str, k: int, steps: int, training: Store, held_out: Store, folder: Path) -> dict[str, Any]:
    model = shipped_folder() / learner if learner != "FNO" else fresh_fno(training, k, folder / "fno")
    settings = AdaptationSettings(n_trajectories=k, tuning="full", max_steps=steps)
    data = FewShotData(training, "training", held_out, "held out")
    place = Place(folder / "work", Silent(Console(stderr=True)))
    found = adaptation_of(model, data, settings, "tuned", place).run()
    parts = ("tuned", "persistence") if learner == "FNO" else ("zero_shot", "tuned", "persistence")
    return {part: figures(found[part]) for part in parts} | {
        name: found[name] for name in ("helped", "best_step", "steps", "seconds")
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, nargs="+", default=K)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(given.json.read_text()) if given.json.exists() else []
    known = {(row["equation"], row["k"], row["learner"]) for row in rows}
    for name, equation in EQUATIONS.items():
        wanted = [(k, who) for k in given.k for who in LEARNERS if (equation, k, who) not in known]
        if not wanted:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            with (
                closing(stored(equation, max(given.k), SEED, folder)) as training,
                closing(stored(equation, HELD_OUT, SEED + 1, folder)) as held_out,
            ):
                for k, who in wanted:
                    found = run(who, k, given.steps, training, held_out, folder / f"{who}-{k}")
                    rows.append({"name": name, "equation": equation, "k": k, "learner": who, **found})
                    print(rows[-1], flush=True)
                    given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
