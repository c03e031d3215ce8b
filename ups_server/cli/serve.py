"""`ups serve`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ups_server.cli.output import print_line

EXAMPLE = {
    "model": "ups-mini",
    "family": "burgers",
    "coefficients": {"nu": 0.001},
    "grid": {"n": [128]},
    "initial_condition": {"sample": {"seed": 7}},
    "n_steps": 20,
}
"""The request to paste after starting the service."""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes any free one. [default: 8000]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of what the service stores. [default: .ups]")] = None,
) -> None:
    """Serve models over HTTP, until interrupted. Every setting is also an environment variable (UPS_HOST, …)."""
    from ups_server.api.server import serve as run
    from ups_server.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port, "data_dir": data_dir}
    settings = Settings.given(**{name: value for name, value in given.items() if value is not None})
    run(settings, announce)


def curl_line(url: str) -> str:
    """The example as one line for a shell."""
    return f"curl -s {url}/v1/rollouts -H 'Content-Type: application/json' -d '{json.dumps(EXAMPLE)}'"


def announce(url: str) -> None:
    """Says where the service listens and what to paste."""
    print_line(f"UPS is serving at {url}; described at {url}/openapi.json. Try:\n\n  {curl_line(url)}\n")
