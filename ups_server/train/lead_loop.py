"""The optimiser steps of a model of lead times, and the state that a training resumes from, exactly."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ups_server.model.lead import LeadModel, Problems
from ups_server.train.loop import clock

STATE = "state.safetensors"
LEAST_CHANGE = 0.03
"""Of a field's deviation from its mean: a smaller change counts as this in the loss."""
LEAST_LEFT = 0.3
"""Of its change: less left of a field counts as this in the loss."""
WORST = 5.0
"""A relative error counts by its logarithm from here on: one sample does not lead a step, and none is given up."""


@dataclass(frozen=True)
class Sample:
    """A batch of triples of one family.

    Attributes:
        states: (B, 3, X..., N) in the slots of the superspace. leads: (B, 2), from each to the next.
        own: is the model's own state to be gone on from?
    """

    states: Tensor
    leads: Tensor
    given: Problems
    own: bool

    def to(self, device: torch.device) -> "Sample":
        if device.type == "cpu":
            return self
        return Sample(self.states.to(device), self.leads.to(device), self.given.to(device), self.own)


def relative_change(predicted: Tensor, target: Tensor, before: Tensor, slots: Tensor) -> Tensor:
    """Root mean square error over that of the true change, per sample and field; the mean over the fields there are.

    A field that fades changes by more than what is left of it: then what is left counts.

    Shapes: states (B, X..., N); slots (B, N).
    """
    axes = tuple(range(1, target.ndim - 1))
    error, change = (predicted - target).square().mean(axes), (target - before).square().mean(axes)
    deviation = (target - target.mean(axes, keepdim=True)).square().mean(axes)
    scale = change.minimum(target.square().mean(axes) + LEAST_LEFT**2 * change) + LEAST_CHANGE**2 * deviation
    ratio = (error / (scale + 1e-12) + 1e-10).sqrt()
    ratio = ratio.minimum(WORST * (1 + (ratio / WORST).clamp_min(1.0).log()))
    return (ratio * slots).sum() / slots.sum()


@dataclass
class Progress:
    """Steps made, and seconds of a core that they took."""

    step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step: it rises, stays, and falls to zero before an end that is named.

    Attributes:
        steps: where it ends; 0: nowhere. cooldown: steps over which it falls.
    """

    rate: float
    warmup: int
    steps: int = 0
    cooldown: int = 0

    def at(self, step: int) -> float:
        share = min(1.0, (step + 1) / self.warmup)
        if self.steps and self.cooldown:
            share = min(share, max(0.0, (self.steps - step) / self.cooldown))
        return self.rate * share


class LeadTrainer:
    """A model, its optimiser and the moving average of its weights."""

    def __init__(
        self, model: LeadModel, schedule: Schedule, weight_decay: float, clip: float, ema: float, device: torch.device
    ) -> None:
        self.model, self.schedule, self.clip, self.ema, self.device = model.to(device), schedule, clip, ema, device
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, schedule.rate, betas=(0.9, 0.98), fused=True)
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.progress = Progress()

    def step(self, drawn: Sample) -> float:
        """One optimiser step; returns its loss."""
        began = clock(self.device)
        step, drawn = self.progress.step, drawn.to(self.device)
        states, leads, given = drawn.states, drawn.leads, drawn.given
        start, lead, before, target = states[:, 0], leads[:, 0], states[:, 0], states[:, 1]
        if drawn.own:
            with torch.no_grad():
                made = self._advanced(start, lead, given)
            if made.isfinite().all():
                start, lead, before, target = made, leads[:, 1], states[:, 1], states[:, 2]
        loss = relative_change(self._advanced(start, lead, given), target, before, given.slots)
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.at(step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        if norm.isfinite():
            self.optimiser.step()
        self.progress.step += 1
        decay = min(self.ema, (1 + step) / (10 + step))
        update = get_ema_multi_avg_fn(decay)
        update(list(self.average.values()), [p.detach() for p in self.model.parameters()], self.progress.step)
        value = loss.item()
        self.progress.seconds += clock(self.device) - began
        return value

    def _advanced(self, state: Tensor, lead: Tensor, given: Problems) -> Tensor:
        """On an accelerator in bfloat16, but for what must stay exact (see `model.latent`)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type != "cpu"):
            found: Tensor = self.model(state, lead, given)
        return found.float()

    def averaged(self) -> LeadModel:
        """A copy with the averaged weights, for inference."""
        model = LeadModel(self.model.config, self.model.number_names.shape[1])
        state = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        model.load_state_dict({**state, **{name: value.cpu() for name, value in self.average.items()}})
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def swap(self) -> None:
        """The average becomes the model's weights, and these the average."""
        for name, parameter in self.model.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name] = kept

    def save(self, folder: Path) -> None:
        """The state, replaced as a whole."""
        tensors = {f"model.{name}": value.detach() for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
        part = folder / f"{STATE}.part"
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        save_file(contiguous, part, metadata={"progress": json.dumps(asdict(self.progress))})
        os.replace(part, folder / STATE)

    def load(self, folder: Path) -> bool:
        """Goes on from the state in a folder; False where there is none."""
        if not (folder / STATE).exists():
            return False
        with safe_open(folder / STATE, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            self.progress = Progress(**json.loads(handle.metadata()["progress"]))
        self.model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
        for name, value in self.average.items():
            value.copy_(tensors[f"average.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        return True
