"""The training loop: one step, and all that must survive it, in memory and on disk.

Everything random in step s is drawn from (seed, stage, s), so that a run resumed from its state on disk is the run that
was never interrupted. The state is safetensors and JSON, replaced atomically.
"""

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ups_server.align.base import Alignment
from ups_server.align.labels import outlines
from ups_server.align.text import reference_text
from ups_server.errors import UserError
from ups_server.model.config import UPSConfig
from ups_server.model.context import Context
from ups_server.model.operator import Operator, UPSModel
from ups_server.train.config import Stage, TrainConfig
from ups_server.train.dataset import Batch, FamilyWindows, TrainingTarget
from ups_server.train.parallel import ALONE, Processes

MAX_BAD_STEPS = 20
"""Steps in succession with a loss or gradient that is not finite before a run is given up."""
WARMUP_SHARE = 0.05
"""Warm-up of a stage of so many minutes ends at this share of them, if it has not ended by its steps."""
STEP_DECAY, STEPS_DOWN = 0.2, 3
"""The schedule in steps: three parts of equal length, each with this part of the rate before it (ORCA)."""
MANY_STEPS = 10_000
"""Of a stage of so many minutes, whose first step has to have a learning rate too."""
STATE_FILE = "state.safetensors"


class Diverged(RuntimeError):
    """Training produced nothing finite for too long."""


class Select(Protocol):
    """Which parameters are trained: marks them on the model and returns them by name."""

    def __call__(self, model: Operator, *, train_body: bool) -> dict[str, nn.Parameter]: ...


@dataclass(frozen=True)
class StepReport:
    """Task loss per family, none in a stage by the alignment alone; loss of the adaptation method, gradient norm;
    `skipped` where the step was not taken."""

    losses: dict[str, float]
    alignment: float
    gradient: float
    skipped: bool

    @property
    def loss(self) -> float | None:
        """Of the first family, where there is one."""
        return next(iter(self.losses.values()), None)


@dataclass(frozen=True)
class _Aligned:
    """Of one family's batch: task loss, the method's own on the batch, features and outlines to be aligned, and how
    many rows every process has.

    `read`, of a method that asks for it, is what the body makes of the state tokens.
    """

    loss: Tensor
    beside: Tensor
    features: Tensor
    read: Tensor | None
    outlines: Tensor
    counts: list[int]


def clock(device: torch.device) -> float:
    """Seconds that training has had: wall-clock, but on a CPU not while others had the core."""
    return time.thread_time() if device.type == "cpu" else time.monotonic()


class StageTrainer:
    """One stage in progress: model, averaged weights, optimiser, alignment.

    Attributes:
        step: optimiser steps made.
        seconds: what they took, over all interruptions, by `clock`.

    Raises:
        UserError: ``not_distributed`` where several processes are to train with a method that draws as it goes.
    """

    def __init__(
        self,
        model: Operator,
        families: Sequence[FamilyWindows],
        config: TrainConfig,
        stage_index: int,
        alignment: Alignment,
        select: Select | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.model = model
        self.processes = processes
        self.families = families
        self.config = config
        self.index = stage_index
        self.stage: Stage = (config.stage1, config.stage2)[stage_index]
        self.alignment = alignment
        self.device, self._dtype = next((p.device, p.dtype) for p in model.parameters() if p.is_floating_point())
        self.step = 0
        self.seconds = 0.0
        self._bad = 0
        model.use_body = self.stage.body and model.config.reading.body
        train_body = model.use_body and self.stage.body_learning_rate > 0
        self.trained = (select or trained_parameters)(model, train_body=train_body)
        if isinstance(model, UPSModel):
            alignment.prepare(model, self._target(model.config))
        groups, beside = parameter_groups(self.trained, self.stage), list(alignment.parameters().values())
        if processes.count > 1 and (beside or alignment.mixes or alignment.bilevel):
            raise UserError("not_distributed", "one process alone can train with it", got=self.stage.alignment)
        if beside:
            groups.append({"params": beside, "peak": self.stage.learning_rate})
        self._clipped = [*self.trained.values(), *beside]
        kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        self.optimiser = kinds[self.stage.optimiser](
            groups,
            betas=self.stage.betas,
            weight_decay=self.stage.weight_decay,
            # PyTorch has no fused update for complex weights (neuraloperator's).
            fused=not any(parameter.is_complex() for parameter in self.trained.values()),
        )
        self.average = {name: parameter.detach().clone() for name, parameter in self.trained.items()}

    def _target(self, shape: UPSConfig) -> TrainingTarget:
        seed = (self.config.seed, self.index)
        return TrainingTarget(self.families, shape, self.device, seed, reference_text(self.config.reference_text))

    @property
    def done(self) -> float:
        """The fraction of the stage that is done, by steps or by minutes; 1 where there is nothing to do."""
        if self.stage.minutes:
            return min(self.seconds / (60 * self.stage.minutes), 1.0)
        return self.step / self.stage.steps if self.stage.steps else 1.0

    @property
    def expected_steps(self) -> int:
        """Steps of the whole stage, as far as is known."""
        return self.stage.steps or round(self.step / max(self.done, 1e-9))

    def run_step(self) -> StepReport:
        """One optimiser step on a batch of every family.

        Raises:
            Diverged: after `MAX_BAD_STEPS` steps in succession that were not finite.
        """
        started = clock(self.device)
        report = self._run_step()
        self.seconds += self.processes.of_first(clock(self.device) - started, self.device)
        return report

    def _run_step(self) -> StepReport:
        rng = np.random.default_rng([self.config.seed, self.index, self.step])
        torch.manual_seed(int(rng.integers(2**62)))
        unroll = scheduled_unroll(self.stage, self.done)
        self._set_learning_rates()
        self.optimiser.zero_grad(set_to_none=True)
        losses, aligned, mixed = dict[str, float](), list[_Aligned](), 0.0
        for entry in self.families:
            if self.step % entry.data.every:
                continue
            losses[entry.id], extra = self._accumulate(self._batch(entry, rng, unroll), aligned)
            mixed += extra / len(self.families)
        alignment = mixed + (self._backward_aligned(aligned) if aligned else 0.0)
        losses = self._summed(losses) if self.stage.task_weight or not aligned else self._summed({})
        gradient = float(nn.utils.clip_grad_norm_(self._clipped, self.config.clip or math.inf))
        skipped = not math.isfinite(gradient) or not all(map(math.isfinite, [*losses.values(), alignment]))
        self._bad = self._bad + 1 if skipped else 0
        if self._bad > MAX_BAD_STEPS:
            raise Diverged(f"no finite step since step {self.step - MAX_BAD_STEPS}")
        if not skipped:
            self.optimiser.step()
        self.step += 1
        self._update_average()
        return StepReport(losses, alignment, gradient, skipped)

    def _batch(self, entry: FamilyWindows, rng: np.random.Generator, unroll: int) -> Batch:
        """This process's share of the batch of a family."""
        share = self.processes.shares(entry.data.trajectories)[self.processes.index]
        batch = entry.batch(rng, unroll, self.model.config, self.device, share).to(self._dtype)
        return batch.with_noise() if self.stage.noise else batch

    def _accumulate(self, batch: Batch, aligned: list[_Aligned]) -> tuple[float, float]:
        """Task loss, and that of the method on the batch, of a share of a batch, and their gradients; what is to be
        aligned is only added to `aligned`.
        """
        task = mixed = 0.0
        for part in batch.parts(self.config.accumulate):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                loss, features, read = self._losses(part)
                extra = self._loss_beside(part)
            task += loss.item() * part.share
            mixed += float(extra.detach()) * part.share
            if features is None:
                ((loss + extra) * part.share / len(self.families)).backward()
            else:
                counts = [batch.windows * (rows.stop - rows.start) for rows in self.processes.shares(batch.whole)]
                aligned.append(
                    _Aligned(loss * part.share, extra * part.share, features, read, outlines(part.frames[:, 1]), counts)
                )
        return task, mixed

    def _loss_beside(self, batch: Batch) -> Tensor:
        """Of a method that has a loss of its own on the batch."""
        if self.alignment.mixes:
            return self.stage.alignment_weight * self.alignment.mixed_loss(self._language_model(), batch, self.done)
        if self.alignment.bilevel:
            return self.stage.alignment_weight * self.alignment.bilevel_loss(self._language_model(), batch)
        return batch.frames.new_zeros(())

    def _summed(self, losses: dict[str, float]) -> dict[str, float]:
        """The losses of the whole batch, from those of every process's share; so are the gradients, in place."""
        values = torch.tensor([*losses.values()], dtype=torch.float64, device=self.device)
        gradients = [parameter.grad for parameter in self._clipped if parameter.grad is not None]
        self.processes.add([values, *gradients])
        return dict(zip(losses, values.tolist(), strict=True))

    def _backward_aligned(self, aligned: list[_Aligned]) -> float:
        # No mean over samples: every process has the features of all, and the gradient of its own.
        task = torch.stack([self.stage.task_weight * entry.loss + entry.beside for entry in aligned]).mean()
        features = [self.processes.gathered(entry.features, entry.counts) for entry in aligned]
        targets = [self.processes.gathered(entry.outlines, entry.counts) for entry in aligned]
        read = [self.processes.gathered(entry.read, entry.counts) for entry in aligned if entry.read is not None]
        beside = {"read": torch.cat(read)} if read else {}
        distance = self.alignment.loss(torch.cat(features), torch.cat(targets), **beside)
        (task + self.stage.alignment_weight * distance).backward()
        return float(distance.detach())

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Task loss of a batch, averaged over unrolled steps, and, to be aligned, the features of its first step, as
        they enter the body and, where the method asks for it, as they leave it.
        """
        refresh = self.model.config.reading.refresh
        u = batch.frames[:, 0]
        if refresh:
            # What is read again along a rollout is read of a state on the way, not of the first.
            given = batch.conditions.repeat(batch.windows)
            context = self.model.read(u, given)
        else:
            context = self.model.read(batch.context, batch.conditions).repeat(batch.windows)
        if batch.noise is not None:
            spread = (..., *(None,) * (u.ndim - 2))
            scale = self.stage.noise * batch.conditions.increment.repeat_interleave(batch.windows, 0)
            u = u + batch.noise * (scale * context.mask)[spread]
        task, features, read = u.new_zeros(()), None, None
        if self.alignment.aligns and not self.stage.task_weight:
            return task, *self._aligned_features(self._language_model().tokenised(u, context), context)
        steps = batch.frames.shape[1] - 1
        for step in range(steps):
            if refresh and step and step % refresh == 0:
                context = self.model.read(u, given)
            if step == 0 and self.alignment.aligns:
                u, tokens = self._language_model().advance(u, context)
                features, read = self._aligned_features(tokens, context)
            else:
                u = self.model(u, context)
            task = task + self.model.task_loss(u, batch.frames[:, step + 1], context.mask) / steps
        return task, features, read

    def _aligned_features(self, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        model = self._language_model()
        read = model.read_features(tokens) if self.alignment.reads else None
        return model.sequence_features(tokens, context), read

    def _language_model(self) -> UPSModel:
        if not isinstance(self.model, UPSModel):
            raise TypeError("only a model with a language model can be aligned with it")
        return self.model

    def _set_learning_rates(self) -> None:
        factor = schedule(self.stage, self.step, self.done)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * factor

    @torch.no_grad()
    def _update_average(self) -> None:
        # The average forgets its start quickly: its decay grows with the steps made.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        update = get_ema_multi_avg_fn(decay)
        update(list(self.average.values()), [parameter.detach() for parameter in self.trained.values()], self.step)

    @torch.no_grad()
    def swap_average(self) -> None:
        """Exchanges the trained weights with their average (call again to undo)."""
        for name, parameter in self.trained.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name] = kept


def trained_parameters(model: Operator, *, train_body: bool) -> dict[str, nn.Parameter]:
    """What a stage trains: the body only where it is not frozen, word embeddings only where the model trains them."""
    for name, parameter in model.named_parameters():
        # Positions and layer norm of the body stay as the reference text meets them while it is frozen.
        parameter.requires_grad_(not name.startswith("body.") or train_body)
    if isinstance(model, UPSModel):
        model.metadata.embeddings.requires_grad_(train_body and model.trains_words)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def parameter_groups(trained: dict[str, nn.Parameter], stage: Stage) -> list[dict[str, object]]:
    """Body and operator, each with its peak learning rate."""
    body = [parameter for name, parameter in trained.items() if name.startswith("body.")]
    rest = [parameter for name, parameter in trained.items() if not name.startswith("body.")]
    groups: list[dict[str, object]] = [{"params": rest, "peak": stage.learning_rate}]
    if body:
        groups.append({"params": body, "peak": stage.body_learning_rate})
    return groups


def schedule(stage: Stage, step: int, done: float) -> float:
    """Linear warm-up to one, then as the stage says; `done` is the fraction of the stage behind."""
    if stage.warmup_share:
        if done < stage.warmup_share:
            return max(done, 1 / (stage.steps or MANY_STEPS)) / stage.warmup_share
        done = (done - stage.warmup_share) / (1 - stage.warmup_share)
    elif stage.minutes:
        if step < stage.warmup and done < WARMUP_SHARE:
            return max((step + 1) / stage.warmup, done / WARMUP_SHARE)
    elif step < stage.warmup:
        return (step + 1) / stage.warmup
    else:
        done = (step - stage.warmup) / max(stage.steps - stage.warmup, 1)
    if stage.schedule == "constant":
        return 1.0
    if stage.schedule == "steps":
        return STEP_DECAY ** int(STEPS_DOWN * done)
    return 0.5 * (1 + math.cos(math.pi * done)) if stage.schedule == "cosine" else 1 - done


def scheduled_unroll(stage: Stage, done: float) -> int:
    """Steps unrolled where the fraction `done` of the stage is behind."""
    return [steps for start, steps in stage.unroll if start <= done][-1]


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        stage: index of the stage in progress; step: optimiser steps done in it.
        best, best_at: validation score of the model that is kept (lower is better) and where it was reached.
        seconds: spent in training steps (`loop.clock`), of all stages and of the stage in progress.
    """

    stage: int = 0
    step: int = 0
    best: float = float("inf")
    best_at: str = ""
    seconds: float = 0.0
    stage_seconds: float = 0.0


def save_state(folder: Path, trainer: StageTrainer, progress: Position) -> None:
    """Writes the whole state; a kill at any moment leaves the old or the new one."""
    tensors = {f"model.{name}": value for name, value in trainer.model.state_dict().items() if torch.is_tensor(value)}
    tensors |= {f"average.{name}": value for name, value in trainer.average.items()}
    tensors |= {f"alignment.{name}": value for name, value in trainer.alignment.state().items()}
    for index, state in trainer.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
    progress.step, progress.stage_seconds = trainer.step, trainer.seconds
    part = folder / f"{STATE_FILE}.part"
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(contiguous, part, metadata={"progress": json.dumps(asdict(progress))})
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(part, folder / STATE_FILE)


def read_position(folder: Path) -> Position | None:
    """Where the run in `folder` stands, None if it has not started."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as handle:
        return Position(**json.loads(handle.metadata()["progress"]))


def load_state(folder: Path, trainer: StageTrainer) -> None:
    """Puts a trainer of the same stage exactly where `save_state` left it.

    Raises:
        UserError: ``run_exists`` where its weights have other names.
    """
    with safe_open(folder / STATE_FILE, framework="pt") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        progress = json.loads(handle.metadata()["progress"])
    average = _part(tensors, "average.")
    if average.keys() != trainer.average.keys():
        raise UserError(
            "run_exists",
            f"{folder} holds a run of another version of this package",
            hint="finish it with that version, or start it afresh with --fresh",
        )
    trainer.model.load_state_dict(_part(tensors, "model."), strict=False)
    for name, value in average.items():
        trainer.average[name].copy_(value)
    trainer.alignment.load_state(_part(tensors, "alignment."))
    optimiser = trainer.optimiser.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, "optimiser.").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    trainer.optimiser.load_state_dict({**optimiser, "state": state})
    trainer.step = progress["step"]
    trainer.seconds = progress.get("stage_seconds", 0.0)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
