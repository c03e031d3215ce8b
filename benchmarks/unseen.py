"""How far does a shipped model reach: coefficients it never saw or is not told, equations it never saw?

Fresh trajectories of the reference solvers at PDEBench's resolution, read at 128 points. The first frames of each are
context. From the last of them on, the model is scored three ways: told the coefficients as numbers; told nothing, with
the coefficients fitted to the context frames by the model itself; persistence. Families that were held out are asked
zero-shot.

    python benchmarks/unseen.py models/ups-mini [-n 32] [--json models/ups-mini/unseen.json]
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.scorecard import Case, fresh_file
from ups_server.data.formats import open_source
from ups_server.evaluation.evaluate import evaluation_input
from ups_server.model.config import CoefficientRange
from ups_server.pde.metrics import error_moments, nrmse, nrmse_trajectory
from ups_server.solvers.neural import UPSSolver, ZeroShotSolver, load_neural
from ups_server.solvers.solver import Frames, Problem, Solver, rollout

SEED = 11_000_001
CONTEXT = 4
"""Steps between the first and the last context frame."""
CANDIDATES, ROUNDS = 17, 3
"""Values of a coefficient tried at once, and how often between the neighbours of the best."""
GOAL = 1.5
"""Of the error at the nearest of PDEBench's values: what is asked for inside the range."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Asked(Case):
    """What is asked, and where it lies: trained, in a gap of the training, beyond its range, or held out."""

    role: str = "trained"


CASES = (
    *(Asked("advection", {"beta": beta}) for beta in (0.4, 1.0)),
    Asked("advection", {"beta": 0.7}, role="gap"),
    Asked("advection", {"beta": 5.0}, role="beyond"),
    *(Asked("burgers", {"nu": nu}) for nu in (0.001, 0.01)),
    Asked("burgers", {"nu": 0.004}, role="gap"),
    *(Asked("burgers", {"nu": nu}, role="beyond") for nu in (0.0007, 1.0)),
    Asked("compressible_ns_1d", {"eta": 0.1, "zeta": 0.1}),
    Asked("compressible_ns_1d", {"eta": 0.01, "zeta": 0.01}, role="beyond"),
    Asked("diffusion_reaction_1d", {"nu": 0.5, "rho": 1.0}, role="held out"),
    Asked("diffusion_reaction_2d", {}, role="held out", share=0.1),
)


@dataclass(frozen=True)
class Trajectories:
    """Trajectories of one case: truth (B, T, X..., C) from the first context frame on."""

    problem: Problem
    truth: Frames


def trajectories(case: Asked, count: int, solver: Solver, folder: Path) -> Trajectories:
    """Generated in PDEBench's layout and read as an evaluation reads them."""
    path = fresh_file(case, count, folder, SEED)
    with closing(open_source(path)) as source:
        task = evaluation_input(source, path, solver, None, case.resolution, None)
        rows = range(task.trajectories)
        return Trajectories(task.problem(rows), task.truth(rows))


def fitted(solver: Solver, given: Trajectories, ranges: Mapping[str, CoefficientRange]) -> dict[str, list[float]]:
    """The coefficients of each trajectory under which the model's steps are closest to its context frames.

    One coefficient after the other, on a logarithmic grid over the range of training, then between the neighbours of
    the best value. The equation itself and its boundary are known.
    """
    context = given.truth[:, : CONTEXT + 1]
    best = {name: np.full(len(context), np.sqrt(span.low * span.high)) for name, span in ranges.items()}
    width = {name: np.log(span.high / span.low) / 2 for name, span in ranges.items()}
    for _ in range(ROUNDS):
        for name, span in ranges.items():
            offsets = np.linspace(-width[name], width[name], CANDIDATES)
            tried = np.clip(best[name][:, None] * np.exp(offsets), span.low, span.high)
            best[name] = tried[np.arange(len(tried)), misfit(solver, given, context, best, name, tried).argmin(1)]
        width = {name: value * 2 / (CANDIDATES - 1) for name, value in width.items()}
    return {name: values.tolist() for name, values in best.items()}


def misfit(
    solver: Solver, given: Trajectories, context: Frames, known: Mapping[str, Values], name: str, tried: Values
) -> Values:
    """(B, candidates) one-step errors on the context frames under every candidate of one coefficient."""
    repeated = {other: np.repeat(values, tried.shape[1]).tolist() for other, values in known.items()}
    problem = replace(given.problem, coefficients=repeated | {name: tried.ravel().tolist()})
    frames = np.repeat(context, tried.shape[1], axis=0)
    found: Values = nrmse(error_moments(predicted(solver, problem, frames), frames[:, 1:])).mean(1)
    return found.reshape(tried.shape)


def predicted(solver: Solver, problem: Problem, truth: Frames) -> Frames:
    frames = solver.one_step(problem, truth)
    if frames is None:
        raise TypeError("a trained model always predicts one step")
    return frames


def errors(solver: Solver, problem: Problem, truth: Frames) -> dict[str, float]:
    """From the last context frame on: one step ahead, and the rollout over the norm of the trajectory."""
    rest = truth[:, CONTEXT:]
    rolled = np.stack(list(rollout(solver.session(problem, rest[:, 0]), rest.shape[1] - 1)), axis=1)
    return scored(predicted(solver, problem, rest), rolled, rest[:, 1:])


def persisting(truth: Frames) -> dict[str, float]:
    rest = truth[:, CONTEXT:]
    return scored(rest[:, :-1], np.broadcast_to(rest[:, :1], rest[:, 1:].shape), rest[:, 1:])


def scored(one_step: Frames, rolled: Frames, target: Frames) -> dict[str, float]:
    return {
        "one_step": float(nrmse(error_moments(one_step, target)).mean()),
        "rollout": float(nrmse_trajectory(error_moments(rolled, target)).mean()),
    }


def result(case: Asked, count: int, known: UPSSolver, folder: Path) -> dict[str, Any]:
    """One row of the table."""
    card = known.model.config.families.get(case.family)
    solver: Solver = ZeroShotSolver(known.model) if card is None else known
    given = trajectories(case, count, solver, folder)
    row = {
        "family": case.family,
        "coefficients": case.coefficients,
        "role": case.role,
        "trajectories": len(given.truth),
        "told": errors(solver, given.problem, given.truth),
        "persistence": persisting(given.truth),
    }
    if card is None or not case.coefficients:
        return row
    found = fitted(solver, given, card.coefficients)
    unaware = replace(given.problem, coefficients=found)
    quartiles = {name: np.quantile(values, [0.25, 0.5, 0.75]).round(6).tolist() for name, values in found.items()}
    return row | {"fitted": errors(solver, unaware, given.truth), "fitted_coefficients": quartiles}


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Markdown: one-step / rollout."""
    yield "| equation | coefficients | role | told | fitted to the context | quartiles of the fit | persistence |"
    yield "|" + "---|" * 7
    for row in rows:
        coefficients = ", ".join(f"{key} {value:g}" for key, value in row["coefficients"].items()) or "–"
        quartiles = "; ".join(
            f"{key} {', '.join(f'{value:.3g}' for value in values)}"
            for key, values in row.get("fitted_coefficients", {}).items()
        )
        cells = [row["family"], coefficients, row["role"], pair(row["told"]), pair(row.get("fitted"))]
        yield "| " + " | ".join([*cells, quartiles or "–", pair(row["persistence"])]) + " |"


def pair(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else f"{found['one_step']:.4f} / {found['rollout']:.4f}"


def verdicts(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Inside the range: the error as a multiple of that at each of the trained values around the gap."""
    for row in (row for row in rows if row["role"] == "gap"):
        around = [other for other in rows if (other["family"], other["role"]) == (row["family"], "trained")]
        for kind in ("one_step", "rollout"):
            ratios = [row["told"][kind] / other["told"][kind] for other in around]
            listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            yield f"{row['family']}, gap, {kind}: {listed} times the error at PDEBench's values around it (goal {GOAL})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", "--count", type=int, default=32)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    solver = load_neural(options.model, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        cases = track(CASES, "asking", console=Console(stderr=True))
        rows = [result(case, options.count, solver, Path(folder)) for case in cases]
    print("\n".join([*table(rows), "", *verdicts(rows)]))
    if options.json:
        command = f"python benchmarks/unseen.py models/{options.model.name} -n {options.count}"
        record = {"command": command, "seed": SEED, "context_steps": CONTEXT, "rows": rows}
        options.json.write_text(json.dumps(record, allow_nan=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
