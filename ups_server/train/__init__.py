"""Training: configuration, data, the two stages, checkpoints."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ups_server.errors import UserError

if TYPE_CHECKING:
    from ups_server.train.config import TrainConfig

RUNS = Path("runs")
"""Training state lives here, one folder a run; git ignores it."""


def run(config: Path, *, fresh: bool = False, device: str | None = None, workers: int = 1) -> Path:
    """Trains what the file `config` describes, from where its run stands, and returns the finished model folder.

    Ctrl-C saves the state; the same command goes on from there.

    Raises:
        UserError: ``invalid_config``, ``run_exists``, ``training_interrupted``.
    """
    from ups_server.train.config import TrainConfig

    return run_config(TrainConfig.load(config), fresh=fresh, device=device, workers=workers)


def run_baseline(
    name: str,
    recipe: Path,
    *,
    minutes: float | None = None,
    families: Sequence[str] = (),
    changes: Sequence[str] = (),
    fresh: bool = False,
    device: str | None = None,
    workers: int = 1,
) -> Path:
    """Trains a baseline or control (`train.baseline`) on the data of `recipe`, and returns its model folder.

    Args:
        minutes: wall-clock budget; default as long as the recipe.
        families: only these of the recipe's.
        changes: further changes, such as ``model.n_modes=24``.

    Raises:
        UserError: what `run` and `baseline_config` raise.
    """
    from ups_server.train.baseline import baseline_config
    from ups_server.train.config import TrainConfig
    from ups_server.train.overrides import overridden, parse_changes

    settings = baseline_config(TrainConfig.load(recipe), name, minutes, families)
    settings = overridden(settings, parse_changes(changes))
    return run_config(settings, fresh=fresh, device=device, workers=workers)


def run_config(settings: "TrainConfig", *, fresh: bool, device: str | None, workers: int) -> Path:
    """Trains what `settings` describe (see `run`). Data are kept in ``runs/data``, for all runs that want the same."""
    import shutil

    from ups_server.train.progress import TerminalListener
    from ups_server.train.run import TrainingRun, publish_best

    folder = RUNS / settings.name
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with stop_on_signal() as stop, TerminalListener(folder) as listener:
        training = TrainingRun(settings, folder, listener, device, stop.is_set, workers, RUNS / "data")
        complete = training.train()
    if not complete:
        raise UserError(
            "training_interrupted", "the run was interrupted and its state saved", hint="the same command resumes it"
        )
    return publish_best(folder / "best", settings.out)


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that a run can save its state and end."""
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
