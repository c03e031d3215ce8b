"""What of a file an evaluation reads: frames dt apart, every so many points, the first trajectories, batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ups_server.data.source import TrajectorySource
from ups_server.errors import UserError
from ups_server.pde import Grid, family
from ups_server.solvers.solver import Frames, Problem, Solver

BATCH_VALUES = 2**22
"""Values of the truth read at a time; the scores need about sixty bytes for each."""

DT_TOLERANCE = 1e-3
"""Relative deviation of dt from whole frames that the rounding of float32 times can explain."""


@dataclass(frozen=True)
class EvaluationInput:
    """One file as it will be read.

    Attributes:
        grid: the grid after subsampling by `stride`.
        frames: the frames dt apart, from the first on.
        steps: steps of dt from the first frame to the last.
    """

    path: Path
    source: TrajectorySource
    grid: Grid
    dt: float
    frames: slice
    steps: int
    stride: int
    trajectories: int

    @property
    def fields(self) -> list[str]:
        return list(self.source.fields)

    @property
    def coefficients(self) -> dict[str, float | list[float]]:
        """One number where all trajectories share it, else one a trajectory."""
        table = self.source.coefficients[: self.trajectories]
        return {
            name: float(column[0]) if np.all(column == column[0]) else column.tolist()
            for name, column in zip(self.source.coefficient_names, table.T, strict=True)
        }

    @property
    def row_numbers(self) -> list[int]:
        """The numbers of the trajectories in the file."""
        numbers: list[int] = self.source.row_numbers.numbers[: self.trajectories].tolist()
        return numbers

    def batches(self) -> Iterator[range]:
        """Rows that fit into memory together."""
        values = (self.steps + 1) * int(np.prod(self.grid.n)) * len(self.fields)
        size = max(1, BATCH_VALUES // values)
        for start in range(0, self.trajectories, size):
            yield range(start, min(start + size, self.trajectories))

    def truth(self, rows: range) -> Frames:
        """(B, T, X..., C)."""
        return np.asarray(self.source.read(rows, self.frames, self.stride), dtype=np.float32)

    def static(self, rows: range) -> Frames | None:
        """(B, X..., S) static fields, None for families without."""
        if not family(self.source.family).static_fields:
            return None
        points = (slice(None, None, self.stride),) * self.grid.ndim
        fields = (self.source.trajectory(row).static for row in rows)
        return np.stack([np.asarray(values, dtype=np.float32)[points] for values in fields])

    def problem(self, rows: range) -> Problem:
        table = self.source.coefficients[rows.start : rows.stop]
        coefficients = {
            name: column.tolist() for name, column in zip(self.source.coefficient_names, table.T, strict=True)
        }
        return Problem(self.source.family, coefficients, self.grid, self.source.boundary, self.dt)


def evaluation_input(
    source: TrajectorySource,
    path: Path,
    solver: Solver,
    dt: float | None,
    resolution: int | None,
    trajectories: int | None,
) -> EvaluationInput:
    """Settles what is read of `source`.

    Raises:
        UserError: ``dt_mismatch``, ``resolution_mismatch``, ``too_few_frames``.
    """
    dt = _default_dt(solver, source.family) if dt is None else dt
    frame_stride = frames_per_step(source.times, dt)
    stride = 1 if resolution is None else source.grid.stride_to(resolution)
    return EvaluationInput(
        path=path,
        source=source,
        grid=source.grid.subsample(stride),
        dt=dt,
        frames=slice(0, None, frame_stride),
        steps=(len(source.times) - 1) // frame_stride,
        stride=stride,
        trajectories=min(source.n_trajectories, trajectories or source.n_trajectories),
    )


def _default_dt(solver: Solver, family_id: str) -> float:
    """The solver's step for the family; a family it was not trained on is evaluated at the family's own."""
    try:
        return solver.dt(family_id)
    except UserError as error:
        if error.code != "family_not_in_model":
            raise
        return family(family_id).dt


def frames_per_step(times: NDArray[np.float64], dt: float) -> int:
    """Frames of the file in one step of dt.

    Raises:
        UserError: ``too_few_frames``, ``dt_mismatch``.
    """
    if len(times) < 2:
        raise UserError("too_few_frames", "an evaluation needs at least two frames", got=len(times))
    spacing = np.diff(times)
    frame_dt = float(times[-1] - times[0]) / (len(times) - 1)
    if not np.allclose(spacing, frame_dt, rtol=DT_TOLERANCE, atol=0):
        raise UserError(
            "dt_mismatch",
            "the frames of the file are not evenly spaced in time",
            got=f"spacings from {spacing.min():g} to {spacing.max():g}",
        )
    stride = round(dt / frame_dt) if np.isfinite(dt) else 0
    if stride < 1 or abs(dt / frame_dt - stride) > DT_TOLERANCE * stride:
        raise UserError(
            "dt_mismatch",
            "dt is no multiple of the file's frame spacing",
            got=dt,
            expected=f"a multiple of {frame_dt:g}",
        )
    if stride > len(times) - 1:
        raise UserError(
            "too_few_frames", "the file ends before the first step", got=float(times[-1] - times[0]), expected=dt
        )
    return stride
