"""A training run from start to finish: data, stage 1, stage 2, the model folder; resumable at any moment."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ups_server.align import ALIGNMENTS, check_options
from ups_server.align.text import reference_text
from ups_server.errors import UserError
from ups_server.model.body import body_folder, check_language_model_folder
from ups_server.model.checkpoint import TrainedModel, create, from_pretrained, save_pretrained
from ups_server.model.config import PRESETS, UPSConfig
from ups_server.model.deltas import deltas_between
from ups_server.model.operator import Operator, randomise_body
from ups_server.model.superspace import check_card
from ups_server.model.ups import UPS
from ups_server.train.config import TrainConfig
from ups_server.train.dataset import prepare
from ups_server.train.loop import STATE_FILE, Position, StageTrainer, StepReport, load_state, read_position, save_state
from ups_server.train.parallel import ALONE, Processes, joined
from ups_server.train.validation import Score, total, validate

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


RUNS = Path("runs")
"""Training state lives here, one folder a run; git ignores it."""
LOG_EVERY = 20
LIFT = "embedder.lift.weight"
STAGES = 2


class Listener(Protocol):
    """Who follows a run: the terminal, TensorBoard, a job's events."""

    def data(self, family: str, done: int, count: int) -> None: ...
    def step(self, stage: int, step: int, steps: int, report: StepReport) -> None: ...
    def validation(self, stage: int, step: int, scores: dict[str, Score], best: bool) -> None: ...


class NoListener:
    """Of the processes beside the first one."""

    def data(self, family: str, done: int, count: int) -> None: ...
    def step(self, stage: int, step: int, steps: int, report: StepReport) -> None: ...
    def validation(self, stage: int, step: int, scores: dict[str, Score], best: bool) -> None: ...


class TrainingRun:
    """One run in its folder: ``state.safetensors``, the model that is kept in ``best/``.

    Args:
        stores: where the data are, shared by all runs that want the same; default ``data/`` in the run's folder.
        processes: that train together and see the same folders; the first one validates and writes. A run may be
            gone on with by another number of them.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        listener: Listener,
        device: str | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        workers: int = 1,
        stores: Path | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.folder, self.listener, self.cancelled = config, folder, listener, cancelled
        self.processes = processes
        self.shape = check_config(config)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        folder.mkdir(parents=True, exist_ok=True)
        if processes.first:
            self._pin_config()
        processes.wait()
        parent = UPSConfig.load(config.init) if config.init else UPSConfig()
        known = parent.families
        if config.deltas and described_by(parent, self.shape) != self.shape.model_copy(update={"families": known}):
            raise UserError("shape_mismatch", f"{parent.name} is of another architecture", got=config.name)
        data, n = stores or folder / "data", self.shape.resolution
        self.families = prepare(config, data, n, known, listener.data, workers)
        self.shape = self.shape.model_copy(update={"families": {entry.id: entry.card for entry in self.families}})
        for card in self.shape.families.values():
            check_card(self.shape, card)

    def _pin_config(self) -> None:
        """A run folder belongs to one configuration."""
        pinned, text = self.folder / "train.json", self.config.model_dump_json(indent=2)
        if pinned.exists() and TrainConfig.model_validate_json(pinned.read_text()) != self.config:
            raise UserError(
                "run_exists",
                f"{self.folder} holds a run of another configuration",
                hint="give the run another name, or start it afresh with --fresh",
            )
        pinned.write_text(text)

    def train(self) -> bool:
        """Trains to the end or until cancelled; True where the run is complete. The kept model is in ``best/``."""
        model = self._initial_model().to(self.device)
        progress = read_position(self.folder) or Position()
        trainer = self._trainer(model, progress.stage)
        if (self.folder / STATE_FILE).exists():
            load_state(self.folder, trainer)
        while self._run_stage(trainer, progress):
            if progress.stage + 1 == STAGES:
                return True
            # The next stage starts from the averaged weights.
            trainer.swap_average()
            progress.stage += 1
            trainer = self._trainer(model, progress.stage)
            self._save(trainer, progress)
        return False

    def _initial_model(self) -> Operator:
        torch.manual_seed(self.config.seed)
        model = create(self.shape, language_model=self.config.language_model)
        if self.config.init is not None:
            warm_start(model, self.config.init, next(iter(self.shape.families)) if self.config.deltas else None)
            if self.config.stage1.steps and not self.config.stage1.body and isinstance(model, UPS):
                model.ignore_body()
        if self.config.random_body:
            randomise_body(model, self.config.seed)
        return model

    def _trainer(self, model: Operator, stage: int) -> StageTrainer:
        own = (self.config.stage1, self.config.stage2)[stage]
        alignment = ALIGNMENTS[own.alignment](**own.alignment_options)
        return StageTrainer(model, self.families, self.config, stage, alignment, processes=self.processes)

    def _save(self, trainer: StageTrainer, progress: Position) -> None:
        if self.processes.first:
            save_state(self.folder, trainer, progress)

    def _run_stage(self, trainer: StageTrainer, progress: Position) -> bool:
        saved = time.monotonic()
        while trainer.done < 1:
            if self.processes.any(self.cancelled(), trainer.device):
                self._save(trainer, progress)
                return False
            before = trainer.seconds
            report = trainer.run_step()
            progress.seconds += trainer.seconds - before
            if trainer.step % LOG_EVERY == 0:
                self.listener.step(trainer.index, trainer.step, trainer.expected_steps, report)
            due = trainer.done == 1
            if self.processes.first and (due or trainer.step % self.config.validate_every == 0):
                self._validate(trainer, progress)
            if due or time.monotonic() - saved > 60 * self.config.save_minutes:
                self._save(trainer, progress)
                saved = time.monotonic()
        return True

    def _validate(self, trainer: StageTrainer, progress: Position) -> None:
        trainer.swap_average()
        scores = validate(trainer.model, self.families)
        value = total(scores)
        best = value < progress.best or self.config.keep == "last"
        if best:
            progress.best, progress.best_at = value, f"stage {trainer.index + 1}, step {trainer.step}"
            found = TrainedModel(trainer.model)
            if self.config.deltas and self.config.init is not None:
                found = with_deltas_of(from_pretrained(self.config.init, self.device), trainer.model)
            publish(found, self.folder / "best")
        trainer.swap_average()
        self.listener.validation(trainer.index, trainer.step, scores, best)


def check_config(config: TrainConfig) -> UPSConfig:
    """The architecture of a run, checked before any data is made.

    Raises:
        UserError: ``invalid_config``, ``unknown_alignment``, ``no_language_model``, and those of `reference_text`,
            `body_folder` and `check_language_model_folder`.
    """
    if config.preset not in PRESETS:
        raise UserError("invalid_config", "no such preset", got=config.preset, expected=sorted(PRESETS))
    try:
        shape = PRESETS[config.preset].with_settings({"name": config.name, **config.model})
    except ValidationError as error:
        raise UserError("invalid_config", f"the model of {config.name} cannot be built: {error}") from error
    stages = (config.stage1, config.stage2)
    for stage in stages:
        if stage.alignment not in ALIGNMENTS:
            raise UserError("unknown_alignment", "no such alignment", got=stage.alignment, expected=sorted(ALIGNMENTS))
        check_options(stage.alignment, stage.alignment_options)
    if not shape.has_language_model and (config.random_body or any(stage.alignment != "none" for stage in stages)):
        raise UserError("no_language_model", f"{shape.operator} has no language model to align with or to randomise")
    reference_text(config.reference_text)
    if shape.has_language_model and config.language_model is not None:
        check_language_model_folder(body_folder(config.language_model))
    return shape


@torch.no_grad()
def warm_start(model: Operator, folder: Path, family: str | None = None) -> None:
    """Takes the weights of a model folder, which may lack what this model has more: parts, and inputs of the lifting.

    What it lacks stays as it was initialised; new inputs start at zero. With a `family`, its deltas are added.

    Raises:
        UserError: ``not_a_model``, ``shape_mismatch``.
    """
    found = from_pretrained(folder)
    old = (found if family is None else found.of_family(family)).operator.state_dict()
    new = model.state_dict()
    for name, value in old.items():
        if name == LIFT and name in new and new[name].shape[1] > value.shape[1]:
            value = F.pad(value, (0, new[name].shape[1] - value.shape[1]))
        if name not in new or new[name].shape != value.shape:
            raise UserError("shape_mismatch", f"the weights of {folder.name} do not fit", got=name)
        new[name].copy_(value)


def with_deltas_of(checkpoint: TrainedModel, trained: Operator) -> TrainedModel:
    """The checkpoint with what was trained of one family, from its weights, as the deltas of that family."""
    (family,) = trained.config.families
    checkpoint.deltas[family] = deltas_between(checkpoint.operator, trained)
    checkpoint.config = described_by(checkpoint.config, trained.config)
    return checkpoint


def described_by(config: UPSConfig, trained: UPSConfig) -> UPSConfig:
    """A config with name, version and families of the training that goes on from it."""
    families = config.families | trained.families
    return config.model_copy(update={"name": trained.name, "version": trained.version, "families": families})


def publish(checkpoint: TrainedModel, folder: Path) -> None:
    """Replaces a model folder as a whole: readers see the old or the new one."""
    replaced(folder, lambda part: save_pretrained(checkpoint, part))


def replaced(folder: Path, write: Callable[[Path], None]) -> None:
    """Replaces a folder as a whole by what `write` makes."""
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    for stale in (part, old):
        shutil.rmtree(stale, ignore_errors=True)
    write(part)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def publish_best(best: Path, out: Path) -> Path:
    """Copies the files of the best model into `out`, beside what else is there (card, recipe)."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(best, out, dirs_exist_ok=True)
    return out


def train_recipe(recipe: Path, *, fresh: bool = False, device: str | None = None, workers: int = 1) -> Path:
    """Trains what the file `recipe` describes, from where its run stands, and returns the finished model folder.

    Ctrl-C saves the state; the same command goes on from there.

    Raises:
        UserError: ``invalid_config``, ``run_exists``, ``training_interrupted``.
    """
    return train_config(TrainConfig.load(recipe), fresh=fresh, device=device, workers=workers)


def replay(recipes: Path, *, device: str | None = None, workers: int = 1) -> Path:
    """Trains the recipes of a folder one after another, by the number that begins their names; the last model folder.

    Each goes on from where its run stands, and is over at once where that is complete.

    Raises:
        UserError: ``invalid_config`` where there is none, and those of `train_recipe`.
    """
    found = numbered(recipes)
    if not found:
        raise UserError(
            "invalid_config", "no recipes in this folder", got=str(recipes), expected="files such as 01_burgers.yaml"
        )
    return [train_recipe(recipe, device=device, workers=workers) for recipe in found][-1]


def numbered(recipes: Path) -> list[Path]:
    """The recipes of a folder in order: ``01_burgers.yaml`` before ``02_advection.yaml``."""
    found = [file for file in recipes.glob("*.yaml") if file.name.partition("_")[0].isdecimal()]
    return sorted(found, key=lambda file: (int(file.name.partition("_")[0]), file.name))


def train_config(config: TrainConfig, *, fresh: bool = False, device: str | None = None, workers: int = 1) -> Path:
    """Trains what `config` describes (see `train_recipe`). Data are kept in ``runs/data``, for all runs that want
    the same.
    """
    folder = RUNS / config.name
    with joined(device) as (processes, own), stop_on_signal() as stop, ExitStack() as opened:
        if fresh and processes.first:
            shutil.rmtree(folder, ignore_errors=True)
        processes.wait()
        folder.mkdir(parents=True, exist_ok=True)
        listener = opened.enter_context(TerminalListener(folder)) if processes.first else NoListener()
        training = TrainingRun(config, folder, listener, own, stop.is_set, workers, RUNS / "data", processes)
        if not training.train():
            raise UserError(
                "training_interrupted",
                "the run was interrupted and its state saved",
                hint="the same command resumes it",
            )
        if processes.first:
            publish_best(folder / "best", config.out)
    return config.out


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
