"""Scores as tables that a person can read on a terminal of eighty columns."""

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from ups_server.solve.scores import Figure, FileScores, OneStepScores, RolloutScores

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
