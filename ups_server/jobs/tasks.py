"""What a task is given, and what each kind of job runs.

Torch is imported when a task begins, so that a worker without one is small.
"""

import logging
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from ups_server.catalog import EQUATION_FILE, Catalog
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.files.equations import check_one_equation, declare_stored
from ups_server.jobs.leases import Lease, LeaseLost, Leases
from ups_server.jobs.spec import AnySpec, EvaluationSpec, FineTuningSpec, Job, spec_of, tuned_model_id
from ups_server.objects import SharedFolders
from ups_server.processes import keep_freed_memory
from ups_server.settings import Settings

if TYPE_CHECKING:
    from ups_server.train.adapt import AdaptationRun, Place
    from ups_server.train.few_shot import AdaptationSettings
    from ups_server.train.loop import StepReport
    from ups_server.train.parallel import Processes
    from ups_server.train.validation import Score

logger = logging.getLogger("ups_server.worker")


class TaskStopped(Exception):
    """A task ends before its end. `cancelled`: the job was cancelled; else its worker stops and the job waits."""

    def __init__(self, cancelled: bool) -> None:
        super().__init__("cancelled" if cancelled else "released")
        self.cancelled = cancelled


class AttemptLost(Exception):
    """The attempt cannot go on and the job can: nothing is written of it, and whoever finds the lease free takes it."""


@dataclass(frozen=True)
class JobContext:
    """One attempt at a job.

    Attributes:
        folder: of this job alone; kept between attempts.
        stopping: set when the worker is to end.
        processes: that may share the work; the task runs in the first of them.
        shared: where other machines find what it makes.
    """

    settings: Settings
    leases: Leases
    lease: Lease
    folder: Path
    stopping: threading.Event = field(default_factory=threading.Event)
    processes: "Processes | None" = None
    shared: SharedFolders | None = None

    @property
    def job_id(self) -> str:
        return self.lease.job.id

    @property
    def spec(self) -> AnySpec:
        return spec_of(self.lease.job)

    def running(self) -> None:
        """Validation is over."""
        self.leases.running(self.lease)

    def event(self, type: str, data: dict[str, Any], key: str | None = None) -> None:
        """Appends an event; `key` where an attempt after a crash would say the same again."""
        self.leases.event(self.lease, type, data, key)

    def checkpoint(self, data: dict[str, Any], key: str) -> None:
        """The state on disk is complete: the next attempt goes on from here, wherever it is."""
        if self.shared is not None:
            self.shared.push(f"jobs/{self.job_id}")
        self.leases.checkpoint(self.lease, data, key)

    def should_stop(self) -> bool:
        """Asked between any two steps. Raises `LeaseLost` where the job is in other hands."""
        return self.leases.cancelled(self.lease) or self.stopping.is_set()

    def raise_if_stopped(self) -> None:
        """Raises `TaskStopped`; to be called where the state is saved, or there is none."""
        if self.leases.cancelled(self.lease):
            raise TaskStopped(cancelled=True)
        if self.stopping.is_set():
            raise TaskStopped(cancelled=False)


@contextmanager
def heartbeats(leases: Leases, lease: Lease) -> Iterator[None]:
    """Extends a lease from a thread of its own until the block ends, or the lease is lost."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(leases.seconds / 3):
            try:
                leases.heartbeat(lease)
            except LeaseLost:
                return  # the task learns it at its next word
            except SQLAlchemyError:
                logger.exception("%s: no heartbeat, the database does not answer", lease.job.id)

    thread = threading.Thread(target=beat, name="heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def fetch(settings: Settings, job: Job, shared: SharedFolders) -> None:
    """Has what a job needs in the data folder: what attempts before have saved, its files, its model."""
    shared.pull(f"jobs/{job.id}")
    spec = spec_of(job)
    files = (spec.training_file, spec.validation_file) if isinstance(spec, FineTuningSpec) else (spec.file,)
    for file_id in filter(None, files):
        shared.pull(f"files/{file_id}")
    with suppress(UserError):  # the task says so
        Catalog(settings.data_dir, shared=shared).model(spec.model or settings.default_model)


def stored_file(data_dir: Path, file_id: str) -> Path:
    """The folder of the transcoded store of an uploaded file that is ready: an id, never a user's path.

    Raises:
        UserError: ``unknown_file``.
    """
    store = data_dir / "files" / file_id / "store"
    if not ID.fullmatch(file_id) or not (store / "manifest.json").is_file():
        raise UserError("unknown_file", f"there is no file {file_id!r} that is ready", got=file_id)
    return store


Task = Callable[[JobContext], dict[str, Any]]
"""Runs one kind of job to its result."""


def evaluate(context: JobContext) -> dict[str, Any]:
    """What `ups evaluate` does, on a stored file: the scores of a model, as `FileScores`."""
    spec = context.spec
    if not isinstance(spec, EvaluationSpec):
        raise TypeError(f"not an evaluation: {spec.kind}")
    card = Catalog(context.settings.data_dir).model(spec.model or context.settings.default_model)
    store = stored_file(context.settings.data_dir, spec.file)
    declare_stored(context.settings.data_dir, spec.file)
    import torch

    from ups_server.evaluation.evaluate import evaluate_source
    from ups_server.solvers.registry import load

    keep_freed_memory()
    torch.set_num_threads(context.settings.worker_threads)
    solver = load(card.source, context.settings.device)
    context.running()

    def progress(file: str, done: int, total: int) -> None:
        context.event("progress", {"done": done, "total": total}, f"progress:{done}")
        context.raise_if_stopped()

    with closing(Store.open(store)) as source:
        scores = evaluate_source(
            solver, source, spec.file, spec.dt, spec.resolution, spec.trajectories, progress, spec.horizon.value
        )
    return scores.model_copy(update={"model": card.id}).as_dict()


def adaptation_settings(spec: FineTuningSpec) -> "AdaptationSettings":
    """What an adaptation is asked for by a job."""
    from ups_server.train.few_shot import AdaptationSettings

    return AdaptationSettings.asked(
        n_trajectories=spec.n_trajectories,
        start=spec.start.value,
        embedder=None if spec.embedder is None else spec.embedder.value,
        body_layers=spec.body_layers,
        alignment=spec.alignment.value,
        alignment_options=spec.alignment_options,
        tuning=spec.tuning.value,
        horizon=spec.horizon.value,
        max_steps=spec.max_steps,
        max_seconds=spec.max_seconds,
        learning_rate=spec.learning_rate,
        seed=spec.seed,
    )


def fine_tune(context: JobContext) -> dict[str, Any]:
    """What `ups adapt` does, on a stored file; the tuned model joins the catalog.

    Returns:
        The report, with the id of the new model as `model`.
    """
    settings, job = context.settings, context.lease.job
    spec = _fine_tuning(job)
    equation = declare_stored(settings.data_dir, spec.training_file)
    from ups_server.solvers.registry import choose_device
    from ups_server.train.adapt import Interrupted, Place, deliver
    from ups_server.train.loop import Diverged
    from ups_server.train.parallel import ALONE, ProcessLost

    device, processes = choose_device(settings.device), context.processes or ALONE
    place = Place(context.folder, JobListener(context), context.should_stop, device, settings.checkpoint_s, processes)
    with prepared(settings, job, place) as (parent, adaptation):
        context.running()
        try:
            report = adaptation.run()
        except Interrupted:
            context.raise_if_stopped()
            raise TaskStopped(cancelled=False) from None
        except ProcessLost as error:
            raise AttemptLost(str(error)) from error
        except Diverged as error:
            raise UserError("diverged", str(error), hint="a smaller learning rate may help") from error
    context.raise_if_stopped()
    about = adaptation.about(parent, job=job.id, file=spec.training_file, validation_file=spec.validation_file)
    models, model_id = settings.data_dir / "models", tuned_model_id(parent, spec.suffix, job.id)
    models.mkdir(exist_ok=True)
    extra = {} if equation is None else {EQUATION_FILE: equation.model_dump_json(indent=1) + "\n"}
    deliver(report, adaptation.chosen(report), models / model_id, about, extra)
    if context.shared is not None:
        context.shared.push(f"models/{model_id}")
    context.event("model", {"model": model_id, "helped": report["helped"], "kept": report["kept"]}, "model")
    return {"model": model_id, **report}


def assist(settings: Settings, job: Job, folder: Path, stopping: threading.Event, processes: "Processes") -> None:
    """What the processes beside the first one do for a job: their shares of the batches of a fine-tuning."""
    if job.kind != "fine_tuning":
        return
    declare_stored(settings.data_dir, _fine_tuning(job).training_file)
    from ups_server.solvers.registry import choose_device
    from ups_server.train.adapt import Interrupted, NotFollowed, Place
    from ups_server.train.loop import Diverged

    place = Place(folder, NotFollowed(), stopping.is_set, choose_device(settings.device), processes=processes)
    with prepared(settings, job, place) as (_, adaptation), suppress(Interrupted, Diverged):
        adaptation.assist()


def _fine_tuning(job: Job) -> FineTuningSpec:
    spec = spec_of(job)
    if not isinstance(spec, FineTuningSpec):
        raise TypeError(f"not a fine-tuning: {spec.kind}")
    return spec


@contextmanager
def prepared(settings: Settings, job: Job, place: "Place") -> Iterator[tuple[str, "AdaptationRun"]]:
    """What a fine-tuning starts from, and the adaptation, whose files are open while the block lasts.

    Raises:
        UserError: ``unknown_model``, ``not_tunable``, ``unknown_file``, and those of `adaptation_of`.
    """
    spec = _fine_tuning(job)
    card = None if spec.fresh else Catalog(settings.data_dir).model(spec.model or settings.default_model)
    if card is not None and card.kind == "builtin":
        raise UserError("not_tunable", f"{card.id} has no weights to tune", got=card.id, expected="a trained model")
    store = stored_file(settings.data_dir, spec.training_file)
    held_out = None
    if spec.validation_file is not None:
        held_out = stored_file(settings.data_dir, spec.validation_file)
        check_one_equation(settings.data_dir, spec.training_file, spec.validation_file)
    import torch

    from ups_server.train.adapt_lead import adaptation_of
    from ups_server.train.few_shot import FewShotData
    from ups_server.train.start import unused_model

    keep_freed_memory()
    torch.set_num_threads(settings.worker_threads)
    parent = spec.start.value if card is None else card.id
    with ExitStack() as opened:
        training = opened.enter_context(Store.open(store))
        validation = None if held_out is None else opened.enter_context(Store.open(held_out))
        data = FewShotData(training, spec.training_file, validation, spec.validation_file)
        name, source = tuned_model_id(parent, spec.suffix, job.id), None if card is None else Path(card.source)
        adaptation = adaptation_of(source, data, adaptation_settings(spec), name, place)
        if card is None and spec.model is not None:
            adaptation.warnings.append(unused_model(spec.model))
        yield parent, adaptation


class JobListener:
    """An adaptation as events of its job."""

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def phase(self, name: str, facts: dict[str, Any]) -> None:
        self._context.event("phase", {"phase": name, **facts}, f"phase:{name}")

    def scoring(self, what: str, done: int, total: int) -> None:
        self._context.event("progress", {"what": what, "done": done, "total": total}, f"scoring:{what}:{done}")

    def step(self, step: int, steps: int, report: "StepReport") -> None:
        figures = {"loss": report.loss, "alignment": report.alignment, "gradient": report.gradient}
        self._context.event(
            "step",
            {"step": step, "steps": steps, **{name: None if v is None else _figure(v) for name, v in figures.items()}},
            f"step:{step}",
        )

    def validation(self, step: int, score: "Score", best: bool) -> None:
        errors = {"one_step": score.one_step, "rollout": score.rollout, "persistence": score.persistence}
        figures = {name: _figure(value) for name, value in errors.items()}
        self._context.event("validation", {"step": step, **figures, "best": best}, f"validation:{step}")

    def saved(self, step: int) -> None:
        self._context.checkpoint({"step": step}, f"checkpoint:{step}")


def _figure(value: float) -> float | None:
    """Null stands for a value that is not finite."""
    return value if math.isfinite(value) else None


TASKS: dict[str, Task] = {"evaluation": evaluate, "fine_tuning": fine_tune}
"""By the kind of job."""


def task(kind: str) -> Task:
    """Raises UserError ``unknown_kind``, as for a job that a later version queued."""
    if kind not in TASKS:
        raise UserError("unknown_kind", "this version runs no such job", got=kind, expected=sorted(TASKS))
    return TASKS[kind]
