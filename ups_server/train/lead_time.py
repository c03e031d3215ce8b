"""Training a model of lead times: any state to any later one, on the trajectories of many families at once.

A step takes triples (t, t + tau, t + tau + sigma) of one family: either the state at t is advanced by tau, or what the
model made of it, without its gradient, by sigma: so that one call and two agree, and a rollout meets states like those
it was trained on. Everything random in step s is drawn from (seed, s): a run resumed is the run never interrupted. The
learning rate stays constant, so that a run may always go on; where its end is named it falls to zero before.

    python -m ups_server.train.lead_time CONFIG RUN [--weights MODEL] [--minutes M] [--device cuda] [--workers N]
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ups_server.data.simulate import build_store
from ups_server.data.splits import Split, split_rows
from ups_server.data.store import Store
from ups_server.data.windows import LeadTimes, Points, frame_stride
from ups_server.errors import UserError
from ups_server.language.pretrained import default_folder
from ups_server.model.body import load_tokenizer, pretrained_body, text_features
from ups_server.model.checkpoint import load_lead
from ups_server.model.lead import LeadModel, Problems, problems
from ups_server.model.lead_config import EQUATIONS, NUMBERS, LatentConfig
from ups_server.pde import Grid, family
from ups_server.processes import keep_freed_memory
from ups_server.train.config import FamilyData, Section
from ups_server.train.dataset import held, store_name
from ups_server.train.lead_loop import LeadTrainer, Progress, Sample, Schedule
from ups_server.train.units import in_other_units

SCORES = "validation.jsonl"
BATCHES = {1: 32, 2: 8}
"""Trajectories generated together, by dimension."""
MOST_CALLS = 20
"""Of a validation rollout that are scored."""


class StoreData(Section):
    """Trajectories of a family: how they are generated, and at which points states are taken from them.

    Attributes:
        n: points along the first axis, one of them a batch. points: which, one of them a batch.
        weight: how often this store is drawn from, beside the family's others.
    """

    data: FamilyData
    n: tuple[int, ...]
    points: tuple[Points, ...] = ("strided",)
    weight: float = 1.0


class LeadFamily(Section):
    """A family of a run.

    Attributes:
        horizon: the longest lead time. initial, early: of the starts, see `data.windows.LeadTimes`.
        weight: how often a batch is of this family. batch: samples.
        validation: trajectories that are scored.
        units: are triples changed to other units, as the equations of `evolution_1d` allow it?
    """

    stores: tuple[StoreData, ...]
    horizon: float
    initial: float = 0.3
    early: float = 1.5
    weight: float = 1.0
    batch: int = 8
    validation: int = 8
    units: bool = False


class LeadTraining(Section):
    """A run.

    Attributes:
        steps: where it ends; 0: nowhere. cooldown: the last steps, over which the learning rate falls to zero.
        pushforward: share of the steps that go on from the model's own state.
    """

    name: str
    seed: int = 0
    model: LatentConfig
    families: dict[str, LeadFamily]
    learning_rate: float = 1e-3
    warmup: int = 200
    steps: int = 0
    cooldown: int = 0
    pushforward: Annotated[float, Field(ge=0, le=1)] = 0.3
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    save_minutes: float = 3.0
    validate_minutes: float = 10.0

    @classmethod
    def load(cls, path: Path) -> "LeadTraining":
        """Raises UserError ``invalid_config``."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()))
        except (ValidationError, yaml.YAMLError, OSError) as error:
            raise UserError("invalid_config", f"{path.name} is no training configuration: {error}") from error


class FamilyTriples:
    """The training and validation data of one family."""

    def __init__(
        self, family_id: str, data: LeadFamily, stores: list[Store], features: Mapping[str, Tensor],
        rows: NDArray[np.int64] | None = None, shortest: float = 0.0,
    ) -> None:  # fmt: skip
        """Args:
        rows: trajectories of each store that are drawn from; default its training split.
        shortest: of the lead times.
        """
        self.family, self.data, self.stores, self.features = family(family_id), data, stores, features
        own = [split_rows(len(store), Split.TRAIN) if rows is None else rows for store in stores]
        self.draws = [LeadTimes(store, data.horizon, chosen, data.initial, data.early, shortest)
                      for store, chosen in zip(stores, own, strict=True)]  # fmt: skip
        weights = np.array([entry.weight for entry in data.stores])
        self._shares = weights / weights.sum()

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Problems]:
        """Superspace states (B, 3, X..., N), lead times (B, 2), and what is known of the problems."""
        which = int(rng.choice(len(self.draws), p=self._shares))
        entry = self.data.stores[which]
        n, points = int(rng.choice(entry.n)), entry.points[int(rng.integers(len(entry.points)))]
        drawn = self.draws[which].draw(rng, self.data.batch, n, points)
        if self.data.units:
            drawn = in_other_units(rng, drawn, self.stores[which].coefficient_names, self.data.horizon)
        states = self.in_slots(drawn.states)
        leads = torch.from_numpy(np.diff(drawn.times, axis=1).astype(np.float32))
        return states, leads, self.problems(self.stores[which], drawn.coefficients, drawn.grid, states, drawn.static)

    def in_slots(self, states: NDArray[np.float32], slots: int = 4) -> Tensor:
        """Fields (..., C) in the slots (..., N) of the superspace."""
        out = torch.zeros(*states.shape[:-1], slots)
        out[..., [field.slot for field in self.family.fields]] = torch.from_numpy(np.ascontiguousarray(states))
        return out

    def problems(
        self, store: Store, coefficients: NDArray[np.float64], grid: Grid, states: Tensor,
        static: NDArray[np.float32] | None,
    ) -> Problems:  # fmt: skip
        named = dict(zip(store.coefficient_names, torch.from_numpy(coefficients).float().unbind(1), strict=True))
        return problems(
            EQUATIONS[self.family.id], self.features, named, [field.slot for field in self.family.fields],
            store.boundary, grid, states[:, 0], None if static is None else torch.from_numpy(static),
        )  # fmt: skip


class Samples(Dataset[Sample]):
    """The batch of every step, drawn from (seed, step) alone: the same whoever draws it."""

    def __init__(self, config: LeadTraining, families: list[FamilyTriples]) -> None:
        self.config, self.families = config, families
        shares = np.array([entry.data.weight for entry in families])
        self._shares = shares / shares.sum()

    def __getitem__(self, step: int) -> Sample:
        rng = np.random.default_rng([self.config.seed, step])
        entry = self.families[int(rng.choice(len(self._shares), p=self._shares))]
        states, leads, given = entry.batch(rng)
        own = rng.random() < self.config.pushforward and step > 2 * self.config.warmup
        return Sample(states, leads, given, own and bool((leads[:, 1] > 0).all()))

    def from_step(self, step: int, workers: int) -> Iterator[Sample]:
        """The batches from `step` on, drawn ahead by so many processes."""
        if not workers:
            return map(self.__getitem__, count(step))
        return iter(DataLoader(self, batch_size=None, sampler=count(step), num_workers=workers))


class LeadRun:
    """A run in its folder: the state it resumes from, and the scores of its validations."""

    def __init__(
        self, config: LeadTraining, folder: Path, data: Path, device: str = "cpu", workers: int = 0,
        weights: Path | None = None,
    ) -> None:  # fmt: skip
        """Args:
        data: folder of the stores.
        workers: processes that draw batches ahead; 0 draws them here.
        weights: folder of a model of the same shape, whose weights a new run starts from; random ones without it.
        """
        self.config, self.folder, self.workers, self.device = config, folder, workers, torch.device(device)
        folder.mkdir(parents=True, exist_ok=True)
        language = default_folder()
        texts = [*NUMBERS, *(term.text for name in config.families for term in EQUATIONS[name].terms)]
        self.features = features = text_features(pretrained_body(language).eval(), load_tokenizer(language), texts)
        self.families = [
            FamilyTriples(
                name, entry, [generated(name, part.data, config.seed, data) for part in entry.stores], features
            )
            for name, entry in config.families.items()
        ]
        torch.manual_seed(config.seed)
        model = LeadModel(config.model, len(features[NUMBERS[0]]))
        if weights is not None:
            model.load_state_dict(load_lead(weights).operators[config.model.ndim].state_dict())
        model.number_names.copy_(torch.stack([features[name] for name in NUMBERS]))
        schedule = Schedule(config.learning_rate, config.warmup, config.steps, config.cooldown)
        self.trainer = LeadTrainer(model, schedule, config.weight_decay, config.clip, config.ema, self.device)
        self.trainer.load(folder)

    @property
    def progress(self) -> Progress:
        return self.trainer.progress

    def train(self, minutes: float) -> None:
        """Until its last step, or for so many minutes."""
        config, began = self.config, time.monotonic()
        saved = validated = began
        samples = Samples(config, self.families).from_step(self.progress.step, self.workers)
        while not config.steps or self.progress.step < config.steps:
            self.trainer.step(next(samples))
            now = time.monotonic()
            over = now - began > 60 * minutes
            if over or now - saved > 60 * config.save_minutes:
                self.trainer.save(self.folder)
                saved = now
            if now - validated > 60 * config.validate_minutes:
                self._report(self.validate())
                validated = now
            if over:
                return
        self.trainer.save(self.folder)
        self._report(self.validate())

    @torch.no_grad()
    def validate(self) -> dict[str, dict[str, Any]]:
        """Scores of the averaged weights, by family and points, and store where these are the same: see `scored`."""
        self.trainer.swap()
        scores = dict[str, dict[str, Any]]()
        for entry in self.families:
            for number, (store, part) in enumerate(zip(entry.stores, entry.data.stores, strict=True)):
                name = f"{entry.family.id}@{max(part.n)}"
                name = f"{name} store {number}" if name in scores else name
                scores[name] = scored(self.trainer.model, entry, store, max(part.n), self.device)
        self.trainer.swap()
        return scores

    def _report(self, scores: dict[str, dict[str, Any]]) -> None:
        with (self.folder / SCORES).open("a") as handle:
            handle.write(json.dumps({**asdict(self.progress), "scores": scores}) + "\n")
        for name, found in scores.items():
            print(self.progress.step, round(self.progress.seconds), name, found, flush=True)


def generated(family_id: str, data: FamilyData, seed: int, folder: Path) -> Store:
    """The store of these settings below `folder`, generated where it is not there."""
    own = seed if data.seed is None else data.seed
    path, equation = folder / store_name(family_id, data, own), data.equation(family_id)
    with held(path.with_suffix(".lock")):
        return build_store(
            equation, data.coefficients, data.count, data.resolution, own, path, batch=BATCHES[equation.ndim],
            frame_dt=data.frame_dt, t_final=data.t_final, kinds=data.kinds,
        )  # fmt: skip


def scored(model: LeadModel, entry: FamilyTriples, store: Store, n: int, device: torch.device) -> dict[str, Any]:
    """One step of the family's dt, and a rollout: step by step, and by one call for each frame ("direct").

    One-step nRMSE lumps the fields; skill is by field, over persistence; rollouts by field, over the norm of the
    trajectory; `worst` is the largest of the direct ones.
    """
    rows = split_rows(len(store), Split.VALIDATION)[: entry.data.validation]
    stride, every = store.grid.stride_to(n), frame_stride(store.times, entry.family.dt)
    truth = entry.in_slots(store.read(rows, slice(0, None, every), stride))
    grid, static = store.grid.subsample(stride), store.read_static(rows, stride)
    given = entry.problems(store, store.coefficients[rows], grid, truth, static).to(device)
    truth = truth.to(device)
    steps = min(round(entry.data.horizon / entry.family.dt), truth.shape[1] - 1)
    asked = sorted({round(step) for step in np.linspace(1, steps, min(steps, MOST_CALLS))})
    dt = torch.full((len(rows),), entry.family.dt, device=device)
    slots = [field.slot for field in entry.family.fields]

    def power(values: Tensor) -> Tensor:
        return values[..., slots].square().flatten(1, -2).mean(1)

    total = {
        name: torch.zeros(len(rows), len(slots), device=device)
        for name in ("error", "change", "norm", "direct", "steps")
    }
    lumped, state = 0.0, truth[:, 0]
    for step in asked:
        target, before = truth[:, step], truth[:, step - 1]
        found = power(model(before, dt, given) - target)
        total["error"] += found
        total["change"] += power(before - target)
        total["norm"] += power(target)
        total["direct"] += power(model(truth[:, 0], dt * step, given) - target)
        lumped += float((found.sum(1) / power(target).sum(1)).sqrt().mean()) / len(asked)
    if len(asked) == steps:
        for step in range(1, steps + 1):
            state = model(state, dt, given)
            total["steps"] += power(state - truth[:, step])

    def mean_ratio(over: str, under: str) -> list[float]:
        return [round(value, 5) for value in (total[over] / total[under]).sqrt().mean(0).tolist()]

    worst = [round(value, 5) for value in (total["direct"] / total["norm"]).sqrt().amax(0).tolist()]
    return {
        "one_step": round(lumped, 6), "skill": mean_ratio("error", "change"), "direct": mean_ratio("direct", "norm"),
        "steps": mean_ratio("steps", "norm") if len(asked) == steps else None, "worst": worst,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", type=Path)
    parser.add_argument("run", type=Path, help="folder of the run; data lie in `data` beside it")
    parser.add_argument("--weights", type=Path, help="folder of a model that a new run starts from")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw batches ahead")
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    config, data = LeadTraining.load(given.config), given.run.parent / "data"
    LeadRun(config, given.run, data, given.device, given.workers, given.weights).train(given.minutes)


if __name__ == "__main__":
    main()
