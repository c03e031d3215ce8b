"""Do our reference solvers solve the equations of PDEBench's files?

From the first frame of each trajectory (of incompressible flow from the second: the first is not free of divergence)
our solver runs over all its frames, and from frames along the way it makes one step of the family's dt. Errors are in
percent of the norm of the file's field over its whole trajectory (one step also in percent of the true increments),
mean over trajectories. Where a file leaves out part of the state, one step means the increments of our run against the
file's. Steady families have no step; theirs is also compared with finite elements on finer cells, solved directly. A
family passes if its worst field is within its bars, for the run and for the step: a model trained on our data learns
our steps and is judged on PDEBench's, so a step may differ by a third of what the model is to reach, in both ways that
is said: the norm over all fields of a state lumped together, and for each field the part of the true increment (the
model's skill). PDEBench's own error, where known, says how small the figures can get.

    python benchmarks/solver_agreement.py [FOLDER] [--json OUT]
"""

import json
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu

from ups_server.data.formats import open_source
from ups_server.data.source import TrajectorySource
from ups_server.errors import UserError
from ups_server.pde import family as family_by_id
from ups_server.pde.family import Family
from ups_server.pde.grid import Array
from ups_server.pde.metrics import (
    error_moments,
    nrmse,
    nrmse_step_trajectory_per_field,
    nrmse_trajectory_per_field,
)

REPOSITORY = Path(__file__).resolve().parent.parent
SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class Bar:
    """Largest mean errors, in percent, and what is known of the error of PDEBench's files.

    Attributes:
        lumped: of one step, all fields in one norm: a third of the error we expect of a model; None where none is.
        increment: of one step, of each field's true increment: a third of the skill we expect.
        first: the frame the run starts from.
        direct: largest error against a direct solve of another discretisation, for steady families.
    """

    percent: float
    file_error: str
    lumped: float | None = None
    increment: float | None = None
    first: int = 0
    direct: float | None = None


BARS = {
    "advection": Bar(0.5, "0.3 % numerical dissipation", 0.08, 3.33),
    "burgers": Bar(0.2, "0.1 %", 0.5, 3.33),
    "diffusion_sorption": Bar(0.2, "tight integrator: none known", 0.03, 1.67),
    "shallow_water": Bar(0.5, "0.7 % of a converged solution, whose numerics ours shares", 0.063, 8.33),
    "compressible_ns_1d": Bar(2.0, "0.5 % of Vx at first; energy drifts by up to 0.9 %", 0.133, 3.33),
    "compressible_ns_2d": Bar(3.0, "0.5 % of the velocity at first", 0.087, 8.33),
    "diffusion_reaction_2d": Bar(0.5, "0.006 % of the time integrator"),
    "diffusion_reaction_1d": Bar(0.05, "0.02 % at 256 cells; up to 26 % at 1024"),
    "incompressible_ns_2d": Bar(10.0, "9 % (velocity) and 20 % (particles) at t = 0.5 of a solution on 256^2", first=1),
    "darcy": Bar(10.0, "not converged: see the direct solve", direct=0.1),
}


@dataclass(frozen=True)
class Agreement:
    """One field of one file; errors in percent, means over trajectories, seconds per trajectory of CPU."""

    file: str
    family: str
    field: str
    points: int
    trajectories: int
    error: float
    worst_trajectory: float
    worst_frame: float
    last_frame: float
    one_step: float | None
    one_step_lumped: float | None
    one_step_of_increment: float | None
    seconds: float
    per_frame: list[float]
    bar: float | None
    lumped_bar: float | None
    increment_bar: float | None
    file_error: str

    @property
    def passed(self) -> bool:
        pairs = (
            (self.error, self.bar),
            (self.one_step_lumped, self.lumped_bar),
            (self.one_step_of_increment, self.increment_bar),
        )
        return all(bar is None or figure is None or figure <= bar for figure, bar in pairs)


WIDTH = 170
"""Columns of the printed table, whatever the terminal: a wrapped table cannot be read."""


def main(
    folder: Annotated[Path, typer.Argument(help="PDEBench files.")] = REPOSITORY.parent / "shared" / "pdebench",
    trajectories: Annotated[int, typer.Option(help="At most so many of each file.")] = 8,
    starts: Annotated[int, typer.Option(help="One-step starts along each trajectory.")] = 20,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Compare our solvers with the files of a folder."""
    console = Console(width=WIDTH)
    files = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
    if not files:
        console.print(f"There are no .h5 or .hdf5 files in {folder}.")
        raise typer.Exit(2)
    rows: list[Agreement] = []
    for path in files:
        try:
            with closing(open_source(path)) as source:
                rows += compare(path.name, source, trajectories, starts)
        except UserError as error:
            console.print(f"[dim]left out: {error.message}[/dim]")
    console.print(_table(rows))
    console.print("bars: mean of the run / one dt lumped / one dt of the increment")
    for name, own in {row.family: row.file_error for row in rows}.items():
        console.print(f"{name}: the file's own error: {own}")
    if json_out is not None:
        json_out.write_text(json.dumps([asdict(row) | {"passed": row.passed} for row in rows], indent=1) + "\n")
    missed = sorted({row.family for row in rows if not row.passed})
    if missed or not rows:
        console.print(f"[red]FAIL[/red]: {', '.join(missed) or 'nothing was compared'}")
        raise typer.Exit(1)
    console.print(
        f"[green]PASS[/green]: {len(rows)} fields of {len({row.file for row in rows})} files within their bars"
    )


def compare(file: str, source: TrajectorySource, trajectories: int, starts: int) -> list[Agreement]:
    """One row a field."""
    family = family_by_id(source.family)
    count = min(trajectories, source.n_trajectories)
    bar = BARS.get(family.id)
    first = 0 if bar is None else bar.first
    truth = source.read(range(count)).astype(np.float64)[:, first:]
    stored = source.read_static(range(count))
    static = None if stored is None else stored.astype(np.float64)
    coefficients = {name: source.coefficients[:count, k] for k, name in enumerate(source.coefficient_names)}
    began = time.process_time()
    ours = family.solve(truth[:, 0], source.times[first:], source.grid, coefficients, static)
    seconds = (time.process_time() - began) / count
    moments = error_moments(ours, truth)
    whole = 100.0 * nrmse_trajectory_per_field(moments)
    frames = 100.0 * nrmse_step_trajectory_per_field(moments).mean(axis=0)
    one_step: Array | None = None
    of_increment: Array | None = None
    lumped: float | None = None
    if family.full_state and family.t_final:
        one_step, of_increment, lumped = _one_step(family, source, truth, coefficients, static, starts)
    elif family.t_final:
        one_step, of_increment, lumped = _increments_of_the_run(family, source, truth, ours)
    rows = [
        Agreement(
            file=file,
            family=family.id,
            field=field,
            points=source.grid.n[0],
            trajectories=count,
            error=float(whole[:, k].mean()),
            worst_trajectory=float(whole[:, k].max()),
            worst_frame=float(frames[:, k].max()),
            last_frame=float(frames[-1, k]),
            one_step=None if one_step is None else float(one_step[k]),
            one_step_lumped=lumped,
            one_step_of_increment=None if of_increment is None else float(of_increment[k]),
            seconds=seconds,
            per_frame=frames[:, k].tolist(),
            bar=None if bar is None else bar.percent,
            lumped_bar=None if bar is None else bar.lumped,
            increment_bar=None if bar is None else bar.increment,
            file_error="unknown" if bar is None else bar.file_error,
        )
        for k, field in enumerate(source.fields)
    ]
    if bar is not None and bar.direct is not None and static is not None:
        rows.append(_against_elements(rows[0], bar.direct, ours[:, 0, ..., 0], static[..., 0], coefficients["beta"]))
    return rows


def _against_elements(row: Agreement, bar: float, ours: Array, permeability: Array, beta: Array) -> Agreement:
    """Darcy flow against bilinear finite elements on cells quartered along each axis."""
    errors = []
    for u, nu, source in zip(ours, permeability, beta, strict=True):
        exact = source * _finite_elements(nu.repeat(4, axis=0).repeat(4, axis=1))
        exact = exact.reshape(len(u), 4, len(u), 4).mean(axis=(1, 3))
        errors.append(100.0 * float(np.linalg.norm(u - exact) / np.linalg.norm(exact)))
    mean, worst = float(np.mean(errors)), max(errors)
    return replace(
        row,
        field="u, direct",
        error=mean,
        worst_trajectory=worst,
        worst_frame=mean,
        last_frame=mean,
        per_frame=[mean],
        bar=bar,
    )


def _finite_elements(permeability: Array) -> Array:
    """Cell means (n, n) of u, -div(nu grad u) = 1, u = 0 around the unit square: bilinear elements, solved directly."""
    n = len(permeability)
    stiffness = np.array([[4, -1, -2, -1], [-1, 4, -1, -2], [-2, -1, 4, -1], [-1, -2, -1, 4]]) / 6.0
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    corners = np.stack([(i + a) * (n + 1) + j + b for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))], axis=-1).reshape(-1, 4)
    values = permeability.reshape(-1, 1, 1) * stiffness
    places = np.repeat(corners, 4, axis=1).ravel(), np.tile(corners, (1, 4)).ravel()
    system = coo_array((values.ravel(), places), shape=((n + 1) ** 2,) * 2).tocsc()
    u = np.zeros((n + 1, n + 1))
    inner = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)[1:-1, 1:-1].ravel()
    factors = splu(system[inner][:, inner], permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    u[1:-1, 1:-1] = factors.solve(np.full(inner.size, 1.0 / n**2)).reshape(n - 1, n - 1)
    result: Array = 0.25 * (u[1:, 1:] + u[1:, :-1] + u[:-1, 1:] + u[:-1, :-1])
    return result


def _one_step(
    family: Family,
    source: TrajectorySource,
    truth: Array,
    coefficients: dict[str, Array],
    static: Array | None,
    starts: int,
) -> tuple[Array, Array, float]:
    """Percent: the error of one dt from the file's own frames, per field over the trajectory and increments; lumped."""
    stride = _stride(family, source)
    first = np.unique(np.linspace(0, truth.shape[1] - 1 - stride, starts).astype(int))
    begin, end = truth[:, first], truth[:, first + stride]
    times = np.array([0.0, source.times[stride] - source.times[0]])
    repeated = {name: np.repeat(values, len(first)) for name, values in coefficients.items()}
    fixed = None if static is None else np.repeat(static, len(first), axis=0)
    ours = family.solve(begin.reshape(-1, *begin.shape[2:]), times, source.grid, repeated, fixed)[:, -1]
    ours = ours.reshape(end.shape)
    return _mismatch(ours, begin, end, truth)


def _increments_of_the_run(
    family: Family, source: TrajectorySource, truth: Array, ours: Array
) -> tuple[Array, Array, float]:
    """Percent: our increments over one dt along the run against the file's, as `_one_step`."""
    stride = _stride(family, source)
    begin, end = truth[:, :-stride], truth[:, stride:]
    return _mismatch(begin + ours[:, stride:] - ours[:, :-stride], begin, end, truth)


def _stride(family: Family, source: TrajectorySource) -> int:
    return max(1, round(family.dt / float(source.times[1] - source.times[0])))


def _mismatch(ours: Array, begin: Array, end: Array, truth: Array) -> tuple[Array, Array, float]:
    over_points = tuple(range(1, end.ndim - 1))
    error = np.sqrt(((ours - end) ** 2).mean(axis=over_points))
    increment = np.sqrt(((end - begin) ** 2).mean(axis=over_points))
    scale = np.sqrt((truth**2).mean(axis=over_points))
    lumped = 100.0 * float(nrmse(error_moments(ours, end)).mean())
    return 100.0 * (error / scale).mean(axis=0), 100.0 * (error / increment).mean(axis=0), lumped


def _table(rows: list[Agreement]) -> Table:
    table = Table(title="Our solvers against PDEBench's files (percent of the trajectory-wide norm)")
    for name in ("family", "field", "points", "mean", "worst traj.", "worst frame", "last frame"):
        table.add_column(name, justify="left" if name in ("family", "field") else "right", no_wrap=True)
    for name in ("one dt", "lumped", "of incr.", "CPU s", "bars"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        colour = "green" if row.passed else "red"
        table.add_row(
            row.family,
            row.field,
            str(row.points),
            f"[{colour}]{row.error:.4f}[/{colour}]",
            f"{row.worst_trajectory:.4f}",
            f"{row.worst_frame:.4f}",
            f"{row.last_frame:.4f}",
            "-" if row.one_step is None else f"{row.one_step:.4f}",
            "-" if row.one_step_lumped is None else f"{row.one_step_lumped:.4f}",
            "-" if row.one_step_of_increment is None else f"{row.one_step_of_increment:.3f}",
            f"{row.seconds:.3f}",
            " / ".join("-" if bar is None else f"{bar:g}" for bar in (row.bar, row.lumped_bar, row.increment_bar)),
        )
    return table


if __name__ == "__main__":
    typer.run(main)
