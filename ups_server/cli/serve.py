"""`ups serve`, and `ups doctor`: is this installation in order? Each check is one function that says what it found."""

import json
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups_server.cli.options import LOCAL, AsJson, DataDir, Url, settings_of, unreachable
from ups_server.cli.output import print_json, print_line, print_note
from ups_server.errors import UserError

if TYPE_CHECKING:
    from ups_server.settings import Settings


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


def open_page(url: Url = LOCAL) -> None:
    """Open the page of a running service in a browser."""
    import webbrowser

    import httpx

    try:
        httpx.get(f"{url}/healthz", timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise unreachable(url, error) from None
    if not webbrowser.open(url):
        print_note("there is no browser here; open this address in one:")
    print_line(url)


def curl_line(url: str) -> str:
    """The example as one line for a shell."""
    return f"curl -s {url}/v1/rollouts -H 'Content-Type: application/json' -d '{json.dumps(EXAMPLE)}'"


def announce(url: str) -> None:
    """Says where the service listens and what to paste."""
    print_line(f"UPS is serving at {url}; described at {url}/openapi.json. Try:\n\n  {curl_line(url)}\n")


OLDEST = (3, 11)
FREE_BYTES = 2**30
SIGNS = {"ok": "ok      ", "warning": "warning ", "failed": "FAILED  "}


@dataclass(frozen=True)
class CheckFinding:
    """What one check found. `status`: ok; warning: something is less than it could be; failed: the service suffers."""

    name: str
    status: str
    detail: str
    hint: str | None = None


def doctor(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check this installation: interpreter, torch, models, data folder, database, sandbox, port. Exit code 1: no."""
    findings = list(examined(settings_of(data_dir)))
    fine = all(finding.status != "failed" for finding in findings)
    if as_json:
        print_json({"ok": fine, "checks": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            hint = f" ({finding.hint})" if finding.hint else ""
            print_line(f"{SIGNS[finding.status]}{finding.name:<10} {finding.detail}{hint}")
    if not fine:
        raise typer.Exit(1)


def examined(settings: "Settings") -> Iterator[CheckFinding]:
    """Every check; one that breaks is a failure with its reason."""
    for check in CHECKS:
        try:
            yield check(settings)
        except UserError as error:
            yield CheckFinding(check.__name__, "failed", error.message, error.hint)
        except ModuleNotFoundError as error:
            yield CheckFinding(check.__name__, "failed", str(error), "pip install 'ups-server[serve]'")
        except (OSError, ImportError, ValueError, RuntimeError) as error:
            yield CheckFinding(check.__name__, "failed", f"{type(error).__name__}: {error}")


def python(settings: "Settings") -> CheckFinding:
    found = f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}"
    if sys.version_info < OLDEST:
        return CheckFinding("python", "failed", found, f"Python {'.'.join(map(str, OLDEST))} or newer is needed")
    return CheckFinding("python", "ok", found)


def torch(settings: "Settings") -> CheckFinding:
    """PyTorch loads, computes, and has the device that is asked for."""
    import torch as library

    cuda = library.cuda.is_available()
    device = library.cuda.get_device_name(0) if cuda else "CPU"
    found = f"{library.__version__}, {device}, {settings.threads} threads"
    if settings.device == "cuda" and not cuda:
        return CheckFinding("torch", "failed", found, "UPS_DEVICE is cuda, and there is none")
    there = {f"cuda:{index}" for index in range(library.cuda.device_count() if cuda else 0)}
    absent = [device.name for device in settings.engine_devices if not device.cores and device.name not in there]
    if absent:
        return CheckFinding("torch", "failed", found, f"UPS_DEVICES names {', '.join(absent)}, and there is none")
    if not bool(library.isfinite(library.ones(2, 2) @ library.ones(2, 2)).all()):
        return CheckFinding("torch", "failed", f"{found}: a product of matrices is not finite")
    return CheckFinding("torch", "ok", found)


def models(settings: "Settings") -> CheckFinding:
    """Every model folder is read, the weights of each have a header, and the default is among them."""
    from ups_server.catalog import Catalog
    from ups_server.files.equations import model_equation

    catalog = Catalog(settings.data_dir)
    cards = catalog.models()
    for card in cards:
        if card.kind == "learned":
            for file in Path(card.source).glob("*.safetensors"):
                check_weights(file)
            model_equation(card)
    default = catalog.model(settings.default_model)
    if broken := catalog.unreadable():
        return CheckFinding("models", "warning", "; ".join(map(str, broken.values())), "repair or remove these folders")
    return CheckFinding(
        "models", "ok", f"{', '.join(card.id for card in cards)}; by default {default.id} {default.version}"
    )


def check_weights(file: Path) -> None:
    """Raises UserError ``invalid_model`` where a file of weights is not whole, as its header describes it."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(size)) if size < 2**27 else {}
            end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UserError("invalid_model", f"{file} is no safetensors file") from None
    if file.stat().st_size != 8 + size + end:
        raise UserError(
            "invalid_model", f"{file} is not whole", hint=f"{file.stat().st_size} bytes instead of {8 + size + end}"
        )


def data(settings: "Settings") -> CheckFinding:
    """The data folder, or the one it will be made in, can be written and has room."""
    folder = settings.data_dir.absolute()
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as probe:
        probe.write(b"ups")
        probe.flush()
        os.fsync(probe.fileno())
    free = shutil.disk_usage(place).free
    found = f"{settings.data_dir} {'is there' if place == folder else 'will be made'}, {free / 2**30:.1f} GiB free"
    if free < FREE_BYTES:
        return CheckFinding("data", "warning", found, "uploads and jobs need room")
    return CheckFinding("data", "ok", found)


def database(settings: "Settings") -> CheckFinding:
    """The database opens, and is brought to this version; a SQLite file that is not there yet is tried elsewhere."""
    from ups_server.access.keys import KeyStore
    from ups_server.jobs.database import FILE, open_database
    from ups_server.settings import is_loopback

    with tempfile.TemporaryDirectory() as elsewhere:
        new = settings.database is None and not (settings.data_dir / FILE).is_file()
        opened = open_database(Path(elsewhere) if new else settings.data_dir, settings.database)
        try:
            kind, keyed = opened.engine.dialect.name, KeyStore(opened).any_active()
        finally:
            opened.close()
    found = f"{kind}{', to be made' if new else ''}, {'with' if keyed else 'without'} an active API key"
    if not keyed and not is_loopback(settings.host):
        return CheckFinding("database", "failed", found, f"UPS_HOST is {settings.host}: `ups keys create` makes a key")
    return CheckFinding("database", "ok", found)


def sandbox(settings: "Settings") -> CheckFinding:
    """What confines the process that reads uploaded files; a process of its own tries it."""
    import subprocess

    program = (
        "from pathlib import Path; from ups_server.files import confinement as c;"
        "print(int(c.restrict_files([], [])), int(c.restrict_calls()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
    if done.returncode != 0:
        return CheckFinding("sandbox", "failed", done.stderr.strip()[-500:] or f"exit code {done.returncode}")
    held = dict(zip(("Landlock (files)", "seccomp (network, programs)"), done.stdout.split(), strict=True))
    missing = [name for name, answer in held.items() if answer != "1"]
    if missing:
        hint = "uploads are still read in a process with limits; take them from trusted users only"
        return CheckFinding("sandbox", "warning", f"this system has no {' and no '.join(missing)}", hint)
    return CheckFinding("sandbox", "ok", ", ".join(["limits", *held]))


def port(settings: "Settings") -> CheckFinding:
    """The address is free to listen on."""
    kind, address = socket.AF_INET6 if ":" in settings.host else socket.AF_INET, (settings.host, settings.port)
    with socket.socket(kind, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(address)
        except OSError as error:
            hint = "a service runs there already, or choose another with UPS_PORT"
            return CheckFinding("port", "warning", f"{settings.host}:{settings.port}: {error.strerror}", hint)
    return CheckFinding("port", "ok", f"{settings.host}:{settings.port} is free")


CHECKS: tuple[Callable[["Settings"], CheckFinding], ...] = (python, torch, models, data, database, sandbox, port)
"""In the order they are made."""
