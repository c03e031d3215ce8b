"""Executors by name, each in a file of its own; imported when it is asked for."""

from importlib import import_module
from importlib.util import find_spec
from threading import Event

from ups_server.errors import UserError
from ups_server.jobs.executors.base import Executor
from ups_server.settings import Settings

EXECUTORS = {
    "local": "ups_server.jobs.executors.local:LocalExecutor",
    "torchrun": "ups_server.jobs.executors.torchrun:TorchrunExecutor",
    "ray": "ups_server.jobs.executors.ray:RayExecutor",
    "slurm": "ups_server.jobs.executors.slurm:SlurmExecutor",
}
NEEDED = {"ray": "ray", "slurm": "submitit"}
"""Packages that an executor needs, which the extra of its name brings."""


def check_executor(name: str) -> None:
    """Raises UserError ``unknown_executor``, ``extra_missing``."""
    if name not in EXECUTORS:
        raise UserError("unknown_executor", "there is no such executor", got=name, expected=sorted(EXECUTORS))
    package = NEEDED.get(name)
    if package is not None and find_spec(package) is None:
        raise UserError(
            "extra_missing",
            f"the executor {name} needs the package {package}",
            got=f"no {package}",
            hint=f"pip install 'ups-server[{name}]'",
        )


def executor_of(settings: Settings, stopping: Event) -> Executor:
    """The executor of the settings, not yet opened. Raises UserError as `check_executor`."""
    check_executor(settings.executor)
    module, kind = EXECUTORS[settings.executor].split(":")
    made: Executor = getattr(import_module(module), kind)(settings, stopping)
    return made
