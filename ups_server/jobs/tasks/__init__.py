"""What each kind of job runs. A task is imported when its first job comes: only tasks may import torch."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ups_server.errors import UserError

if TYPE_CHECKING:
    from ups_server.jobs.context import JobContext

MODULES = {
    "evaluation": "ups_server.jobs.tasks.evaluation",
    "fine_tuning": "ups_server.jobs.tasks.fine_tuning",
}
"""Kind -> module with a function `run(context) -> result`."""


def task(kind: str) -> "Callable[[JobContext], dict[str, Any]]":
    """Raises UserError ``unknown_kind``, as for a job that a later version queued."""
    if kind not in MODULES:
        raise UserError("unknown_kind", "this version runs no such job", got=kind, expected=sorted(MODULES))
    run: Callable[[JobContext], dict[str, Any]] = import_module(MODULES[kind]).run
    return run
