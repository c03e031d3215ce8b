"""Models beside each other on fresh trajectories: one step and rollout, per field, with intervals.

The trajectories come from the families' reference solvers and true distributions, with a seed of their own; every model
gets the same file. A case is left out that one of the models was not trained for.

    python -m benchmarks.side_by_side MODEL... [-n 24] [--cases TEXT] --json OUT [--card README]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks.scorecard import Case, fresh_file
from ups_server.errors import UserError
from ups_server.evaluation.evaluate import evaluate
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Solver

SEED = 7_100_001
CASES = (
    *(
        Case("compressible_ns_2d", {"M": mach, "eta": eta, "zeta": eta})
        for mach, eta in ((0.1, 0.1), (1.0, 0.1), (0.1, 0.01))
    ),
    Case("incompressible_ns_2d", {"nu": 0.01}, resolution=64),
    Case("shallow_water", {}),
    *(Case("compressible_ns_1d", {"eta": eta, "zeta": eta}, share=4) for eta in (0.1, 0.01)),
)
RESAMPLES = 2000
BEGIN, END = "<!-- side by side -->", "<!-- end -->"
HEADING = (
    "case", "model", "trajectories", "one-step nRMSE", "skill by field", "rollout by field (95 % interval of the mean)",
    "worst trajectory", "s of evaluation a trajectory",
)  # fmt: skip


def title(case: Case) -> str:
    return " ".join([case.family, *(f"{name}={value:g}" for name, value in case.coefficients.items())])


def knows(model: Solver, family_id: str) -> bool:
    try:
        model.dt(family_id)
    except UserError:
        return False
    return True


def measured(model: Solver, file: Path, case: Case, folder: Path) -> dict[str, Any]:
    """Scores of one model on one file, and the same per trajectory with intervals."""
    predictions = folder / "predictions.hdf5"
    began = time.perf_counter()
    (scores,) = evaluate(model, [file], resolution=case.resolution, predictions=predictions)
    seconds = (time.perf_counter() - began) / scores.trajectories
    with h5py.File(predictions) as handle:
        truth, rollout = handle["truth"][:], handle["rollout"][:]
        one_step = handle["one_step"][:] if "one_step" in handle else None
    predictions.unlink()
    own = {"rollout": ratio(rollout[:, 1:] - truth[:, 1:], truth[:, 1:])}
    if one_step is not None:
        own["skill"] = ratio(one_step - truth[:, 1:], np.diff(truth, axis=1))
    per_field = {
        name: {field: summary(values[:, index]) for index, field in enumerate(scores.fields)}
        for name, values in own.items()
    }
    lumped = None if scores.one_step is None else scores.one_step.nrmse
    return {
        "trajectories": scores.trajectories, "one_step": lumped, "finite": scores.rollout.finite, **per_field,
        "seconds": seconds,
    }  # fmt: skip


def ratio(error: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, C) root of the sums of squares of (N, T, X..., C) over each other."""
    axes = tuple(range(1, error.ndim - 1))
    squares = [np.square(part, dtype=np.float64).sum(axes) for part in (error, scale)]
    found: NDArray[np.float64] = np.sqrt(squares[0] / squares[1])
    return found


def summary(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean over trajectories, its interval of 95 % by resampling, and the worst."""
    rng = np.random.default_rng(0)
    low, high = np.quantile(rng.choice(values, (RESAMPLES, len(values))).mean(1), [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "worst": float(values.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("-n", "--count", type=int, default=24)
    parser.add_argument("--cases", default="", help="of those whose name holds this text")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--card", type=Path, help="a card whose table is written anew, between its marks")
    options = parser.parse_args()
    models = [load(model, "cpu") for model in options.models]
    known = [case for case in CASES if all(knows(model, case.family) for model in models)]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for case in (case for case in known if options.cases in title(case)):
            file = fresh_file(case, options.count, Path(folder), SEED)
            for folder_of, model in zip(options.models, models, strict=True):
                found = measured(model, file, case, Path(folder))
                results.append({"case": title(case), "model": folder_of.name, **found})
                print(" ".join(row(results[-1])), flush=True)
    names = " ".join(f"models/{model.name}" for model in options.models)
    command = f"python -m benchmarks.side_by_side {names} -n {options.count}"
    document = {"command": command, "seed": SEED, "cases": results}
    options.json.write_text(json.dumps(document) + "\n")
    if options.card is not None:
        options.card.write_text(with_table(options.card.read_text(), document))


def row(found: dict[str, Any]) -> list[str]:
    one_step = "–" if found["one_step"] is None else f"{found['one_step']:.5f}"
    rolled, seconds = found["rollout"], f"{found['seconds']:.2f}"
    skill = " / ".join(f"{entry['mean']:.3g}" for entry in found.get("skill", {}).values()) or "–"
    means = " / ".join(f"{entry['mean']:.3g} ({entry['low']:.2g}–{entry['high']:.2g})" for entry in rolled.values())
    worst = " / ".join(f"{entry['worst']:.3g}" for entry in rolled.values())
    return [found["case"], found["model"], str(found["trajectories"]), one_step, skill, means, worst, seconds]


def with_table(card: str, document: dict[str, Any]) -> str:
    """The card with the table of these results between its marks, and the command that made it."""
    before, rest = card.split(BEGIN)
    after = rest.split(END)[1]
    lines = [f"`{document['command']}`", "", "| " + " | ".join(HEADING) + " |", "|" + "---|" * len(HEADING)]
    lines += ["| " + " | ".join(row(found)) + " |" for found in document["cases"]]
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"


if __name__ == "__main__":
    main()
