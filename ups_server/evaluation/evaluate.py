"""Evaluation of a solver on files: teacher-forced one-step and full rollout, with persistence beside both.

Trajectories are read, predicted and reduced to the moments of their errors in batches; memory does not grow with the
number of trajectories.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ups_server.data.formats import open_source
from ups_server.data.scan import usable
from ups_server.data.source import TrajectorySource, grouped
from ups_server.errors import UserError
from ups_server.evaluation.input import EvaluationInput, evaluation_input
from ups_server.evaluation.predictions import PredictionsGroup, predictions_file
from ups_server.evaluation.scores import FileScores, PersistenceScores, one_step_scores, rollout_scores
from ups_server.pde.metrics import ErrorMoments, concatenate, error_moments
from ups_server.solvers.load import load
from ups_server.solvers.solver import Frames, Problem, Solver, rollout

Progress = Callable[[str, int, int], None]
"""Called with the file's name, the trajectories done and their number."""


def evaluate(
    model: str | Path | Solver,
    files: Sequence[str | Path],
    dt: float | None = None,
    resolution: int | None = None,
    trajectories: int | None = None,
    device: str = "auto",
    predictions: str | Path | None = None,
    progress: Progress | None = None,
    body: Literal["trained", "none", "random"] = "trained",
    family: str | None = None,
    coefficients: Mapping[str, float] | None = None,
) -> list[FileScores]:
    """Scores a model on each file; rows that cannot be used are left out, and the scores list them.

    Args:
        model: a solver, or what `load` takes.
        dt: step in the file's time unit; default: the model's for the family, else the family's own.
        resolution: points along the first axis, an integer-stride subsample; default: the file's.
        trajectories: the first so many of each file, or all where it holds fewer.
        body: control of the language model of a model that is loaded here (see `load`).
        family: of the files, where they do not say.
        coefficients: of the files, where they do not say.
        predictions: HDF5 file to write truth and predictions to (see `solve.predictions`).

    Raises:
        UserError: ``dt_mismatch``, ``resolution_mismatch``, ``too_few_frames``, ``invalid_trajectories``, and what
            reading the file or loading and running the model raises.
    """
    if trajectories is not None and trajectories < 1:
        raise UserError("invalid_trajectories", "at least one trajectory is needed", got=trajectories)
    solver = load(model, device, body) if isinstance(model, str | Path) else model
    paths = [Path(file) for file in files]
    with predictions_file(None if predictions is None else Path(predictions), paths) as output:
        scores = []
        for index, path in enumerate(paths):
            with closing(open_source(path, family, coefficients)) as source:
                evaluation_input(source, path, solver, dt, resolution, trajectories)  # refuses before the file is read
                rows = usable(source, trajectories)
                task = evaluation_input(rows, path, solver, dt, resolution, trajectories)
                group = None if output is None else output.group(index, task.trajectories)
                scores.append(_evaluate_file(solver, task, group, progress))
        return scores


def evaluate_source(
    solver: Solver,
    source: TrajectorySource,
    name: str,
    dt: float | None = None,
    resolution: int | None = None,
    trajectories: int | None = None,
    progress: Progress | None = None,
) -> FileScores:
    """Scores a solver on trajectories that are open already; the rest as in `evaluate`.

    Args:
        name: what the scores call the file.
    """
    task = evaluation_input(source, Path(name), solver, dt, resolution, trajectories)
    return _evaluate_file(solver, task, None, progress)


def _evaluate_file(
    solver: Solver, task: EvaluationInput, output: PredictionsGroup | None, progress: Progress | None
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
