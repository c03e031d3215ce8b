"""`ups train CONFIG` and `ups train baseline NAME CONFIG`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ups_server.cli.options import check_file
from ups_server.cli.output import print_note

RECIPE = "recipe"


class RecipeFirst(TyperGroup):
    """A first word that is no command of the group is a recipe to train: `ups train CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [RECIPE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=RecipeFirst,
    help="Train a model: `ups train CONFIG`; or what it is compared with: `ups train baseline NAME CONFIG`.",
    no_args_is_help=True,
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A training configuration (YAML).")]
Fresh = Annotated[
    bool,
    typer.Option("--fresh/--resume", help="Start over, or go on from the run's last state where there is one."),
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda. [default: cuda where there is one]")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that generate the data.")]


@app.command(RECIPE)
def train(config: Config, fresh: Fresh = False, device: Device = None, workers: Workers = 1) -> None:
    """Train a model: data from the reference solvers, alignment, then all families together (`ups train CONFIG`)."""
    check_file(config)
    from ups_server.train import run

    folder = run(config, fresh=fresh, device=device, workers=workers)
    print_note(f"the best model by validation is in {folder}")


@app.command("baseline")
def baseline(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="fno, unet, ups-paper; from-scratch, no-body, random-body, no-metadata, no-alignment."
        ),
    ],
    config: Config,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Wall-clock of the training steps; the learning rate follows it. [default: as CONFIG]"
        ),
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option("--family", help="Train on this family of CONFIG alone; repeatable.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field, such as model.n_modes=24.")
    ] = None,
    fresh: Fresh = False,
    device: Device = None,
    workers: Workers = 1,
) -> None:
    """Train a baseline or control on the data of a recipe, for as long or for a number of minutes."""
    check_file(config)
    from ups_server.train import run_baseline

    folder = run_baseline(
        name, config, minutes=minutes, families=family or (), changes=changes or (), fresh=fresh, device=device,
        workers=workers,
    )  # fmt: skip
    print_note(f"the best model by validation is in {folder}")
