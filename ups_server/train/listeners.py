"""Following a training run: a terminal display and TensorBoard logs."""

import json
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ups_server.train.loop import StepReport
from ups_server.train.validation import Score

STAGE_NAMES = ("stage 1: alignment", "stage 2: multi-task")


class TerminalListener:
    """Progress bars on a terminal, a line per validation everywhere, scalars for TensorBoard and ``log.jsonl``."""

    def __init__(self, folder: Path, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._log = folder / "log.jsonl"
        self._started = time.monotonic()
        self._writer = tensorboard_writer(folder / "tensorboard")

    def __enter__(self) -> "TerminalListener":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._writer is not None:
            self._writer.close()

    def data(self, family: str, done: int, count: int) -> None:
        self._bar(f"data: {family}", done, count, "")

    def step(self, stage: int, step: int, steps: int, report: StepReport) -> None:
        note = " ".join(f"{name} {loss:.4f}" for name, loss in report.losses.items())
        self._bar(STAGE_NAMES[stage], step, steps, f"{note} mmd {report.alignment:.3f}")
        self._scalars(stage, step, {f"loss/{name}": loss for name, loss in report.losses.items()})
        self._scalars(stage, step, {"alignment": report.alignment, "gradient": report.gradient})

    def validation(self, stage: int, step: int, scores: dict[str, Score], best: bool) -> None:
        text = ", ".join(f"{name} {score.one_step:.5f} / {score.rollout:.4f}" for name, score in scores.items())
        self._console.print(f"stage {stage + 1}, step {step}: one-step / rollout {text}{' *' if best else ''}")
        for name, score in scores.items():
            self._scalars(stage, step, {f"one_step/{name}": score.one_step, f"rollout/{name}": score.rollout})
        record = {
            "stage": stage + 1,
            "step": step,
            "seconds": round(time.monotonic() - self._started, 1),
            "best": best,
            "scores": {name: vars(score) for name, score in scores.items()},
        }
        with self._log.open("a") as handle:
            handle.write(json.dumps(record) + "\n")

    def _bar(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        self._progress.update(self._tasks[name], completed=done, total=total, note=note)

    def _scalars(self, stage: int, step: int, values: dict[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"stage{stage + 1}/{name}", value, step)


def tensorboard_writer(folder: Path):  # type: ignore[no-untyped-def]
    """A TensorBoard writer, None where the `train` extra is not installed."""
    import importlib.util

    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)
