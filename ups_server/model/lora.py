"""Low-rank adapters (LoRA): what tuning adds to frozen weights, kept apart from them.

Source: Hu et al. 2021, "LoRA": ``W = W_0 + (alpha / r) B A`` with B zero at first. Written as a parametrisation of the
weight, and not as a layer in the place of another: Fourier layers use the weights of their pointwise layers directly,
which an exchanged layer (as of the package peft) would not notice.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from ups_server.catalog import read_document
from ups_server.errors import UserError
from ups_server.model.operator import Operator

ADAPTER_FILE = "adapter.json"
ADAPTER_WEIGHTS = "adapter.safetensors"
RANK = 8
ALPHA = 16.0
ATTENTION = (
    *("query", "key", "value", "attention.output.dense", "attention.dense"),
    *("q_proj", "k_proj", "v_proj", "out_proj", "o_proj", "query_proj", "key_proj", "value_proj"),
    *("q_lin", "k_lin", "v_lin", "attention.out_lin", "attn.q", "attn.k", "attn.v", "attn.o"),
    *("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o"),
    *("attn.Wqkv", "attn.Wo", "attn.c_attn", "attn.c_proj"),
)
"""Ends of the names of attention projections in the language models of `model.architectures`."""
MARK = "parametrizations.weight.0."


class LowRank(nn.Module):
    """``W -> W + scale B A`` for weights (out, in), or (in, out): A random, B zero, of rank r."""

    def __init__(self, out: int, inputs: int, rank: int, alpha: float) -> None:
        super().__init__()
        rank = min(rank, out, inputs)
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(out, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * self.up @ self.down


@dataclass(frozen=True)
class Base:
    """The model that adapters belong to: its id, and what it must be.

    Attributes:
        folder: where it was, relative to the adapters' folder; looked for by its id too.
    """

    id: str
    sha256: str
    folder: str | None = None


def adapted_layers(model: Operator) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    """The operator's linear and pointwise layers, and the attention projections of the language model."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | Conv1D) and (not name.startswith("body.") or name.endswith(ATTENTION)):
            yield name, layer


@dataclass(frozen=True)
class AdapterSettings:
    """What a model with adapters remembers of them."""

    base: Base
    rank: int
    alpha: float


def equip(model: Operator, base: Base, rank: int = RANK, alpha: float = ALPHA, seed: int = 0) -> AdapterSettings:
    """Adds adapters that change nothing yet. `base` is what a folder of them will refer to."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _, layer in list(adapted_layers(model)):
            out, inputs = layer.weight.shape
            low_rank = LowRank(out, inputs, rank, alpha).to(layer.weight.device)
            parametrize.register_parametrization(layer, "weight", low_rank)
    return AdapterSettings(base, rank, alpha)


def adapter_parameters(model: Operator) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if MARK in name}


def merge(model: Operator) -> None:
    """Turns the adapters into weights, so that the model is one like any other."""
    for layer in list(model.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def save_adapters(model: Operator, settings: AdapterSettings, folder: Path) -> None:
    """Writes configuration and adapters; the base stays where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save(folder)
    write_settings(settings, folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in adapter_parameters(model).items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def write_settings(settings: AdapterSettings, folder: Path) -> None:
    (folder / ADAPTER_FILE).write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")


def read_settings(folder: Path) -> AdapterSettings:
    """Raises UserError ``not_a_model``."""
    try:
        found = read_document(folder / ADAPTER_FILE)
        return AdapterSettings(Base(**found["base"]), int(found["rank"]), float(found["alpha"]))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError("not_a_model", "the adapters here cannot be read", got=str(error)) from error


def restore(base: Operator, settings: AdapterSettings, stored: Mapping[str, Tensor]) -> Operator:
    """The operator of stored adapters. It shares the weights of `base`, which must not be changed any more."""
    model = base.sharing_weights()
    equip(model, settings.base, settings.rank, settings.alpha)
    expected = adapter_parameters(model)
    if stored.keys() != expected.keys():
        raise UserError(
            "not_a_model", "the adapters do not match the base", got=sorted(stored.keys() ^ expected.keys())[:5]
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(stored[name])
    return model


def digest(weights: Path) -> str:
    """The checksum by which adapters know their base."""
    with weights.open("rb") as handle:
        found = sha256()
        while part := handle.read(2**20):
            found.update(part)
    return found.hexdigest()
