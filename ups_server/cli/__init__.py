"""The command `ups`: its commands, and the one place where a user's mistake becomes an exit code.

So does an extra that a command needs and that is not installed. Starts without torch: every command imports what it
needs when it runs.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ups_server import __version__
from ups_server.cli import catalogue, data, files, jobs, keys, serve, solve, train
from ups_server.cli.output import print_error
from ups_server.errors import EXIT_CODE, UserError

app = typer.Typer(
    name="ups",
    help="One model for many partial differential equations: generate data, train, evaluate, solve, serve.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("open")(serve.open_page)
app.command("doctor")(serve.doctor)
app.command("solve")(solve.solve)
app.command("equation")(catalogue.equation)
app.command("evaluate")(train.evaluate)
app.add_typer(train.app, name="train")
app.command("adapt")(train.adapt)
app.add_typer(data.app, name="data")
app.add_typer(files.app, name="files")
app.command("families")(catalogue.list_families)
app.add_typer(catalogue.models, name="models")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")


EXTRAS = {
    **dict.fromkeys(("torch", "neuralop", "tokenizers", "transformers"), "model"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "prometheus_client", "sqlalchemy"), "serve"),
    "tensorboard": "train",
}
"""Package -> the extra that brings it."""
TRAINING = ("train", "adapt")
"""Commands that need the extra `train` where they need any."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `arguments` (the process's own when None) and exits: 0 done, 2 the user's mistake, 1 ours."""
    # Read when torch and neuraloperator are first imported: spinning OpenMP threads collapse on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("WANDB_MODE", "disabled")
    words = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=arguments, prog_name="ups")
    except UserError as error:
        print_error(error)
        sys.exit(EXIT_CODE)
    except ModuleNotFoundError as error:
        missing = missing_extra(error.name or "", words)
        if missing is None:
            raise
        print_error(missing)
        sys.exit(EXIT_CODE)


def missing_extra(module: str, words: Sequence[str]) -> UserError | None:
    """What to install where a command does not find a module; None where it belongs to no extra of this package.

    Args:
        words: of the command.
    """
    package = module.partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    command = next((word for word in words if not word.startswith("-")), "")
    extra = "train" if command in TRAINING else extra
    return UserError(
        "extra_missing",
        f"`ups {command}` needs more than the base of ups-server",
        got=f"no {package}",
        hint=f"pip install 'ups-server[{extra}]'",
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ups-server {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """One model for many partial differential equations: generate data, train, evaluate, solve, serve."""
