"""Evaluation of a solver on files: teacher-forced one-step and full rollout, with persistence beside both.

Trajectories are read (frames dt apart, every so many points, the first so many rows), predicted and reduced to the
moments of their errors in batches; memory does not grow with the number of trajectories.

The predictions file holds what was predicted beside the truth, so that anyone can recompute the scores. HDF5. With one
input file the datasets lie at the root, with several each has a group of the file's name: `truth` and `rollout`
(N, T, X..., C), `one_step` (N, T-1, X..., C; absent where it is not defined), float32 in physical units, and `rows`
(N), the numbers of the trajectories in their file; `rollout[:, 0]` is the given state, `one_step[:, t]` predicts
`truth[:, t + 1]` from `truth[:, t]`. Attributes: `fields`, `dt`, `family`, `coefficients` (JSON), `model`, `file`.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ups_server.data.formats import open_source
from ups_server.data.horizon import EndStatesOf, Horizon, check_horizon
from ups_server.data.mapping import Mapping as ArrayMapping
from ups_server.data.scan import usable
from ups_server.data.source import TrajectorySource, grouped
from ups_server.errors import UserError
from ups_server.evaluation.scores import FileScores, PersistenceScores, one_step_scores, rollout_scores
from ups_server.pde import Grid, family
from ups_server.pde.metrics import ErrorMoments, concatenate, error_moments
from ups_server.solvers.ahead import ahead
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Frames, Problem, Solver, rollout

PARTIAL = ".part"


@dataclass(frozen=True)
class PredictionsGroup:
    """The datasets of one input file."""

    group: Any
    trajectories: int

    def describe(self, attributes: Mapping[str, Any], coefficients: Mapping[str, Any], rows: Sequence[int]) -> None:
        """Writes the attributes, and the numbers of the trajectories in their file."""
        self.group["rows"] = list(rows)
        self.group.attrs.update(attributes)
        self.group.attrs["coefficients"] = json.dumps(dict(coefficients))

    def write(self, start: int, truth: Frames, rollout: Frames, one_step: Frames | None) -> None:
        """Writes trajectories `start` … as far as the arrays (B, T, X..., C) go."""
        for name, values in (("truth", truth), ("rollout", rollout), ("one_step", one_step)):
            if values is not None:
                shape = (self.trajectories, *values.shape[1:])
                dataset = self.group.require_dataset(name, shape, "f4", exact=True)
                dataset[start : start + len(values)] = values


class PredictionsFile:
    """An open predictions file."""

    def __init__(self, file: Any, paths: Sequence[Path]) -> None:
        self._file = file
        self._names = _group_names(paths)

    def group(self, index: int, trajectories: int) -> PredictionsGroup:
        """The place of the index-th input file."""
        group = self._file if len(self._names) == 1 else self._file.require_group(self._names[index])
        return PredictionsGroup(group, trajectories)


@contextmanager
def predictions_file(path: Path | None, inputs: Sequence[Path]) -> Iterator[PredictionsFile | None]:
    """Opens `path` for writing; the file takes its name only when everything has been written.

    Raises:
        UserError: ``unwritable_file`` where the folder does not exist or cannot be written.
    """
    if path is None:
        yield None
        return
    import h5py

    partial = path.with_name(path.name + PARTIAL)
    try:
        file = h5py.File(partial, "w")
    except OSError as error:
        raise UserError("unwritable_file", f"cannot write {path}", got=str(error)) from error
    try:
        with file:
            yield PredictionsFile(file, inputs)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _group_names(paths: Sequence[Path]) -> list[str]:
    """One name a file: its own, numbered where several files share it."""
    names = [path.stem for path in paths]
    return [name if names.count(name) == 1 else f"{name}-{index}" for index, name in enumerate(names)]


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
        horizon: are the frames the first and the last alone?
    """

    path: Path
    source: TrajectorySource
    grid: Grid
    dt: float
    frames: slice
    steps: int
    stride: int
    trajectories: int
    horizon: Horizon = "step"

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
    resolution: int | Sequence[int] | None,
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
        raise UserError(
            "too_few_frames",
            "an evaluation of steps needs at least two frames",
            got=len(times),
            hint="of a steady family, the horizon `final` leads from what is given to the solution",
        )
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


TrajectoryProgress = Callable[[str, int, int], None]
"""Called with the file's name, the trajectories done and their number."""


def evaluate(
    model: str | Path | Solver,
    files: Sequence[str | Path],
    dt: float | None = None,
    resolution: int | Sequence[int] | None = None,
    trajectories: int | None = None,
    device: str = "auto",
    predictions: str | Path | None = None,
    progress: TrajectoryProgress | None = None,
    body: Literal["trained", "none", "random"] = "trained",
    family: str | None = None,
    coefficients: Mapping[str, float] | None = None,
    mapping: ArrayMapping | None = None,
    horizon: Horizon = "step",
) -> list[FileScores]:
    """Scores a model on each file; rows that cannot be used are left out, and the scores list them.

    Args:
        model: a solver, or what `load` takes.
        dt: step in the file's time unit; default: the model's for the family, else the family's own.
        resolution: points along the first axis, or along each, an integer-stride subsample; default: the file's.
        trajectories: the first so many of each file, or all where it holds fewer.
        body: control of the language model of a model that is loaded here (see `load`).
        family: of the files, where they do not say.
        coefficients: of the files, where they do not say.
        mapping: what the arrays of the files mean (see `data.mapping`).
        predictions: HDF5 file to write truth and predictions to, as the module says.
        horizon: "final" scores the last state alone, predicted from the first one: by one call, or by the solver's own
            steps in between. Of a steady family, the solution, predicted from its static fields.

    Raises:
        UserError: ``horizon_mismatch``, ``dt_mismatch``, ``resolution_mismatch``, ``too_few_frames``,
            ``invalid_trajectories``, and what reading the file or loading and running the model raises.
    """
    if trajectories is not None and trajectories < 1:
        raise UserError("invalid_trajectories", "at least one trajectory is needed", got=trajectories)
    check_horizon(horizon, dt)
    solver = load(model, device, body) if isinstance(model, str | Path) else model
    paths = [Path(file) for file in files]
    with predictions_file(None if predictions is None else Path(predictions), paths) as output:
        scores = []
        for index, path in enumerate(paths):
            with closing(open_source(path, family, coefficients, mapping)) as source:
                # Refuses before the file is read.
                _input_of(source, path, solver, dt, resolution, trajectories, horizon)
                rows = usable(source, trajectories)
                chosen, task = _input_of(rows, path, solver, dt, resolution, trajectories, horizon)
                group = None if output is None else output.group(index, task.trajectories)
                scores.append(_evaluate_file(chosen, task, group, progress))
        return scores


def evaluate_source(
    solver: Solver,
    source: TrajectorySource,
    name: str,
    dt: float | None = None,
    resolution: int | None = None,
    trajectories: int | None = None,
    progress: TrajectoryProgress | None = None,
    horizon: Horizon = "step",
) -> FileScores:
    """Scores a solver on trajectories that are open already; the rest as in `evaluate`.

    Args:
        name: what the scores call the file.
    """
    solver, task = _input_of(source, Path(name), solver, dt, resolution, trajectories, horizon)
    return _evaluate_file(solver, task, None, progress)


def _input_of(
    source: TrajectorySource,
    path: Path,
    solver: Solver,
    dt: float | None,
    resolution: int | Sequence[int] | None,
    trajectories: int | None,
    horizon: Horizon,
) -> tuple[Solver, EvaluationInput]:
    """What is read of a source, and the solver that is asked."""
    if horizon == "step":
        return solver, evaluation_input(source, path, solver, dt, resolution, trajectories)
    ends = EndStatesOf(source)
    jump = float(ends.times[1] - ends.times[0])
    solver = ahead(solver, source.family, jump)
    return solver, replace(evaluation_input(ends, path, solver, jump, resolution, trajectories), horizon=horizon)


def _evaluate_file(
    solver: Solver, task: EvaluationInput, output: PredictionsGroup | None, progress: TrajectoryProgress | None
) -> FileScores:
    if output is not None:
        output.describe(_attributes(solver, task), task.coefficients, task.row_numbers)
    errors = _Errors()
    for rows in task.batches():
        truth, problem, static = task.truth(rows), task.problem(rows), task.static(rows)
        one_step, predicted = solver.one_step(problem, truth, static), _rollout(solver, problem, truth, static)
        errors.add(truth, one_step, predicted)
        if output is not None:
            output.write(rows.start, truth, predicted, one_step)
        if progress is not None:
            progress(task.path.name, rows.stop, task.trajectories)
    return FileScores(
        file=task.path.name,
        model=solver.name,
        family=task.source.family,
        fields=task.fields,
        coefficients=task.coefficients,
        dt=task.dt,
        resolution=list(task.grid.n),
        trajectories=task.trajectories,
        left_out=list(grouped(task.source.row_numbers.left_out)),
        steps=task.steps,
        horizon=task.horizon,
        **errors.scores(task.fields),
    )


def _attributes(solver: Solver, task: EvaluationInput) -> dict[str, Any]:
    return {
        "fields": task.fields,
        "dt": task.dt,
        "family": task.source.family,
        "model": solver.name,
        "file": task.path.name,
    }


@dataclass
class _Errors:
    """Moments of the errors of a solver and of persistence, one entry a batch."""

    one_step: list[ErrorMoments] = field(default_factory=list)
    rollout: list[ErrorMoments] = field(default_factory=list)
    persistence_one_step: list[ErrorMoments] = field(default_factory=list)
    persistence_rollout: list[ErrorMoments] = field(default_factory=list)

    def add(self, truth: Frames, one_step: Frames | None, predicted: Frames) -> None:
        """Reduces a batch: truth and predicted rollout (B, T, X..., C), one_step (B, T-1, X..., C) or None."""
        target = truth[:, 1:]
        if one_step is not None:
            self.one_step.append(error_moments(one_step, target))
        self.rollout.append(error_moments(predicted[:, 1:], target))
        self.persistence_one_step.append(error_moments(truth[:, :-1], target))
        self.persistence_rollout.append(error_moments(np.broadcast_to(truth[:, :1], target.shape), target))

    def scores(self, fields: Sequence[str]) -> dict[str, Any]:
        """The parts of `FileScores` that depend on predictions."""
        one_step, rollout = concatenate(self.persistence_one_step), concatenate(self.persistence_rollout)
        return {
            "one_step": one_step_scores(concatenate(self.one_step), one_step, fields) if self.one_step else None,
            "rollout": rollout_scores(concatenate(self.rollout), rollout, fields),
            "persistence": PersistenceScores(
                one_step=one_step_scores(one_step, one_step, fields), rollout=rollout_scores(rollout, rollout, fields)
            ),
        }


def _rollout(solver: Solver, problem: Problem, truth: Frames, static: Frames | None) -> Frames:
    """The rollout (B, T, X..., C) from truth[:, 0], which is its first frame."""
    predicted = np.empty_like(truth)
    predicted[:, 0] = truth[:, 0]
    states = rollout(solver.session(problem, truth[:, 0], static), truth.shape[1] - 1)
    for step, state in enumerate(states, start=1):
        predicted[:, step] = state
    return predicted
