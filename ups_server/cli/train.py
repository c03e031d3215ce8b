"""`ups train`."""

from pathlib import Path
from typing import Annotated

import typer

from ups_server.cli.options import check_file
from ups_server.cli.output import print_note


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A training configuration (YAML).")],
    fresh: Annotated[
        bool,
        typer.Option("--fresh/--resume", help="Start over, or go on from the run's last state where there is one."),
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. [default: cuda where there is one]")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that generate the data.")] = 1,
) -> None:
    """Train a model: data from the reference solvers, alignment, then all families together."""
    check_file(config)
    from ups_server.train import run

    folder = run(config, fresh=fresh, device=device, workers=workers)
    print_note(f"the best model by validation is in {folder}")
