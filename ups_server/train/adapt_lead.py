"""Adapting a model of lead times to a few trajectories of a family, or an equation in symbols, that it knows.

All weights of the operator go on learning as they were trained (`train.lead_loop`): from any state to any later one, by
the lead times that the frames offer. Every so many steps the averaged weights are judged on validation trajectories,
step by step. One process trains.
"""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ups_server.model.checkpoint import load_lead, save_lead
from ups_server.model.lead import LeadModel, LeadSystem
from ups_server.model.lead_config import LeadConfig
from ups_server.pde import family
from ups_server.solvers.lead import LeadSolver, call_bytes, load_lead_solver
from ups_server.solvers.registry import model_type
from ups_server.solvers.solver import Problem
from ups_server.train.adapt import (
    BASE,
    BEST,
    STEP_EVENTS,
    AdaptationRun,
    Interrupted,
    Place,
    PreparedAdaptation,
    ruined,
)
from ups_server.train.config import FamilyData
from ups_server.train.few_shot import PATIENCE, AdaptationSettings, FewShotData, warmup
from ups_server.train.lead_few_shot import check_lead
from ups_server.train.lead_loop import LeadTrainer, Sample, Schedule
from ups_server.train.lead_time import FamilyTriples, LeadFamily, StoreData
from ups_server.train.loop import Diverged, Position, StepReport
from ups_server.train.memory import BASE_BYTES, COPIES, LOADED, available_bytes, check_memory, size
from ups_server.train.parallel import ALONE
from ups_server.train.run import replaced
from ups_server.train.validation import Score, criterion, scored

RATE = 2e-4
"""Peak learning rate."""
BATCHES = {1: 16, 2: 4}
"""Samples a step, by dimension."""
WEIGHT_DECAY, CLIP, AVERAGE = 1e-4, 1.0, 0.99
COOLDOWN = 0.4
"""Share of the steps over which the learning rate falls to zero."""
OWN = 0.15
"""Share of the steps that go on from the model's own state."""
KEPT = 12
"""Tensors of a call that the backward pass keeps, in units of what a call has alive at once."""


def adaptation_of(
    model: Path | None, trajectories: FewShotData, settings: AdaptationSettings, name: str, place: Place
) -> AdaptationRun:
    """The adaptation that a model folder of its kind gets; without one, a fresh start."""
    if model is not None and model_type(model) == "ups-lead" and not settings.fresh:
        return LeadAdaptation(model, trajectories, settings, name, place)
    return PreparedAdaptation(model, trajectories, settings, name, place)


class LeadAdaptation(AdaptationRun):
    """A model of lead times, trajectories and what is asked for, checked and ready to run.

    Raises:
        UserError: those of `FewShotData.split`, `AdaptationSettings.check` and `check_lead`; ``not_a_model``,
            ``too_large``, ``run_exists``.
    """

    def __init__(
        self, model: Path, trajectories: FewShotData, settings: AdaptationSettings, name: str, place: Place
    ) -> None:
        settings.check()
        self.settings, self.trajectories, self.place, self.model = settings, trajectories, place, model
        self.warnings, self.processes = [], ALONE
        store = trajectories.training
        self.family = store.family
        self.split = trajectories.split(settings.n_trajectories)
        parent = LeadConfig.load(model)
        self.parent_version = parent.version
        found = check_lead(parent, settings, store)
        self.n, self.dt, self.card = found.n, found.dt, found.card
        whole = load_lead(model, place.device)
        self.operator = whole.operators[self.card.ndim]
        self.features = whole.features
        self.batch = BATCHES[self.card.ndim]
        self.bytes = self._memory(store.grid.subsample(store.grid.stride_to(self.n)).n)
        check_memory(self.bytes, available_bytes(place.device))
        shapes = {"line": found.shape, "plane": None} if self.card.ndim == 1 else {"line": None, "plane": found.shape}
        self.config = parent.model_copy(
            update={"name": name, "version": 1, "preferred": (), "families": {self.family: self.card}, **shapes}
        )
        data = LeadFamily(
            stores=(StoreData(data=FamilyData(count=len(store)), n=(self.n,)),),
            horizon=self.card.horizon,
            initial=0.3 if family(self.family).full_state else 1.0,
            batch=self.batch,
        )
        self.triples = FamilyTriples(self.family, data, [store], self.features, self.split.training, self.card.shortest)
        place.folder.mkdir(parents=True, exist_ok=True)
        if place.processes.first:
            self._pin(model)

    def _memory(self, points: tuple[int, ...]) -> int:
        weights = size(self.operator.parameters())
        activations = KEPT * self.batch * call_bytes(self.operator.config, points)
        return BASE_BYTES + max((1 + COPIES) * weights + activations, LOADED * weights)

    def _system(self, operator: LeadModel) -> LeadSystem:
        """With these weights, of this family alone."""
        return LeadSystem(self.config, {self.card.ndim: operator}, self.features)

    def _publish(self, operator: LeadModel, name: str) -> None:
        replaced(self.place.folder / name, lambda part: save_lead(self._system(operator), part))

    def _zero_shot(self) -> dict[str, Any]:
        return self._scored_once("zero_shot", lambda: load_lead_solver(self.model, self.place.device))

    def _before(self, zero_shot: dict[str, Any]) -> dict[str, Any]:
        return zero_shot

    def _score_best(self) -> dict[str, Any]:
        return self._score(load_lead_solver(self.place.folder / BEST, self.place.device), "tuned").as_dict()

    def _train(self) -> Position:
        folder, steps = self.place.folder, self.settings.steps
        if not (folder / BASE).exists():
            self._publish(self.operator, BASE)
        schedule = Schedule(self.settings.learning_rate or RATE, warmup(steps), steps, math.ceil(COOLDOWN * steps))
        model = LeadModel(self.operator.config, self.operator.number_names.shape[1])
        model.load_state_dict(self.operator.state_dict())
        trainer = LeadTrainer(model, schedule, WEIGHT_DECAY, CLIP, AVERAGE, torch.device(self.place.device))
        if trainer.load(folder):
            self.place.listener.saved(trainer.progress.step)
        else:
            self._validate(trainer)
            self._save(trainer)
        while not self._over(trainer):
            self._advance(trainer)
        return self._position(trainer)

    def _advance(self, trainer: LeadTrainer) -> None:
        """Steps up to the next save."""
        saved, steps = time.monotonic(), self.settings.steps
        while trainer.progress.step < steps:
            if self.place.cancelled():
                self._save(trainer)
                raise Interrupted
            loss = trainer.step(self._sample(trainer.progress.step))
            if not math.isfinite(loss):
                raise Diverged(f"the loss is not finite at step {trainer.progress.step}")
            step = trainer.progress.step
            if step % max(1, steps // STEP_EVENTS) == 0:
                report = StepReport({self.family: loss}, 0.0, math.nan, skipped=False)
                self.place.listener.step(step, steps, report)
            due = step % self.settings.validate_every == 0 or step == steps
            if due:
                self._validate(trainer)
            if due or time.monotonic() - saved >= self.place.save_seconds:
                self._save(trainer)
                return

    def _sample(self, step: int) -> Sample:
        """Drawn from (seed, step) alone."""
        rng = np.random.default_rng([self.settings.seed, step])
        states, leads, given = self.triples.batch(rng)
        own = rng.random() < OWN and step > warmup(self.settings.steps)
        return Sample(states, leads, given, own and bool((leads[:, 1] > 0).all()))

    def _validate(self, trainer: LeadTrainer) -> None:
        operator, step = trainer.averaged().to(self.place.device), trainer.progress.step
        score = self._validation_score(LeadSolver(self._system(operator)))
        others = [self._value(point) for at, point in self._curve().items() if int(at) != step]
        best = criterion(score.one_step, score.rollout) < min(others, default=math.inf)
        if best:
            self._publish(operator, BEST)
        self._validated(step, score, best)

    def _validation_score(self, solver: LeadSolver) -> Score:
        store, rows = self.trajectories.held_out, self.split.validation
        stride = store.grid.stride_to(self.n)
        every = round(self.dt / float(store.times[1] - store.times[0]))
        truth, static = store.read(rows, slice(0, None, every), stride), store.read_static(rows, stride)
        named = dict(zip(store.coefficient_names, store.coefficients[rows].T.tolist(), strict=True))
        problem = Problem(self.family, named, store.grid.subsample(stride), store.boundary, self.dt)
        return scored(solver, problem, truth, static)

    @staticmethod
    def _value(point: dict[str, Any]) -> float:
        errors = [math.inf if point[part] is None else point[part] for part in ("one_step", "rollout")]
        return criterion(*errors)

    def _position(self, trainer: LeadTrainer) -> Position:
        """The best point of the curve, the earliest of equals."""
        curve = self._curve()
        best_at = min(curve, key=lambda step: (self._value(curve[step]), int(step)))
        return Position(
            step=trainer.progress.step, best=self._value(curve[best_at]), best_at=best_at,
            seconds=trainer.progress.seconds,
        )  # fmt: skip

    def _over(self, trainer: LeadTrainer) -> bool:
        step = trainer.progress.step
        if step % self.settings.validate_every == 0:  # ends early after a validation only
            position = self._position(trainer)
            if ruined(list(self._curve().values())):
                return True
            if step - int(position.best_at) >= PATIENCE * self.settings.validate_every:
                return True
            if self.settings.max_seconds is not None and position.seconds >= self.settings.max_seconds:
                return True
        return step >= self.settings.steps

    def _save(self, trainer: LeadTrainer) -> None:
        trainer.save(self.place.folder)
        self.place.listener.saved(trainer.progress.step)
