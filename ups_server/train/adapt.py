"""Adapting a model, or a language model, to a few trajectories of a user's equation; resumable at any moment,
exactly."""

import json
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from ups_server.align import ALIGNMENTS, alone, mixes, reads_twice
from ups_server.data.atomic import replacing
from ups_server.data.composed import Subset
from ups_server.data.splits import FewShotSplit
from ups_server.data.store import Store
from ups_server.errors import UserError
from ups_server.evaluation.evaluate import evaluate_source
from ups_server.evaluation.scores import FileScores
from ups_server.model.checkpoint import TrainedModel, create, from_pretrained, place_adapters
from ups_server.model.config import UPSConfig
from ups_server.model.operator import Operator
from ups_server.model.prefix import without_prefix
from ups_server.model.superspace import check_card
from ups_server.model.ups import UPS
from ups_server.pde import family
from ups_server.solvers.neural import UPSSolver, ZeroShotSolver
from ups_server.solvers.solver import Solver
from ups_server.train.config import FamilyData, Stage
from ups_server.train.dataset import FamilyWindows
from ups_server.train.few_shot import (
    PATIENCE,
    AdaptationSettings,
    FewShotData,
    check_language_model,
    check_points,
    recipe,
)
from ups_server.train.loop import (
    STATE_FILE,
    Position,
    Select,
    StageTrainer,
    StepReport,
    load_state,
    read_position,
    save_state,
)
from ups_server.train.memory import available_bytes, check_memory, training_bytes
from ups_server.train.parallel import ALONE, Processes
from ups_server.train.run import publish
from ups_server.train.tuning import TUNINGS, embedder
from ups_server.train.validation import Score, criterion, fresh_outcome, outcome, validate

STEP_EVENTS = 100
"""Reports of single steps in a training of full length."""
RUINED, RUINED_TIMES = 10.0, 2
"""Training ends where validations in succession, so many, have so many times the best one-step error."""
BASE, BEST = "base", "best"
"""Of an adaptation's folder: the weights before the first step, and the best ones by validation."""


class Interrupted(Exception):
    """Cancelled; what was reached is on disk."""


class AdaptationListener(Protocol):
    """Who follows an adaptation. What came after the last save is said again, in the same words, after a crash."""

    def phase(self, name: str, facts: dict[str, Any]) -> None: ...
    def scoring(self, what: str, done: int, total: int) -> None: ...
    def step(self, step: int, steps: int, report: StepReport) -> None: ...
    def validation(self, step: int, score: Score, best: bool) -> None: ...
    def saved(self, step: int) -> None: ...


class NotFollowed:
    """The listener of the processes beside the first one."""

    def phase(self, name: str, facts: dict[str, Any]) -> None: ...
    def scoring(self, what: str, done: int, total: int) -> None: ...
    def step(self, step: int, steps: int, report: StepReport) -> None: ...
    def validation(self, step: int, score: Score, best: bool) -> None: ...
    def saved(self, step: int) -> None: ...


@dataclass(frozen=True)
class Place:
    """Where an adaptation works and how it may be disturbed.

    Attributes:
        folder: of this adaptation alone; kept between attempts.
        cancelled: asked between any two steps.
        save_seconds: between two saves, besides those at every validation.
        processes: that may share the training and see the same folder. The first one does all the rest, by `run`, the
            others `assist`.
    """

    folder: Path
    listener: AdaptationListener
    cancelled: Callable[[], bool] = lambda: False
    device: str = "cpu"
    save_seconds: float = 60.0
    processes: Processes = ALONE


class AdaptationRun(ABC):
    """A model and trajectories, checked and ready to run: what all kinds of models share.

    Attributes:
        parent_version: of the model before.
        n, dt: points along the first axis and step of what is learned and scored.
        warnings: what was asked for and has no effect, or another than its paper says.
        bytes: of memory that the training takes.
        processes: those of the place that share the training.
    """

    settings: AdaptationSettings
    trajectories: FewShotData
    place: Place
    family: str
    split: FewShotSplit
    parent_version: int
    n: int
    dt: float
    warnings: list[str]
    bytes: int
    processes: Processes

    def run(self) -> dict[str, Any]:
        """Scores the model as it is, tunes it, scores the best by validation; the report. `chosen` has the model.

        Weights that are worse on the test than those before are turned down, whatever validation said: a file of few
        trajectories leaves a single one to choose by.

        Raises:
            Interrupted: cancelled.
            UserError: ``not_finite`` where weights or scores are not; Diverged as `StageTrainer.run_step`.
        """
        facts = {
            "family": self.family,
            "training": len(self.split.training),
            "validation": len(self.split.validation),
            "test": len(self.split.test),
            "memory_bytes": self.bytes,
            "warnings": self.warnings,
        }
        together = {"processes": self.processes.count} if self.place.processes.count > 1 else {}
        steps = {"steps": self.settings.steps, **together}
        if self.settings.fresh:
            self.place.listener.phase("training", facts | steps)
            progress = self._train()
            self.place.listener.phase("scores", {})
            judged = fresh_outcome(self._score_best(), list(self._curve().values()))
        else:
            self.place.listener.phase("zero_shot", facts)
            zero_shot = self._zero_shot()
            self.place.listener.phase("training", steps)
            progress = self._train()
            self.place.listener.phase("scores", {})
            before = self._before(zero_shot)
            tuned = self._score_best() if int(progress.best_at or 0) else before
            judged = outcome(zero_shot, before, tuned, list(self._curve().values()), moved=tuned is not before)
        curve = self._curve()
        return {
            **judged,
            "from": self.settings.start,
            "horizon": self.settings.horizon,
            "dt": self.dt,
            "warnings": self.warnings,
            "alignment_terms": self._terms(),
            "split": {part: facts[part] for part in ("training", "validation", "test")},
            **self.trajectories.report(self.split),
            "steps": max(map(int, curve)),
            "best_step": int(progress.best_at or 0),
            "curve": list(curve.values()),
            "seconds": round(progress.seconds, 1),
            "memory_bytes": self.bytes,
        }

    def assist(self) -> None:  # noqa: B027
        """What the processes beside the first one do: nothing, where one alone trains.

        Raises:
            Interrupted, Diverged: as `run`.
        """

    @abstractmethod
    def _zero_shot(self) -> dict[str, Any]:
        """Scores of the model as it is."""

    @abstractmethod
    def _before(self, zero_shot: dict[str, Any]) -> dict[str, Any]:
        """Of the weights before tuning, with the statistics that the tuned ones have: those of a known family stay."""

    @abstractmethod
    def _train(self) -> Position:
        """Trains, from where it stands."""

    @abstractmethod
    def _score_best(self) -> dict[str, Any]:
        """Scores of the best weights by validation."""

    def chosen(self, report: Mapping[str, Any]) -> Path:
        """The folder of the model that a report is of."""
        return self.place.folder / (BEST if report["kept"] == "tuned" else BASE)

    def about(self, parent: str, **more: Any) -> dict[str, Any]:
        """Where the tuned model comes from, as its folder will say (`catalog.Adaptation`)."""
        return {
            "parent": parent,
            "parent_version": str(self.parent_version),
            "family": self.family,
            **self.trajectories.fingerprints(),
            **{
                name: value
                for name, value in self.settings.document().items()
                if name not in ("max_steps", "max_seconds", "learning_rate")
            },
            "steps": self.settings.steps,
            **more,
        }

    def _pin(self, model: Path | None) -> None:
        """A folder belongs to one adaptation."""
        wanted = {
            "settings": self.settings.document(),
            "model": self.settings.start if model is None else model.name,
            **self.trajectories.fingerprints(),
        }
        file = self.place.folder / "adaptation.json"
        if file.exists() and json.loads(file.read_text()) != wanted:
            raise UserError(
                "run_exists",
                f"{self.place.folder} holds another adaptation",
                hint="finish it with the same command, or delete the folder",
            )
        _write_json(file, wanted)

    def _scored_once(self, what: str, solver: Callable[[], Solver]) -> dict[str, Any]:
        """Scores that outlive an interruption."""
        file = self.place.folder / f"{what}.json"
        if not file.exists():
            _write_json(file, self._score(solver(), what).as_dict())
        scores: dict[str, Any] = json.loads(file.read_text())
        return scores

    def _score(self, solver: Solver, what: str) -> FileScores:
        """On the test trajectories, with the step and the resolution of the training; of a solver with shorter steps,
        after as many as it takes.
        """

        def progress(file: str, done: int, total: int) -> None:
            self.place.listener.scoring(what, done, total)
            if self.place.cancelled():
                raise Interrupted

        rows = Subset(self.trajectories.held_out, self.split.test.tolist())
        file, horizon = self.trajectories.scored_file, self.settings.horizon
        with torch.inference_mode():
            return evaluate_source(solver, rows, file, self.dt, self.n, progress=progress, horizon=horizon)

    def _terms(self) -> dict[str, Any]:
        file = self.place.folder / "terms.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def _curve(self) -> dict[str, Any]:
        """Validations by step: one that is repeated after a crash replaces itself."""
        file = self.place.folder / "curve.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def _validated(self, step: int, score: Score, best: bool) -> None:
        """A point of the curve."""
        point = {"step": step, "one_step": _json(score.one_step), "rollout": _json(score.rollout)}
        _write_json(self.place.folder / "curve.json", {**self._curve(), str(step): point})
        self.place.listener.validation(step, score, best)


class PreparedAdaptation(AdaptationRun):
    """A model folder, trajectories and what is asked for, checked and ready to run.

    Attributes:
        n: points along the first axis: the model's, or the trajectories' where they have fewer.
        warnings: what was asked for and has no effect, or another than its paper says.

    Args:
        model: not used by a fresh start.
        name: of the tuned model.

    Raises:
        UserError: those of `FewShotData.split` and `AdaptationSettings.check`; ``superspace_too_small``,
            ``dt_mismatch``, ``resolution_mismatch``, ``too_large``, ``run_exists``, ``not_a_model``,
            ``no_language_model``, ``language_model_not_read``, ``nothing_to_tune``, ``adapted_already``,
            ``family_mismatch``.
    """

    def __init__(
        self, model: Path | None, trajectories: FewShotData, settings: AdaptationSettings, name: str, place: Place
    ) -> None:
        settings.check()
        final = settings.horizon == "final"
        trajectories = trajectories.to_last_states() if final else trajectories
        self.settings, self.trajectories, self.place = settings, trajectories, place
        store = trajectories.training
        self.family = store.family
        self.split = trajectories.split(settings.n_trajectories)
        if settings.fresh:
            self.checkpoint = self._fresh(name, store)
        elif model is not None:
            self.checkpoint = from_pretrained(model, place.device).of_family(self.family)
        else:
            raise TypeError("a model is adapted where there is no fresh start")
        self.model = self.checkpoint.operator
        self.parent = self.model.config
        self.parent_version = self.parent.version
        check_language_model(self.parent, settings.alignment, settings.tuning)
        self.tuning = TUNINGS[settings.tuning]()
        ignored = isinstance(self.model, UPS) and self.model.ignores_body
        body = self.tuning.body or mixes(settings.alignment) or not ignored
        self.warnings = (
            [] if not ignored or settings.alignment == "none" else [no_effect(settings.alignment, self.parent)]
        )
        self.config = recipe(settings, name, self.family, len(self.split.validation), body)
        if self.tuning.equip is not None and model is not None:
            self.tuning.equip(self.checkpoint, model)
        else:
            self.checkpoint.merge()  # adapters of a parent become part of what is tuned
        self._extended = self.tuning.extend is not None and self.tuning.extend(self.model)
        self.parent = self.model.config
        check_points(store.grid)
        self.n = min(self.parent.resolution, store.grid.n[0])
        self.dt = float(store.times[1] - store.times[0]) if final else family(self.family).dt
        data = self.config.families[self.family]
        met = self.parent.families.get(self.family)
        # Statistics of steps of another length say nothing of these.
        known = None if met is None or (final and not math.isclose(met.dt, self.dt, rel_tol=1e-6)) else met
        self.windows = FamilyWindows(
            self.family, data, store, self.n, known, split=self.split, held_out=trajectories.held_out,
            points=0 if known is None else known.points, dt=self.dt,
        )  # fmt: skip
        check_card(self.parent, self.windows.card)
        self.bytes = self._memory(data)
        check_memory(self.bytes, available_bytes(place.device))
        place.folder.mkdir(parents=True, exist_ok=True)
        if place.processes.first:
            self._pin(model)
        self._known, self._met = known is not None, met is not None
        shared = data.trajectories >= place.processes.count and not reads_twice(settings.alignment)
        self.processes = place.processes if shared else ALONE

    def _memory(self, data: FamilyData) -> int:
        """Of the stage that needs more: a tuning that trains little may come after an alignment that trains all."""
        points = math.prod(self.windows.grid.n)
        stages = [(self.config.stage2, self.tuning.select, self.tuning.kept)]
        if self.config.stage1.steps:
            stages.append((self.config.stage1, self._select_aligned, 1.0))
        return max(
            training_bytes(self.model, self._selected(select, stage), stage, data, points, kept)
            for stage, select, kept in stages
        )

    def _selected(self, select: Select, stage: Stage) -> list[Tensor]:
        train_body = self.model.use_body and stage.body_learning_rate > 0
        return list(select(self.model, train_body=train_body).values())

    def _fresh(self, name: str, store: Store) -> TrainedModel:
        """A new embedder and head around the language model; of the seed alone."""
        config = self.settings.config_of(name, family(self.family), store.grid)
        torch.manual_seed(self.settings.seed)
        return TrainedModel(create(config, random_body=self.settings.start == "random").to(self.place.device))

    @property
    def _select_aligned(self) -> Select:
        return embedder if self.settings.fresh and alone(self.settings.alignment) else self.tuning.select_aligned

    def assist(self) -> None:
        """What the processes beside the first one do: their shares of the batches, where these can be shared.

        Raises:
            Interrupted, Diverged: as `run`.
        """
        if self.processes.count > 1:
            self._train()

    def _score_best(self) -> dict[str, Any]:
        best = self.place.folder / BEST
        _check_finite(best)
        return self._score(UPSSolver(from_pretrained(best, self.place.device)), "tuned").as_dict()

    def _as_it_was(self) -> AbstractContextManager[None]:
        """The model without what tuning has added to it, as far as that changes anything."""
        return without_prefix(self.model) if self._extended else nullcontext()

    def _zero_shot(self) -> dict[str, Any]:
        with self._as_it_was():
            return self._scored_once(
                "zero_shot", lambda: UPSSolver(self.model) if self._met else ZeroShotSolver(self.model)
            )

    def _before(self, zero_shot: dict[str, Any]) -> dict[str, Any]:
        if self._known:
            return zero_shot
        base = self.place.folder / BASE
        return self._scored_once("base", lambda: UPSSolver(from_pretrained(base, self.place.device)))

    def _train(self) -> Position:
        """Both stages, from where they stand."""
        model, config = self.model, self.config
        model.config = self.parent.model_copy(
            update={"name": config.name, "version": 1, "families": {self.family: self.windows.card}}
        )
        base = self.place.folder / BASE
        if self.processes.first and not self.settings.fresh and not base.exists():
            with self._as_it_was():
                publish(self.checkpoint, base)
        model.train()
        first = 0 if config.stage1.steps else 1
        progress = read_position(self.place.folder) or Position(stage=first)
        trainer = self._trainer(model, progress.stage)
        begun = (self.place.folder / STATE_FILE).exists()
        if begun:
            load_state(self.place.folder, trainer)
            self.place.listener.saved(self._step(trainer))
        self.processes.wait()  # until all have seen what is there
        if not begun:
            if not self.settings.fresh:  # new weights are no model yet
                with self._as_it_was():
                    self._validate(trainer, progress)
            self._save(trainer, progress)
        while not self._finished(trainer, progress):
            if progress.stage == 0 and trainer.step >= trainer.stage.steps:
                trainer.swap_average()  # the next stage starts from the averaged weights
                progress.stage = 1
                trainer = self._trainer(model, 1)
                self._save(trainer, progress)
            self._advance(trainer, progress)
        return progress

    def _trainer(self, model: Operator, stage: int) -> StageTrainer:
        own = (self.config.stage1, self.config.stage2)[stage]
        select = self.tuning.select if stage == 1 else self._select_aligned
        alignment = ALIGNMENTS[own.alignment](**own.alignment_options)
        return StageTrainer(model, [self.windows], self.config, stage, alignment, select, self.processes)

    def _step(self, trainer: StageTrainer) -> int:
        """Steps done in both stages."""
        return trainer.step + (self.config.stage1.steps if trainer.index == 1 else 0)

    def _finished(self, trainer: StageTrainer, progress: Position) -> bool:
        """As the first process finds it: only that one validates."""
        return self.processes.any(self.processes.first and self._over(trainer, progress), trainer.device)

    def _over(self, trainer: StageTrainer, progress: Position) -> bool:
        step = self._step(trainer)
        if step % self.settings.validate_every == 0 and trainer.stage.task_weight:  # ends early after a validation only
            if ruined(list(self._curve().values())):
                return True
            waited = step - int(progress.best_at or 0)
            if waited >= PATIENCE * self.settings.validate_every:
                return True
            if self.settings.max_seconds is not None and progress.seconds >= self.settings.max_seconds:
                return True
        return step >= self.settings.steps

    def _advance(self, trainer: StageTrainer, progress: Position) -> None:
        """Steps up to the next save."""
        saved = time.monotonic()
        while trainer.step < trainer.stage.steps:
            if self.processes.any(self.place.cancelled(), trainer.device):
                self._save(trainer, progress)
                raise Interrupted
            started = time.monotonic()
            report = trainer.run_step()
            progress.seconds += time.monotonic() - started
            step, steps = self._step(trainer), self.settings.steps
            if step % max(1, steps // STEP_EVENTS) == 0:
                self.place.listener.step(step, steps, report)
            self._keep_terms(trainer)
            due = step % self.settings.validate_every == 0 or step == steps
            if due and trainer.stage.task_weight:
                self._validate(trainer, progress)
            late = self.processes.first and time.monotonic() - saved >= self.place.save_seconds
            if due or self.processes.any(late, trainer.device):
                self._save(trainer, progress)
                return

    def _save(self, trainer: StageTrainer, progress: Position) -> None:
        if not self.processes.first:
            return
        save_state(self.place.folder, trainer, progress)
        self.place.listener.saved(self._step(trainer))

    def _validate(self, trainer: StageTrainer, progress: Position) -> None:
        if not self.processes.first:
            return
        step = self._step(trainer)
        trainer.swap_average()
        score = validate(trainer.model, [self.windows])[self.family]
        value = criterion(score.one_step, score.rollout)
        best = value < progress.best
        if best:
            progress.best, progress.best_at = value, str(step)
            publish(self.checkpoint, self.place.folder / BEST)
        trainer.swap_average()
        self._validated(step, score, best)

    def _keep_terms(self, trainer: StageTrainer) -> None:
        """What the loss of an alignment is made of, of the first and the last step of stage 1."""
        if self.processes.first and trainer.index == 0 and trainer.step in (1, trainer.stage.steps):
            terms = {name: _json(value) for name, value in trainer.alignment.terms().items()}
            said = self._terms()
            said = {"first": terms} if trainer.step == 1 else said
            _write_json(self.place.folder / "terms.json", said | {"last": terms})


def no_effect(alignment: str, config: UPSConfig) -> str:
    """The warning where an alignment has nothing to act on."""
    return (
        f"{config.name} predicts without its language model, so the alignment {alignment} with it improves "
        'nothing that is read; a fresh start (from "lm") has the language model in the path, as the papers do'
    )


def ruined(curve: Sequence[Mapping[str, Any]]) -> bool:
    """Are the last validations so much worse than the best that training leads nowhere?"""
    errors = [math.inf if point["one_step"] is None else point["one_step"] for point in curve]
    return len(errors) > RUINED_TIMES and all(error > RUINED * min(errors) for error in errors[-RUINED_TIMES:])


def deliver(
    report: dict[str, Any], model: Path, out: Path, about: dict[str, Any], extra: Mapping[str, str] | None = None
) -> None:
    """Puts a model into `out` with its scores and what `about` says of its origin; whole or not at all.

    `extra` are the texts of further files by name.

    Doing it again after a crash changes nothing.

    Raises:
        UserError: ``output_exists``.
    """
    check_output(out)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(model, part)
    place_adapters(part, out)
    _write_json(part / "scores.json", report)
    _write_json(part / "adaptation.json", {**about, "helped": report["helped"]})
    for name, text in (extra or {}).items():
        (part / name).write_text(text, encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    part.rename(out)


def check_output(out: Path) -> None:
    """Raises UserError ``output_exists`` where `out` is something else than a model that was adapted before."""
    if out.exists() and not (out / "adaptation.json").is_file():
        raise UserError("output_exists", f"{out} exists and is no adapted model", hint="choose another folder")


def _check_finite(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError("not_finite", "no step of the training gave finite predictions on validation trajectories")
    tensors = {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
    bad = sorted(name for name, value in tensors.items() if not value.isfinite().all())
    if bad:
        raise UserError("not_finite", "weights of the tuned model are not finite", got=bad[:5])


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_json(file: Path, document: Any) -> None:
    with replacing(file) as part:
        part.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
