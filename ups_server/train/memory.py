"""Will it fit? An estimate of a training's memory made before it starts, and what the machine has left."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ups_server.align import reads_twice
from ups_server.errors import UserError
from ups_server.model.body import MAX_TOKENS
from ups_server.model.operator import Operator, UPSModel
from ups_server.train.config import FamilyData, Stage

FLOAT = 4
COPIES = 4
"""Of a trained parameter besides its weight: gradient, average, the optimiser's two moments."""
LOADED = 3
"""Copies of all weights when the tuned model is scored: the model that was trained, the best one, and its file."""
LAYER_TENSORS = 10
"""Activations a Fourier layer keeps for the backward pass, in units of its output (measured with torch 2.13)."""
BODY_TENSORS = 20
"""The same of a transformer layer, in units of its output, attention aside."""
BASE_BYTES = 400 * 2**20
"""Libraries and the process itself."""


def training_bytes(
    model: Operator, trained: Iterable[Tensor], stage: Stage, data: FamilyData, points: int, kept: float = 1.0
) -> int:
    """Peak memory of a stage on batches of `data` with `points` points a state, in bytes.

    Args:
        trained: the parameters that the stage trains.
        kept: share of the activations that the backward pass needs.
    """
    weights = size(model.parameters()) + size(model.buffers())
    step = weights + COPIES * size(trained) + round(kept * activation_bytes(model, stage, data, points))
    return BASE_BYTES + max(step, LOADED * weights)


def activation_bytes(model: Operator, stage: Stage, data: FamilyData, points: int) -> int:
    """What a step of full training keeps for its backward pass: of the operator in every step, of the body once or,
    where every step leads through it, as often."""
    config = model.config
    rows = data.trajectories * data.windows
    steps = rows * min(max(steps for _, steps in stage.unroll), data.unroll)
    readings = 0
    if isinstance(model, UPSModel) and config.reading.body and stage.body:
        readings = data.trajectories
        if reads_twice(stage.alignment):  # a step and a reading beside the others
            steps, readings = steps + rows, 2 * readings
        if config.through_body:
            points, readings = config.resolution**config.superspace.max_dimensions, steps
        else:
            steps += readings  # a reading begins with a step
    layers = config.embedder.n_layers * LAYER_TENSORS + 4
    body = body_bytes(model) * readings if isinstance(model, UPSModel) else 0
    return steps * layers * config.embedder.hidden_channels * points * FLOAT + body


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def body_bytes(model: UPSModel) -> int:
    """Activations that the language model keeps for the backward pass of one reading."""
    shape = model.body.encoder.config
    length = model.config.state_tokens + MAX_TOKENS
    hidden = BODY_TENSORS * model.body.size + 2 * length * int(shape.num_attention_heads)
    return int(shape.num_hidden_layers) * length * hidden * FLOAT


def available_bytes(device: str) -> int | None:
    """Memory that is free on the device; None where nobody says."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path(os.sep, "proc", "meminfo")
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def check_memory(needed: int, available: int | None) -> None:
    """Raises UserError ``too_large`` for what cannot fit."""
    if available is not None and needed > available:
        raise UserError(
            "too_large",
            "this training does not fit into memory",
            got=f"about {needed / 2**20:.0f} MiB",
            expected=f"at most {available / 2**20:.0f} MiB",
            hint="take a smaller model, or a machine with more memory",
        )
