"""Training: configuration, data, the two stages, checkpoints."""

from pathlib import Path

from ups_server.errors import UserError

RUNS = Path("runs")
"""Training state lives here, one folder a run; git ignores it."""


def run(config: Path, *, fresh: bool = False, device: str | None = None, workers: int = 1) -> Path:
    """Trains what `config` describes, from where its run stands, and returns the finished model folder.

    Ctrl-C saves the state; the same command goes on from there.

    Raises:
        UserError: ``invalid_config``, ``run_exists``, ``training_interrupted``.
    """
    import shutil
    import signal
    import threading

    from ups_server.train.config import TrainConfig
    from ups_server.train.progress import TerminalListener
    from ups_server.train.run import TrainingRun, publish_best

    settings = TrainConfig.load(config)
    folder = RUNS / settings.name
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with TerminalListener(folder) as listener:
            training = TrainingRun(settings, folder, listener, device, stop.is_set, workers)
            complete = training.train()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if not complete:
        raise UserError(
            "training_interrupted", "the run was interrupted and its state saved", hint="the same command resumes it"
        )
    return publish_best(folder / "best", settings.out)
