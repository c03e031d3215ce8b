"""`ups evaluate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ups_server.cli.options import FileCoefficients, FileFamily, check_file, check_folder, parse_coefficients
from ups_server.cli.output import print_json, print_note, print_table, progress

if TYPE_CHECKING:
    from ups_server.evaluation.scores import FileScores

COLUMNS = ("file", "n", "N", "steps", "one-step", "skill", "rollout", "over trajectory", "persistence")


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, a model id, `persistence` or `numerical`.")
    ],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of trajectories.")],
    dt: Annotated[float | None, typer.Option(help="Step; default: the model's, else the family's.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Points per axis; default: the file's.")] = None,
    trajectories: Annotated[int | None, typer.Option(help="The first so many of each file; default: all.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write every score; `-` for standard output.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="OUT.h5", help="Write truth and predictions, to recompute any score.")
    ] = None,
    family: FileFamily = None,
    coef: FileCoefficients = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    body: Annotated[
        Literal["trained", "none", "random"],
        typer.Option(help="A control: leave the language model out, or replace it by a random one."),
    ] = "trained",
) -> None:
    """Score a model on files: one step ahead and full rollout, with persistence beside both (nRMSE)."""
    for file in files:
        if not file.is_dir():
            check_file(file)
    for output in (json_file, predictions):
        if output is not None:
            check_folder(output)
    from ups_server.data.report import rows_text
    from ups_server.evaluation.evaluate import evaluate as score

    with progress("evaluating") as advance:
        scores = score(
            model,
            files,
            dt=dt,
            resolution=resolution,
            trajectories=trajectories,
            device=device,
            body=body,
            family=family,
            coefficients=parse_coefficients(coef),
            predictions=predictions,
            progress=lambda file, done, total: advance(done, total, file),
        )
    documents = [entry.as_dict() for entry in scores]
    if json_file == Path("-"):
        print_json(documents)
        return
    if json_file is not None:
        json_file.write_text(json.dumps(documents, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        print_note(f"scores written to {json_file}")
    for entry in scores:
        for group in entry.left_out:
            print_note(f"{entry.file}: {rows_text(group.rows)} left out: {group.reason}")
    print_table(COLUMNS, [_row(entry) for entry in scores])


def _row(scores: "FileScores") -> tuple[str, ...]:
    one_step, baseline = scores.one_step, scores.persistence.one_step
    return (
        Path(scores.file).name,
        "x".join(map(str, scores.resolution)),
        str(scores.trajectories),
        str(scores.steps),
        "-" if one_step is None else _figure(one_step.nrmse),
        "-" if one_step is None else _figure(one_step.skill),
        _figure(scores.rollout.nrmse),
        _figure(scores.rollout.nrmse_trajectory),
        _figure(baseline.nrmse),
    )


def _figure(value: float | None) -> str:
    """Null stands for a value that is not finite."""
    return "diverged" if value is None else f"{value:.4g}"
