"""Weights trained at one resolution, asked at finer ones: the resolution-free path against interpolation.

Fresh trajectories of the reference solvers on the finest grid (advection exactly; 1024 points in 1-D, 256² in 2-D) are
subsampled to every grid asked for, in 2-D also to grids that are not square. On each, one-step and rollout:

* resolution-free: the model runs on the fine grid;
* interpolated: subsample to the trained grid, predict, interpolate (the paper's way);
* observed coarsely: the model on the fine grid, but of the state only the trained grid's points were given;
* interpolated truth: what any answer is bound to lose that knows the solution at the trained grid's points alone.

The first two are given the fine state; the last two tell what of the error is detail that was never observed.

    python benchmarks/superres.py models/ups-mini [-n 16] [--family advection] [--json OUT]
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ups_server.data.simulate import complete_draws, solve_rows
from ups_server.pde import BoundaryCondition, Family, Grid, family
from ups_server.pde.metrics import error_moments, nrmse, nrmse_per_field, nrmse_trajectory, nrmse_trajectory_per_field
from ups_server.pde.resampling import coarser, resample, subsampled
from ups_server.solvers.neural import load_neural
from ups_server.solvers.solver import Frames, Problem, Session, Solver, rollout


@final
class Interpolated:
    """The interpolation path: predicts on every so many-th point, `points` an axis, and interpolates the answer."""

    def __init__(self, solver: Solver, points: Sequence[int]) -> None:
        self.solver = solver
        self.points = tuple(points)
        self.name = f"{solver.name} (interpolated from {'x'.join(map(str, points))})"

    def dt(self, family: str) -> float:
        return self.solver.dt(family)

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        """A rollout on the coarse grid; every state is interpolated as it is asked for.

        Raises:
            UserError: ``resolution_mismatch``, and what the solver raises.
        """
        coarse, strides = self._coarse(problem)
        fixed = None if static is None else subsampled(static, strides)
        return _InterpolatedSession(self.solver.session(coarse, subsampled(initial, strides), fixed), coarse, problem)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        coarse, strides = self._coarse(problem)
        fixed = None if static is None else subsampled(static, strides)
        predicted = self.solver.one_step(coarse, subsampled(truth, strides), fixed)
        if predicted is None:
            return None
        flat = predicted.reshape(-1, *predicted.shape[2:])
        fine = resample(flat, coarse.grid, problem.grid, problem.boundary)
        return fine.reshape(*predicted.shape[:2], *fine.shape[1:])

    def _coarse(self, problem: Problem) -> tuple[Problem, tuple[int, ...]]:
        grid, strides = coarser(problem.grid, self.points)
        return replace(problem, grid=grid), strides


class _InterpolatedSession:
    def __init__(self, session: Session, coarse: Problem, fine: Problem) -> None:
        self._session, self._coarse, self._fine = session, coarse, fine

    def step(self) -> Frames:
        return resample(self._session.step(), self._coarse.grid, self._fine.grid, self._fine.boundary)


@final
class ObservedCoarsely:
    """The resolution-free path where only every so many-th point was observed: those, interpolated, are the input."""

    def __init__(self, solver: Solver, points: Sequence[int]) -> None:
        self.solver = solver
        self.points = tuple(points)
        self.name = f"{solver.name} (observed at {'x'.join(map(str, points))})"

    def dt(self, family: str) -> float:
        return self.solver.dt(family)

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        """A rollout on the fine grid from what the coarse points show of `initial`.

        Raises:
            UserError: ``resolution_mismatch``, and what the solver raises.
        """
        return self.solver.session(problem, self._seen(problem, initial), static)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        flat = self._seen(problem, truth.reshape(-1, *truth.shape[2:]))
        return self.solver.one_step(problem, flat.reshape(truth.shape), static)

    def _seen(self, problem: Problem, states: Frames) -> Frames:
        grid, strides = coarser(problem.grid, self.points)
        return resample(subsampled(states, strides), grid, problem.grid, problem.boundary)


SEED = 7_100_001
FINEST = {1: 1024, 2: 256}
STEPS = {1: 40, 2: 8}
"""Most steps of a rollout, by dimensions."""
COEFFICIENTS: dict[str, tuple[dict[str, float], ...]] = {
    "advection": ({"beta": 0.4}, {"beta": 1.0}),
    "burgers": ({"nu": 0.001}, {"nu": 0.01}, {"nu": 0.1}),
}
"""Of the families that are asked at other coefficients than their default."""
ADVECTION_GOAL = 1.1


@dataclass(frozen=True)
class Errors:
    """Means over trajectories (and steps): one-step nRMSE, rollout over the trajectory-wide norm; per field."""

    one_step: float
    rollout: float
    one_step_per_field: dict[str, float]
    rollout_per_field: dict[str, float]


@dataclass(frozen=True)
class Asked:
    """One equation on one grid: the errors of each answer; "interpolated truth" is in place of both."""

    equation: str
    points: tuple[int, ...]
    trained: tuple[int, ...]
    answers: dict[str, Errors]


def errors(one_step: Frames, rolled: Frames, truth: Frames, fields: list[str]) -> Errors:
    target = truth[:, 1:]
    one, many = error_moments(one_step, target), error_moments(rolled, target)
    per_field = nrmse_per_field(one).mean((0, 1)), nrmse_trajectory_per_field(many).mean(0)
    named = [dict(zip(fields, values.tolist(), strict=True)) for values in per_field]
    return Errors(float(nrmse(one).mean()), float(nrmse_trajectory(many).mean()), *named)


def answered(solver: Solver, problem: Problem, truth: Frames, static: Frames | None, fields: list[str]) -> Errors:
    one_step = solver.one_step(problem, truth, static)
    if one_step is None:
        raise TypeError("a trained model always predicts one step")
    session = solver.session(problem, truth[:, 0], static)
    rolled = np.stack(list(rollout(session, truth.shape[1] - 1)), axis=1)
    return errors(one_step, rolled, truth, fields)


def interpolated_truth(truth: Frames, grid: Grid, trained: tuple[int, ...], boundary: BoundaryCondition) -> Frames:
    coarse, strides = coarser(grid, trained)
    flat = truth.reshape(-1, *truth.shape[2:])
    return resample(subsampled(flat, strides), coarse, grid, boundary).reshape(truth.shape)


def grids(entry: Family, trained: int) -> Iterator[tuple[int, ...]]:
    """The trained grid first, then finer ones up to the reference's."""
    finest = FINEST[entry.ndim]
    sides = [n for n in (trained * 2**k for k in range(8)) if n <= finest]
    yield from ((n,) * entry.ndim for n in sides)
    if entry.ndim == 2 and len(sides) > 1:
        yield from ((sides[1], trained), (trained, sides[1]))


def ask(solver: Solver, n: int, entry: Family, coefficients: dict[str, float], count: int) -> list[Asked]:
    """Every grid from the trained one, `n` points an axis, on the same trajectories."""
    trained = (n,) * entry.ndim
    finest = entry.default_grid(max(FINEST[entry.ndim], n))
    steps = min(STEPS[entry.ndim], round(entry.t_final / entry.dt))
    times = np.arange(steps + 1, dtype=np.float64) * entry.dt
    complete = entry.complete(coefficients)
    solved = solve_rows(entry, complete_draws(entry, complete), range(count), SEED, finest, times)
    fields, name = [field.name for field in entry.fields], entry.id
    name = " ".join([name, *(f"{key}={value:g}" for key, value in coefficients.items())])
    out = []
    for points in grids(entry, trained[0]):
        grid, strides = coarser(finest, points)
        truth = subsampled(solved.values, strides)
        static = None if solved.static is None else subsampled(solved.static, strides)
        problem = Problem(entry.id, complete, grid, entry.boundary, entry.dt)
        answers = {"resolution-free": answered(solver, problem, truth, static, fields)}
        if points != trained:
            answers["interpolated"] = answered(Interpolated(solver, trained), problem, truth, static, fields)
            answers["observed coarsely"] = answered(ObservedCoarsely(solver, trained), problem, truth, static, fields)
            lost = interpolated_truth(truth[:, 1:], grid, trained, entry.boundary)
            answers["interpolated truth"] = errors(lost, lost, truth, fields)
        out.append(Asked(name, points, trained, answers))
    return out


def figure(value: float) -> str:
    return f"{value:.5f}" if np.isfinite(value) else "diverged"


def rows(results: list[Asked]) -> Iterator[list[str]]:
    columns = ("resolution-free", "interpolated", "observed coarsely", "interpolated truth")
    for asked in results:
        points = " x ".join(map(str, asked.points))
        found = [asked.answers.get(column) for column in columns]
        cells = [["-", "-"] if e is None else [figure(e.one_step), figure(e.rollout)] for e in found]
        yield [asked.equation, points, "all", *(cell[0] for cell in cells), *(cell[1] for cell in cells)]
        names = list(asked.answers["resolution-free"].one_step_per_field)
        for name in names if len(names) > 1 else ():
            one = ["-" if e is None else figure(e.one_step_per_field[name]) for e in found]
            many = ["-" if e is None else figure(e.rollout_per_field[name]) for e in found]
            yield ["", "", name, *one, *many]


def verdicts(results: list[Asked]) -> Iterator[str]:
    for equation in dict.fromkeys(asked.equation for asked in results):
        own = [asked for asked in results if asked.equation == equation]
        coarse, fine = own[0].answers["resolution-free"], own[1:]
        if not fine:
            continue
        worst = max(asked.answers["resolution-free"].one_step / coarse.one_step for asked in fine)
        line = f"{equation}: finest over trained grid at most {worst:.2f}x"
        if equation.startswith("advection"):
            line += f" (goal {ADVECTION_GOAL}x: {'met' if worst <= ADVECTION_GOAL else 'NOT met'})"
        one, many = (
            max(getattr(a.answers["observed coarsely"], kind) / getattr(a.answers["interpolated"], kind) for a in fine)
            for kind in ("one_step", "rollout")
        )
        better = one <= 1 and many <= 1
        choice = "can" if better else "must NOT"
        yield (
            f"{line}; given the trained grid's points, resolution-free over interpolated at most {one:.2f}x one-step, "
            f"{many:.2f}x rollout: resolution-free {choice} be the default"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", "--count", type=int, default=16)
    parser.add_argument("--family", action="append", help="default: every family of the model")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    solver = load_neural(options.model, "cpu")
    chosen = options.family or list(solver.model.config.families)
    cases = [(family(name), values) for name in chosen for values in COEFFICIENTS.get(name, ({},))]
    results: list[Asked] = []
    for entry, values in track(cases, "asking", console=Console(stderr=True)):
        count = options.count if entry.ndim == 1 else max(1, options.count // 4)
        n = solver.model.config.families[entry.id].statistics.n
        results += ask(solver, n, entry, values, count)
    short = ("free", "interp.", "observed", "truth")
    heading = [
        "equation",
        "points",
        "field",
        *(f"one-step: {name}" for name in short),
        *(f"rollout: {name}" for name in short),
    ]
    table = Table(*heading, title=f"{solver.name}: nRMSE on grids it was not trained on")
    cells = list(rows(results))
    for row in cells:
        table.add_row(*row)
    console = Console(width=190)
    console.print(table)
    print("\n| " + " | ".join(heading) + " |\n|" + "---|" * len(heading))
    print("\n".join("| " + " | ".join(row) + " |" for row in cells))
    print("\n" + "\n".join(verdicts(results)))
    if options.json:
        command = f"python benchmarks/superres.py models/{options.model.name} -n {options.count}"
        record = {"command": command, "seed": SEED, "asked": [asdict(asked) for asked in results]}
        options.json.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
