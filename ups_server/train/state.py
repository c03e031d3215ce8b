"""The state of a training run on disk: safetensors and JSON, replaced atomically, enough to go on exactly."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ups_server.train.loop import StageTrainer

STATE_FILE = "state.safetensors"


@dataclass
class Progress:
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


def save_state(folder: Path, trainer: StageTrainer, progress: Progress) -> None:
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


def read_progress(folder: Path) -> Progress | None:
    """Where the run in `folder` stands, None if it has not started."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as handle:
        return Progress(**json.loads(handle.metadata()["progress"]))


def load_state(folder: Path, trainer: StageTrainer) -> None:
    """Puts a trainer of the same stage exactly where `save_state` left it."""
    with safe_open(folder / STATE_FILE, framework="pt") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        progress = json.loads(handle.metadata()["progress"])
    trainer.model.load_state_dict(_part(tensors, "model."), strict=False)
    for name, value in _part(tensors, "average.").items():
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
