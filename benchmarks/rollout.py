"""Milliseconds per step: the service's step, single and as a batch of 16, beside what else could be run.

Beside the bare loop (the operator alone, no units, no arrays, no checks), `ups-paper` with the same language model
(which reads at every step), and the family's reference solver on the coarsest grid that is no worse than the model
(error at the model's points after `STEPS` steps, against the solver on a finer grid), over whole rollouts of `STEPS`
steps, its preparation included: what a solver does in one step may be for later ones. Sides are measured in turns in
one process; medians are printed, and ratios of neighbours, which depend little on how busy the machine is.

    python benchmarks/rollout.py [--repeats 5] [--threads 1] [--json OUT]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ups_server.catalog import Catalog
from ups_server.model.checkpoint import create
from ups_server.model.config import PRESETS
from ups_server.pde import Grid, family
from ups_server.processes import keep_freed_memory
from ups_server.solvers.classical import Numerical
from ups_server.solvers.neural import UPSSolver, load_neural
from ups_server.solvers.solver import Frames, Problem, Session
from ups_server.solvers.solver import rollout as steps_of

STEPS = 10
PAPER_GOAL = 10.0
"""Least ratio of the paper's step time to ours, in 1-D."""


@dataclass(frozen=True)
class Case:
    """A problem at 128 points an axis; `fine` points solve it for the truth, `coarse` are tried from the first on."""

    family: str
    coefficients: dict[str, float]
    fine: int
    coarse: tuple[int, ...]
    repeats: int


CASES = (
    Case("burgers", {"nu": 0.01}, 512, (16, 32, 64, 128), 1),
    Case("shallow_water", {}, 256, (16, 32, 64, 128), 1),
)


@dataclass(frozen=True)
class Row:
    """Milliseconds per step of a batch. `paper`: of `ups-paper`; `numerical` at matched error, on `points` points."""

    family: str
    batch: int
    service: float
    bare: float
    paper: float
    numerical: float
    points: int
    model_error: float

    @property
    def paper_over_ours(self) -> float:
        return self.paper / self.service


def problem(case: Case, n: int) -> Problem:
    entry = family(case.family)
    grid = Grid((n,) * entry.ndim, entry.extent)
    return Problem(case.family, entry.complete(case.coefficients), grid, entry.boundary, entry.dt)


def states(case: Case, batch: int) -> Frames:
    """On the finest grid."""
    entry = family(case.family)
    grid = Grid((case.fine,) * entry.ndim, entry.extent)
    return entry.sample_initial(np.random.default_rng(1), batch, grid).astype(np.float32)


def thinned(values: Frames, n: int) -> Frames:
    """Cells of a finer grid averaged: (B, X..., C) -> (B, n..., C)."""
    out, axes = values, values.ndim - 2
    for axis in range(1, axes + 1):
        shape = (*out.shape[:axis], n, out.shape[axis] // n, *out.shape[axis + 1 :])
        out = out.reshape(shape).mean(axis + 1)
    return out.astype(np.float32)


def error(got: Frames, truth: Frames) -> float:
    """nRMSE on the coarser of both grids, the mean over the states and fields."""
    n = min(got.shape[1], truth.shape[1])
    got, truth = thinned(got, n), thinned(truth, n)
    space = tuple(range(1, got.ndim - 1))
    return float(np.sqrt(((got - truth) ** 2).mean(space) / (truth**2).mean(space)).mean())


def step_seconds(step: Callable[[], object], repeats: int) -> float:
    step()
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - started) / repeats


def rollout_seconds(begin: Callable[[], Session]) -> float:
    """A step's share of a whole rollout."""
    started = time.perf_counter()
    for _ in steps_of(begin(), STEPS):
        pass
    return (time.perf_counter() - started) / STEPS


def bare_step(solver: UPSSolver, todo: Problem, initial: Frames) -> Callable[[], object]:
    """The operator on its own output, without units and arrays."""
    session = solver.session(todo, initial)
    with torch.inference_mode():
        context = session.model.read(session.u, session.given)
        state = [session.u]

    @torch.inference_mode()
    def step() -> None:
        state[0] = session.model(state[0], context)

    return step


def matched(case: Case, initial: Frames, model_error: float, truth: Frames) -> int:
    """Points of the coarsest grid on which the reference solver is no worse than the model."""
    for n in case.coarse:
        *_, last = steps_of(Numerical().session(problem(case, n), thinned(initial, n)), STEPS)
        if error(last, truth) <= model_error:
            return n
    return case.coarse[-1]


def measure(case: Case, batch: int, ours: UPSSolver, paper: UPSSolver, repeats: int) -> Row:
    initial = states(case, batch)
    given, todo = thinned(initial, 128), problem(case, 128)
    few = initial[: min(2, batch)]
    *_, truth = steps_of(Numerical().session(problem(case, case.fine), few), STEPS)
    *_, predicted = steps_of(ours.session(todo, thinned(few, 128)), STEPS)
    model_error = error(predicted, truth)
    points = matched(case, few, model_error, truth)
    sides = {
        "service": ours.session(todo, given).step,
        "bare": bare_step(ours, todo, given),
        "paper": paper.session(todo, given).step,
    }
    coarse, start = problem(case, points), thinned(initial, points)
    seconds: dict[str, list[float]] = {name: [] for name in (*sides, "numerical")}
    for _ in range(repeats):
        for name, side in sides.items():
            seconds[name].append(step_seconds(side, 1 if name == "paper" else 5))
        seconds["numerical"].append(rollout_seconds(lambda: Numerical().session(coarse, start)))
    found = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    return Row(case.family, batch, points=points, model_error=model_error, **found)


def paper_solver(ours: UPSSolver) -> UPSSolver:
    """`ups-paper` around the same language model, with weights of no training: only its time is looked at."""
    torch.manual_seed(0)
    return UPSSolver(create(PRESETS["ups-paper"].changed(families=ours.model.config.families)).eval())


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours = load_neural(Path(Catalog().model("ups-mini").source))
    paper = paper_solver(ours)
    rows = [measure(case, batch, ours, paper, options.repeats) for case in CASES for batch in (1, 16)]
    table = Table("family", "batch", "service", "bare loop", "ups-paper", "paper / ours", "numerical", "at points")
    for row in rows:
        figures = (row.service, row.bare, row.paper)
        table.add_row(
            row.family,
            str(row.batch),
            *(f"{figure:.2f}" for figure in figures),
            f"{row.paper_over_ours:.1f}x",
            f"{row.numerical:.2f}",
            f"{row.points} (model's error {row.model_error:.3f})",
        )
    console = Console(width=120)
    console.print(table)
    met = all(row.paper_over_ours >= PAPER_GOAL for row in rows if family(row.family).ndim == 1)
    console.print(f"ms per step, {options.threads} thread(s); {PAPER_GOAL:.0f}x over ups-paper in 1-D: {met}")
    if options.json:
        record = {"threads": options.threads, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
