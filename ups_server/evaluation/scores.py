"""The scores of one file: what `ups evaluate` writes and how each figure follows from the moments of the error.

Every figure is a plain mean of a per-sample score of `pde.metrics`; null stands for a figure that is not finite (a
diverged rollout, marked ``finite: false``) or not defined (a band the grid cannot hold, the skill of a field that does
not change). Steps are those that were predicted: frame 0 is given and never scored.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table
from rich.text import Text

from ups_server.data.source import LeftOut
from ups_server.pde import metrics
from ups_server.pde.metrics import ErrorMoments

Figure = float | None
PerField = dict[str, Figure]
Values = NDArray[np.float64]


class _Scores(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pooled(_Scores):
    """Figures that one-step and rollout share: means over trajectories, steps and (where lumped) fields."""

    finite: bool = Field(description="Is every predicted value finite?")
    nrmse: Figure = Field(description="||e|| / ||target|| per sample, all fields in one norm (as UPS); mean.")
    nrmse_pdebench: Figure = Field(description="||e|| / ||target|| per sample and field; mean (PDEBench's nRMSE).")
    vrmse: Figure = Field(description="Root of mean square error over the target's variance in space; mean.")
    vrmse_per_field: PerField
    rmse: Figure = Field(description="Root mean square error over points; mean.")
    rmse_per_field: PerField
    max: Figure = Field(description="Largest |e| over points and trajectories; mean over steps and fields.")
    crmse: Figure = Field(description="Error of the spatial mean, root mean square over trajectories; mean.")
    brmse: Figure = Field(description="Root mean square error over boundary cells; mean.")
    frmse_low: Figure = Field(description="Root mean square error amplitude of wave numbers 0-3; mean.")
    frmse_mid: Figure = Field(description="The same of wave numbers 4-11.")
    frmse_high: Figure = Field(description="The same of wave numbers from 12 on.")
    skill: Figure = Field(description="Mean over fields of `skill_per_field`; persistence scores 1.")
    skill_per_field: PerField = Field(
        description="RMS error of a trajectory over that of persistence; mean over trajectories."
    )
    per_step: list[Figure] = Field(description="`nrmse` of each predicted step.")
    per_field: PerField


class OneStepScores(Pooled):
    """Teacher forcing: every state of the file predicts the next. `per_field` is nRMSE per field, mean over samples."""


class RolloutScores(Pooled):
    """From the first state alone. `per_field` is over the trajectory-wide norm of the field."""

    nrmse_trajectory: Figure = Field(description="sqrt(sum e² / sum target²) of a trajectory, fields lumped; mean.")
    nrmse_per_field: PerField = Field(description="||e|| / ||target|| per sample; mean over trajectories and steps.")
    per_step_trajectory: list[Figure] = Field(description="Error of each step over the trajectory-wide norm.")
    per_step_per_field: dict[str, list[Figure]] = Field(description="The same per field.")


class PersistenceScores(_Scores):
    """The scores of u(t + dt) = u(t) on the same trajectories."""

    one_step: OneStepScores
    rollout: RolloutScores


class FileScores(_Scores):
    """One model on one file."""

    file: str
    model: str
    family: str
    fields: list[str]
    coefficients: dict[str, float | list[float]]
    dt: float
    resolution: list[int] = Field(description="Points per axis, in the file's order of axes.")
    trajectories: int
    left_out: list[LeftOut] = Field(
        default=[], description="Trajectories of the file that cannot be used, by number, and why: they are not scored."
    )
    steps: int = Field(description="Predicted steps of a rollout.")
    horizon: Literal["step", "final"] = Field(
        default="step", description="`final`: the last state alone, predicted from the first; both scores are of that."
    )
    one_step: OneStepScores | None = Field(description="Null where a visible state does not determine the next.")
    rollout: RolloutScores
    persistence: PersistenceScores

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, without NaN or infinity."""
        return self.model_dump(mode="json")


def one_step_scores(moments: ErrorMoments, baseline: ErrorMoments, fields: Sequence[str]) -> OneStepScores:
    """The one-step scores of the moments (N, T-1, C), with those of persistence as `baseline`."""
    per_field = _per_field(metrics.nrmse_per_field(moments), fields)
    return OneStepScores(per_field=per_field, **_pooled(moments, baseline, fields))


def rollout_scores(moments: ErrorMoments, baseline: ErrorMoments, fields: Sequence[str]) -> RolloutScores:
    """The rollout scores of the moments (N, T-1, C) of steps 1 … T-1."""
    by_step = metrics.nrmse_step_trajectory_per_field(moments)
    return RolloutScores(
        per_field=_per_field(metrics.nrmse_trajectory_per_field(moments), fields),
        nrmse_trajectory=_mean(metrics.nrmse_trajectory(moments)),
        nrmse_per_field=_per_field(metrics.nrmse_per_field(moments), fields),
        per_step_trajectory=_per_step(metrics.nrmse_step_trajectory(moments)),
        per_step_per_field={name: _per_step(by_step[..., index]) for index, name in enumerate(fields)},
        **_pooled(moments, baseline, fields),
    )


def _pooled(moments: ErrorMoments, baseline: ErrorMoments, fields: Sequence[str]) -> dict[str, Any]:
    lumped = metrics.nrmse(moments)
    bands = metrics.fourier_rmse(moments)
    skills = _skill_per_field(metrics.skill(moments, baseline), fields)
    return {
        "finite": moments.finite,
        "nrmse": _mean(lumped),
        "nrmse_pdebench": _mean(metrics.nrmse_per_field(moments)),
        "vrmse": _mean(metrics.vrmse(moments)),
        "vrmse_per_field": _per_field(metrics.vrmse(moments), fields),
        "rmse": _mean(metrics.rmse(moments)),
        "rmse_per_field": _per_field(metrics.rmse(moments), fields),
        "max": _mean(metrics.max_error(moments)),
        "crmse": _mean(metrics.conservation_rmse(moments)),
        "brmse": _mean(metrics.boundary_rmse(moments)),
        **{f"frmse_{band}": _mean(bands[..., index]) for index, band in enumerate(metrics.BANDS)},
        "skill": _mean(np.array([value for value in skills.values() if not math.isnan(value)])),
        "skill_per_field": {name: _figure(value) for name, value in skills.items()},
        "per_step": _per_step(lumped),
    }


def _skill_per_field(skill: Values, fields: Sequence[str]) -> dict[str, float]:
    """The mean of each field over the trajectories in which it changes; NaN where there is none."""
    columns = {name: skill[~np.isnan(skill[:, index]), index] for index, name in enumerate(fields)}
    return {name: float(column.mean()) if column.size else math.nan for name, column in columns.items()}


def _figure(value: float) -> Figure:
    return value if math.isfinite(value) else None


def _mean(values: Values) -> Figure:
    """The mean, or None where it is not finite or there is nothing to average."""
    return _figure(float(np.mean(values))) if values.size else None


def _per_field(values: Values, fields: Sequence[str]) -> PerField:
    """The mean of each field, the last axis."""
    return {name: _mean(values[..., index]) for index, name in enumerate(fields)}


def _per_step(values: Values) -> list[Figure]:
    """The mean over trajectories of each step, (N, T) given."""
    return [_mean(values[:, step]) for step in range(values.shape[1])]


COLUMNS = ("nRMSE", "trajectory", "skill", "VRMSE", "RMSE")
"""`trajectory` is the rollout's error over the trajectory-wide norm; skill is the error over that of persistence."""


def render(scores: Sequence[FileScores]) -> Table:
    """One block a file: one-step, rollout and persistence, lumped and per field. A dash marks what is not defined."""
    page = Table.grid()
    for entry in scores:
        page.add_row(Text(_title(entry), style="bold"))
        page.add_row(_block(entry))
        page.add_row("")
    return page


def _block(entry: FileScores) -> Table:
    block = Table(box=None, pad_edge=False, header_style="dim")
    block.add_column("", min_width=24)
    for column in COLUMNS:
        block.add_column(column, justify="right")
    parts: tuple[tuple[str, OneStepScores | RolloutScores | None], ...] = (
        (f"{entry.model}, one-step", entry.one_step),
        (f"{entry.model}, {entry.steps} steps", entry.rollout),
        ("persistence, one-step", entry.persistence.one_step),
        (f"persistence, {entry.steps} steps", entry.persistence.rollout),
    )
    for name, part in parts:
        if part is None:
            block.add_row(name, *("-" for _ in COLUMNS))
        else:
            for cells in _rows(name, part):
                block.add_row(*cells)
    return block


def _rows(name: str, part: OneStepScores | RolloutScores) -> Iterator[list[str]]:
    if isinstance(part, RolloutScores):
        trajectory, per_sample, per_trajectory = part.nrmse_trajectory, part.nrmse_per_field, dict(part.per_field)
    else:
        trajectory, per_sample, per_trajectory = None, part.per_field, dict.fromkeys(part.per_field)
    yield _row(name if part.finite else f"{name}: diverged", part.nrmse, trajectory, part.skill, part.vrmse, part.rmse)
    if len(part.per_field) > 1:
        for field in part.per_field:
            skill, vrmse, rmse = part.skill_per_field[field], part.vrmse_per_field[field], part.rmse_per_field[field]
            yield _row(f"  {field}", per_sample[field], per_trajectory[field], skill, vrmse, rmse)


def _row(name: str, *figures: Figure) -> list[str]:
    return [name, *("-" if figure is None else f"{figure:.4g}" for figure in figures)]


def _title(entry: FileScores) -> str:
    numbers = [f"{name}={value:g}" for name, value in entry.coefficients.items() if isinstance(value, float)]
    resolution = "x".join(map(str, entry.resolution))
    setting = [entry.family, *numbers, f"dt={entry.dt:g}", f"n={resolution}", f"{entry.trajectories} trajectories"]
    return f"{entry.file}\n{', '.join(setting)}"
