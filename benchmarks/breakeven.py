"""When is a model worth running? Seconds of one core beside the family's solver at matched error.

Initial states of the family's own sampler are averaged over the cells of the request. The model answers at these
cells. The solver is run on coarser and coarser grids, really there: whatever refines a coarse state inside is switched
off; its answer is interpolated cubically to the request's cells. The coarsest grid counts whose error is no larger than
the model's. Errors are the mean over trajectories and fields of the norm of the error over that of the truth, over all
frames or at the final one; the truth is today's solver on a finer grid, averaged over the same cells.

Seconds are of processor time on one core, of a warm process, a trajectory, each side at the better of two batches: one
state, and all of them. Only the final state asked for, a model of lead times leaves out the frames between, and a
solver its output.

A line is judged with the solver of an earlier commit (`--judge`), so that a faster solver is a gain and not a loss;
today's stands beside it.

    python benchmarks/breakeven.py [FAMILY ...] [--model MODEL] [--judge 0ec3c02] [--json OUT]

The model is the one that a request gets which names none. A file that is there keeps its lines of other families.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

Array = NDArray[np.float64]

REPOSITORY = Path(__file__).resolve().parent.parent
SEED = 5_100_001
REFINEMENTS = {"MIN_POINTS": 1, "MIN_CELLS": 1, "SHOCK_RESOLUTION": 0.0}
"""Constants of solvers that refine a coarse state inside, and what switches that off."""
LONG_S = 3.0
"""A call that took longer is not repeated."""


@dataclass(frozen=True)
class Case:
    """Attributes: points, frames: of the request. fine: points an axis of the truth. coarse: tried for the solver."""

    family: str
    points: int
    frames: int
    fine: int
    coarse: tuple[int, ...]
    trajectories: int
    coefficients: dict[str, float] = field(default_factory=dict)


LINE = (16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)
PLANE = (8, 12, 16, 24, 32, 48, 64, 96, 128)
CASES = (
    Case("burgers", 128, 40, 1024, LINE, 16, {"nu": 0.001}),
    Case("compressible_ns_1d", 128, 20, 1024, LINE, 16, {"eta": 0.1, "zeta": 0.1}),
    Case("compressible_ns_1d", 128, 20, 1024, LINE, 16, {"eta": 0.01, "zeta": 0.01}),
    Case("diffusion_sorption", 128, 20, 1024, LINE, 16),
    Case("shallow_water", 128, 100, 256, PLANE, 4),
    Case("compressible_ns_2d", 64, 20, 128, PLANE, 4, {"M": 0.1, "eta": 0.1, "zeta": 0.1}),
    Case("compressible_ns_2d", 64, 20, 128, PLANE, 4, {"M": 1.0, "eta": 0.1, "zeta": 0.1}),
    Case("compressible_ns_2d", 64, 20, 128, PLANE, 4, {"M": 0.1, "eta": 0.01, "zeta": 0.01}),
    Case("incompressible_ns_2d", 64, 20, 64, PLANE, 4),
)


FAMILIES = list(dict.fromkeys(case.family for case in CASES))


@dataclass(frozen=True)
class Point:
    """The solver on one grid: seconds a trajectory and errors, over all frames and at the final one."""

    points: int
    seconds: float
    final_seconds: float
    error: float
    final_error: float


@dataclass(frozen=True)
class Row:
    """A line of the table; figures of today's solver are None where no grid that was tried is as good."""

    family: str
    model: str
    coefficients: dict[str, float]
    points: int
    frames: int
    model_s: float
    model_final_s: float
    model_error: float
    model_final_error: float
    solver_points: int | None
    solver_s: float | None
    solver_final_points: int | None
    solver_final_s: float | None
    solver_error: float | None
    ratio: float | None
    ratio_final: float | None
    today_points: int | None
    today_s: float | None
    today_final_s: float | None
    ratio_today: float | None
    ratio_final_today: float | None
    curve: list[Point]
    curve_today: list[Point]


def cells(values: Array, points: int, axes: int) -> Array:
    """Means over cells (..., points..., C) of a finer grid's values (..., X..., C)."""
    first = values.ndim - 1 - axes
    for axis in range(first, first + axes):
        shape = values.shape
        values = values.reshape(*shape[:axis], points, shape[axis] // points, *shape[axis + 1 :]).mean(axis + 1)
    return values


def errors(got: Array, truth: Array) -> tuple[float, float]:
    """(over all frames after the first, at the final one) of states (B, T, X..., C)."""
    space = tuple(range(2, truth.ndim - 1))
    missed, size = ((got - truth) ** 2).mean(space), (truth**2).mean(space)
    over = np.sqrt(missed[:, 1:].mean(1) / size[:, 1:].mean(1)).mean()
    return float(over), float(np.sqrt(missed[:, -1] / size[:, -1]).mean())


def seconds_a_trajectory(run: Callable[[slice], object], count: int) -> float:
    """Processor time a trajectory at the better of two batches: one state, and all of them."""
    found = []
    for rows in (slice(0, 1), slice(0, count)):
        best = np.inf
        for _ in range(3):
            started = time.process_time()
            run(rows)
            best = min(best, time.process_time() - started)
            if best > LONG_S:
                break
        found.append(best / (rows.stop - rows.start))
    return float(min(found))


@contextmanager
def really_there(family_id: str) -> Iterator[None]:
    """Coarse states are solved on their own points."""
    names = [name for name in sys.modules if name.startswith("ups_server.pde")]
    changed = [
        (module, name, getattr(module, name), value)
        for module in (sys.modules[name] for name in names)
        for name, value in REFINEMENTS.items()
        if hasattr(module, name)
    ]
    for module, name, _, value in changed:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, before, _ in changed:
            setattr(module, name, before)


def solver_curve(given: dict[str, Any], arrays: dict[str, Array]) -> list[Point]:
    """The solver on every coarse grid. It uses nothing of the package that the judged commit has not."""
    from ups_server.pde import Grid, family

    entry = family(given["family"])
    axes, count = entry.ndim, len(arrays["initial"])
    coefficients = {name: np.full(count, value) for name, value in given["coefficients"].items()}
    times = np.asarray(given["times"])
    wanted = Grid((given["points"],) * axes, entry.extent)
    curve: list[Point] = []
    with really_there(entry.id):
        for points in given["coarse"]:
            fine = arrays["initial"].shape[1]
            if fine % points:
                continue
            grid = Grid((points,) * axes, entry.extent)
            initial = cells(arrays["initial"], points, axes)
            static = cells(arrays["static"], points, axes) if "static" in arrays else None

            def solve(rows: slice, at: Array) -> Array:
                some = {name: values[rows] for name, values in coefficients.items()}
                fixed = None if static is None else static[rows]  # noqa: B023
                return np.asarray(entry.solve(initial[rows], at, grid, some, fixed))  # noqa: B023

            try:
                answer = solve(slice(0, count), times)
            except Exception as error:
                print(f"{entry.id} on {points}: {error}", file=sys.stderr)
                continue
            here = interpolated(answer, grid, wanted, entry.boundary.periodic)
            over, final = errors(here, arrays["truth"])
            whole = seconds_a_trajectory(lambda rows: solve(rows, times), count)
            last = seconds_a_trajectory(lambda rows: solve(rows, times[[0, -1]]), count)
            curve.append(Point(points, whole, last, over, final))
            if over <= given["enough"] and final <= given["enough_final"]:
                break
    return curve


def interpolated(values: Array, source: Any, target: Any, periodic: tuple[bool, ...]) -> Array:
    """Values (B, T, X..., C) at the points of another grid: cubic splines; a finer source is averaged over cells."""
    from scipy.interpolate import CubicSpline

    if source.n[0] > target.n[0] and source.n[0] % target.n[0] == 0:
        return cells(values, target.n[0], len(periodic))
    for axis, wraps in enumerate(periodic):
        given, wanted, place = source.axes[axis], target.axes[axis], axis + 2
        if len(given) == len(wanted):
            continue
        if wraps:
            low, high = source.extent[axis]
            knots = np.append(given, given[0] + high - low)
            closed = np.concatenate([values, values.take([0], place)], axis=place)
            values = CubicSpline(knots, closed, axis=place, bc_type="periodic")(
                knots[0] + np.mod(wanted - knots[0], high - low)
            )
        else:
            values = CubicSpline(given, values, axis=place)(wanted.clip(given[0], given[-1]))
    return values


def judged(tree: Path, given: dict[str, Any], arrays: dict[str, Array]) -> list[Point]:
    """The curve of the solver in another tree of the project, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "arrays.npz", **arrays)  # type: ignore[arg-type]
        (Path(folder) / "given.json").write_text(json.dumps(given))
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        command = [sys.executable, "-P", str(Path(__file__)), "--curve", folder]
        subprocess.run(command, check=True, env=environment, cwd=tree)
        return [Point(**entry) for entry in json.loads((Path(folder) / "curve.json").read_text())]


def write_curve(folder: Path) -> None:
    """What `judged` asks a process of the other tree for."""
    with np.load(folder / "arrays.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    curve = solver_curve(json.loads((folder / "given.json").read_text()), arrays)
    (folder / "curve.json").write_text(json.dumps([asdict(point) for point in curve]))


@contextmanager
def tree_of(revision: str) -> Iterator[Path]:
    """The project as it was at a commit, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", revision, "ups_server"], cwd=REPOSITORY, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def measured(case: Case, model: str | None, tree: Path | None) -> Row:
    from ups_server.catalog import Catalog
    from ups_server.pde import Grid, family
    from ups_server.settings import Settings
    from ups_server.solvers.registry import load
    from ups_server.solvers.solver import Problem

    model = model or Catalog(Settings().data_dir).default(Settings().default_model, case.family)
    entry, count = family(case.family), case.trajectories
    axes = entry.ndim
    coefficients = entry.complete(case.coefficients)
    columns = {name: np.full(count, value) for name, value in coefficients.items()}
    fine, wanted = (Grid((n,) * axes, entry.extent) for n in (case.fine, case.points))
    rng = np.random.default_rng(SEED)
    initial = entry.fit_initial(entry.sample_initial(rng, count, fine), columns)
    static = entry.sample_static(rng, count, fine)
    times = np.asarray(entry.dt * np.arange(case.frames + 1), np.float64)
    truth = cells(
        np.asarray(entry.solve(np.asarray(initial, np.float64), times, fine, columns, static)), case.points, axes
    )
    arrays = {"initial": initial, "truth": truth} | ({} if static is None else {"static": static})

    solver = load(model, "cpu")
    problem = Problem(entry.id, coefficients, wanted, entry.boundary, entry.dt)
    start = cells(initial, case.points, axes).astype(np.float32)
    fixed = None if static is None else cells(static, case.points, axes).astype(np.float32)

    def rollout(rows: slice, every: bool) -> Array:
        """States (B, T, X..., C): the start, and all frames or the last one."""
        session = solver.session(problem, start[rows], None if fixed is None else fixed[rows])
        batch = session.batch([session])  # type: ignore[attr-defined]
        frames = [batch.launch([every or step == case.frames])()[0] for step in range(1, case.frames + 1)]
        return np.stack([start[rows], *(frame for frame in frames if frame is not None)], axis=1).astype(np.float64)

    error, _ = errors(rollout(slice(0, count), True), truth)
    _, final = errors(rollout(slice(0, count), False), truth[:, [0, -1]])
    model_s = seconds_a_trajectory(lambda rows: rollout(rows, True), count)
    model_final_s = seconds_a_trajectory(lambda rows: rollout(rows, False), count)

    given = {
        "family": entry.id, "coefficients": coefficients, "times": times.tolist(), "points": case.points,
        "coarse": [n for n in case.coarse if n <= case.fine], "enough": error, "enough_final": final,
    }  # fmt: skip
    today = judged(REPOSITORY, given, arrays)
    then = today if tree is None else judged(tree, given, arrays)
    (points, seconds, reached), (final_points, final_seconds, _) = (matched(then, error, final, of) for of in (0, 1))
    (today_points, today_s, _), (_, today_final_s, _) = (matched(today, error, final, of) for of in (0, 1))

    def ratio(of_solver: float | None, of_model: float) -> float | None:
        return None if of_solver is None else of_solver / of_model

    return Row(
        family=entry.id,
        model=model,
        coefficients=case.coefficients,
        points=case.points,
        frames=case.frames,
        model_s=model_s,
        model_final_s=model_final_s,
        model_error=error,
        model_final_error=final,
        solver_points=points,
        solver_s=seconds,
        solver_final_points=final_points,
        solver_final_s=final_seconds,
        solver_error=reached,
        ratio=ratio(seconds, model_s),
        ratio_final=ratio(final_seconds, model_final_s),
        today_points=today_points,
        today_s=today_s,
        today_final_s=today_final_s,
        ratio_today=ratio(today_s, model_s),
        ratio_final_today=ratio(today_final_s, model_final_s),
        curve=then,
        curve_today=today,
    )


def matched(
    curve: list[Point], error: float, final_error: float, of_final: int
) -> tuple[int, float, float] | tuple[None, None, None]:
    """(points, seconds, error) on the coarsest grid that is no worse than the model; None where none is."""
    for point in curve:
        if of_final and point.final_error <= final_error:
            return point.points, point.final_seconds, point.final_error
        if not of_final and point.error <= error:
            return point.points, point.seconds, point.error
    return None, None, None


def table(rows: list[Row]) -> Table:
    shown = Table(title="Seconds of one core a trajectory; solver / model at matched error")
    columns = ("family", "frames", "model", "error", "solver", "ratio", "final", "error", "solver", "ratio", "today")
    for name in columns:
        shown.add_column(name)

    def figure(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}g}"

    for row in rows:
        which = " ".join(f"{name} {value:g}" for name, value in row.coefficients.items())
        shown.add_row(
            f"{row.family} {which} ({row.model})", str(row.frames), figure(row.model_s), figure(row.model_error, 2),
            f"{figure(row.solver_s)} ({row.solver_points})", figure(row.ratio), figure(row.model_final_s),
            figure(row.model_final_error, 2), f"{figure(row.solver_final_s)} ({row.solver_final_points})",
            figure(row.ratio_final), f"{figure(row.ratio_today)} / {figure(row.ratio_final_today)}",
        )  # fmt: skip
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--model", help="a folder, or the name of a shipped model")
    parser.add_argument("--judge", metavar="COMMIT", help="judge with the solver of this commit; default today's")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--curve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.curve:
        write_curve(given.curve)
        return
    import torch

    torch.set_num_threads(1)
    cases = [case for case in CASES if not given.families or case.family in given.families]
    rows: list[Row] = []
    others = []
    if given.json and given.json.exists():
        measured_now = {case.family for case in cases}
        others = [row for row in json.loads(given.json.read_text()) if row["family"] not in measured_now]
    console = Console(width=170)

    def run(tree: Path | None) -> None:
        for case in cases:
            rows.append(measured(case, given.model, tree))
            for point in rows[-1].curve:
                console.print(f"  {case.family} on {point.points}: {point.seconds:.3g} s, error {point.error:.3g}")
            if given.json:
                lines = sorted([*others, *map(asdict, rows)], key=lambda line: FAMILIES.index(line["family"]))
                given.json.write_text(json.dumps(lines, indent=1) + "\n")

    if given.judge:
        with tree_of(given.judge) as tree:
            run(tree)
    else:
        run(None)
    console.print(table(rows))


if __name__ == "__main__":
    main()
