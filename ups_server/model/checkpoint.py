"""Checkpoints: an operator, deltas of some of its families, adapters; and the folders that they lie in.

A folder holds a JSON config, safetensors weights, the language model's config and tokenizer; no pickle. A baseline has
no language model, and its folder none of that. Deltas (`model.deltas`) lie beside the shared weights. A folder of
adapters (`model.lora`) refers to the model they belong to, by its id; models made of adapters of one base share its
weights in memory.

A folder of a model of lead times (`model.lead`) holds its operators by dimension, in half precision, and in
the place of its language model what that made of the texts of its terms: it is frozen, and the texts are known.
"""

import logging
import os
import re
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ups_server.catalog import adapted_already, base_folder
from ups_server.errors import UserError
from ups_server.model import deltas, lora
from ups_server.model.baselines import BASELINES
from ups_server.model.body import body_folder, empty_body, load_tokenizer, pretrained_body
from ups_server.model.config import CONFIG_FILE, UPSConfig
from ups_server.model.cross_modal import PAPER_LIFTING, PatchOperator, UPSPaper
from ups_server.model.deltas import Deltas, in_levels
from ups_server.model.lead import LeadModel, LeadSystem
from ups_server.model.lead_config import LeadConfig
from ups_server.model.operator import Operator, UPSModel
from ups_server.model.ups import UPS

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
LANGUAGE_FOLDER = "language_model"
HALVED = re.compile(r"^body\.|\.spectral\.")
"""Stored in half precision: the language model, and the matrices of wave numbers."""
EARLIER = {
    "conditioner.rate_of_value.": "propagator.of_value.",
    "conditioner.rate.": "propagator.of_problem.",
    "conditioner.drift.": "propagator.of_means.",
    "conditioner.carry.": "transport.of_problem.",
    "displace.": "transport.of_features.",
    "conditioner.retain.": "mean_correction.of_problem.",
}
"""What parts of a model were called in the checkpoints of version 6 and before, and what they are called now."""
TEXTS, OPERATORS = "texts", {1: "line.", 2: "plane."}
"""Of the weights of a model of lead times: the features of its texts, and what the operators' begin with."""
SCALE = ".scale"
"""Follows the name of a matrix that is stored in eight bits; `in_levels`."""

_bases: "weakref.WeakValueDictionary[tuple[str, str], TrainedModel]" = weakref.WeakValueDictionary()
"""Bases by (checksum, device), for as long as a model lives that shares their weights."""


@dataclass(eq=False)
class TrainedModel:
    """A trained model.

    Attributes:
        operator: with the weights that all families share.
        deltas: of the families that have any, what is added to these.
        adapters: of an operator whose weights are those of another and low-rank adapters.
        base: whose weights these are, kept alive for the next model that shares them.
    """

    operator: Operator
    deltas: dict[str, Deltas] = field(default_factory=dict)
    adapters: lora.AdapterSettings | None = None
    base: "TrainedModel | None" = None

    @classmethod
    def of(cls, model: "Operator | TrainedModel") -> "TrainedModel":
        """An operator by itself is a checkpoint without deltas or adapters."""
        return cls(model) if isinstance(model, Operator) else model

    @property
    def config(self) -> UPSConfig:
        return self.operator.config

    @config.setter
    def config(self, config: UPSConfig) -> None:
        self.operator.config = config

    def of_family(self, family: str) -> "TrainedModel":
        """The model of one family: itself where the family has no deltas.

        It shares all other weights with this one, which must not be changed any more.
        """
        if family not in self.deltas:
            return self
        operator = deltas.with_deltas(self.operator, self.deltas[family])
        return TrainedModel(operator, adapters=self.adapters, base=self.base)

    def equip(self, base: Path) -> None:
        """Adds low-rank adapters that change nothing yet; its weights are those of the folder `base`.

        Raises:
            UserError: ``adapted_already``.
        """
        if self.adapters is not None:
            raise adapted_already(base.name, self.adapters.base.id)
        found = lora.Base(base.name, lora.digest(base / WEIGHTS_FILE), str(base.resolve()))
        self.adapters = lora.equip(self.operator, found)

    def merge(self) -> None:
        """Turns adapters into weights, so that the model is one like any other and shares nothing that changes."""
        if self.adapters is None:
            return
        lora.merge(self.operator)
        for parameter in self.operator.parameters():
            parameter.data = parameter.data.clone()
        self.adapters = self.base = None


def create(config: UPSConfig, *, random_body: bool = False, language_model: Path | None = None) -> Operator:
    """A new model around the pretrained language model (or, as a control, around random weights), or a new baseline.

    Raises:
        UserError: ``language_model_missing``.
    """
    if not config.has_language_model:
        return BASELINES[config.operator](config)
    folder = body_folder(language_model)
    load = empty_body if random_body else pretrained_body
    return around(config, load(folder, config.reading.layers), load_tokenizer(folder))


def around(config: UPSConfig, body: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> UPSModel:
    """The operator that a config describes, around a language model."""
    operators: dict[str, type[UPSModel]] = {"conditioned": UPS, "paper": UPSPaper, "patch": PatchOperator}
    return operators[config.operator](config, body, tokenizer)


def save_pretrained(checkpoint: TrainedModel | Operator, folder: Path) -> None:
    """Writes a self-contained model folder, or adapters alone; the largest weights in fewer bits."""
    checkpoint = TrainedModel.of(checkpoint)
    model = checkpoint.operator
    if checkpoint.adapters is not None:
        lora.save_adapters(model, checkpoint.adapters, folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save(folder)
    if isinstance(model, UPSModel):
        language = folder / LANGUAGE_FOLDER
        model.body.encoder.config.save_pretrained(language)
        model.metadata.tokenizer.save_pretrained(language)
    ignored = isinstance(model, UPS) and model.ignores_body
    tensors = {}
    for name, value in model.state_dict().items():
        if ignored and unused(model, name) and value.ndim > 1:
            # In eight bits, row by row: what the language model reads changes nothing.
            tensors[name], tensors[name + SCALE] = in_levels(value, torch.int8)
        elif isinstance(value, torch.Tensor):
            tensors[name] = value.half() if HALVED.search(name) and value.is_floating_point() else value
    tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
    known = {family: weights for family, weights in checkpoint.deltas.items() if family in model.config.families}
    save_file(tensors | deltas.as_tensors(known), folder / WEIGHTS_FILE, metadata={"format": "pt"})


def unused(model: Operator, name: str) -> bool:
    """Is this a weight of the language model's layers?"""
    inside = isinstance(model, UPSModel) and model.body.in_layer(name.removeprefix("body."))
    return inside and name.startswith("body.") and name.endswith("weight")


def from_pretrained(folder: Path, device: str | torch.device = "cpu") -> TrainedModel:
    """Loads a model folder for inference (float32, eval mode).

    Raises:
        UserError: ``not_a_model`` where the folder or its weights are not a checkpoint of this package;
            ``unknown_model`` or ``base_changed`` where the base of adapters is not what it was.
    """
    try:
        if (folder / lora.ADAPTER_FILE).is_file():
            return _from_adapters(folder, device)
        return _whole(folder, device)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever libraries say of what is written there
        logger.exception("%s cannot be loaded", folder.name)
        raise UserError(
            "not_a_model", f"the model {folder.name} cannot be loaded", got=f"{type(error).__name__}: {error}"[:500]
        ) from error


def _whole(folder: Path, device: str | torch.device) -> TrainedModel:
    """A model with all its weights."""
    if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise UserError("not_a_model", "no model here", got=folder.name, expected=f"{CONFIG_FILE} and {WEIGHTS_FILE}")
    config = UPSConfig.load(folder)
    model = _empty(config, folder / LANGUAGE_FOLDER)
    stored = with_names_of_today(weights_in(folder))
    if not config.step.propagator:  # it had weights all the same
        stored = {name: value for name, value in stored.items() if not name.startswith("propagator.")}
    beside = {name: value for name, value in stored.items() if name.startswith(deltas.PREFIX)}
    tensors = {
        name: value.float() if value.is_floating_point() else value
        for name, value in stored.items()
        if name not in beside
    }
    if isinstance(model, UPSPaper) and PAPER_LIFTING in tensors:  # checkpoints before static fields were inputs
        lacking = model.state_dict()[PAPER_LIFTING].shape[1] - tensors[PAPER_LIFTING].shape[1]
        tensors[PAPER_LIFTING] = F.pad(tensors[PAPER_LIFTING], (0, 0, 0, max(0, lacking)))
    expected = {name for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    if expected != tensors.keys():
        raise UserError("not_a_model", "weights do not match the config", got=sorted(expected ^ tensors.keys())[:5])
    model.load_state_dict(tensors, strict=False)
    return TrainedModel(model.to(device).eval(), deltas.from_tensors(beside, model))


def weights_in(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder by name, those in eight bits multiplied by their scales."""
    stored = load_file(folder / WEIGHTS_FILE)
    for name in [name for name in stored if name + SCALE in stored]:
        stored[name] = stored[name] * stored.pop(name + SCALE)[:, None]
    return stored


def with_names_of_today(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights, or what is stored of deltas and adapters of them, by the names that a model gives them now."""
    pattern = re.compile(rf"(?<![^.])({'|'.join(map(re.escape, EARLIER))})")
    return {pattern.sub(lambda found: EARLIER[found[0]], name): value for name, value in stored.items()}


def place_adapters(folder: Path, out: Path) -> None:
    """Has adapters in `folder` say where their base is as seen from `out`, where they will be."""
    if (folder / lora.ADAPTER_FILE).is_file():
        found = lora.read_settings(folder)
        if found.base.folder is not None:
            base = replace(found.base, folder=os.path.relpath(folder / found.base.folder, out))
            lora.write_settings(replace(found, base=base), folder)


def _from_adapters(folder: Path, device: str | torch.device) -> TrainedModel:
    settings = lora.read_settings(folder)
    wanted = settings.base
    near = None if wanted.folder is None else folder / wanted.folder
    found = base_folder(folder, wanted.id, near)
    checksum = lora.digest(found / WEIGHTS_FILE)
    if checksum != wanted.sha256:
        raise UserError(
            "base_changed",
            f"{folder.name} belongs to other weights of {wanted.id}",
            got=checksum,
            expected=wanted.sha256,
            hint="tune again, or put the former version back",
        )
    key = (checksum, str(device))
    base = _bases.get(key)
    if base is None:
        base = from_pretrained(found, device)
        _bases[key] = base
    config = UPSConfig.load(folder)
    (family,) = config.families
    stored = with_names_of_today(load_file(folder / lora.ADAPTER_WEIGHTS))
    model = lora.restore(base.of_family(family).operator, settings, stored)
    model.config = config
    return TrainedModel(model.eval(), adapters=settings, base=base)


def _empty(config: UPSConfig, language: Path) -> Operator:
    """The architecture of a model folder, its weights to be filled in."""
    if not config.has_language_model:
        return BASELINES[config.operator](config)
    body, tokenizer = empty_body(language), load_tokenizer(language)
    words = int(body.config.vocab_size)
    if not len(tokenizer.all_special_tokens) < len(tokenizer) <= words:
        raise UserError(
            "not_a_model",
            "the tokenizer has no words, or more than the language model",
            got=len(tokenizer),
            expected=words,
        )
    return around(config, body, tokenizer)


def save_lead(system: LeadSystem, folder: Path) -> None:
    """Writes a self-contained model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    system.config.save(folder)
    tensors = {TEXTS: torch.stack([system.features[text] for text in system.config.texts])}
    for ndim, operator in system.operators.items():
        for name, value in operator.state_dict().items():
            tensors[OPERATORS[ndim] + name] = value.half() if value.is_floating_point() else value
    contiguous = {name: value.contiguous().cpu() for name, value in tensors.items()}
    save_file(contiguous, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_lead(folder: Path, device: str | torch.device = "cpu") -> LeadSystem:
    """Loads a model folder for inference (float32, eval mode).

    Raises:
        UserError: ``not_a_model`` where the folder or its weights are not a checkpoint of this package.
    """
    if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise UserError("not_a_model", "no model here", got=folder.name, expected=f"{CONFIG_FILE} and {WEIGHTS_FILE}")
    config = LeadConfig.load(folder)
    stored = weights_in(folder)
    operators = {
        ndim: LeadModel(shape, config.text_size)
        for ndim, shape in ((1, config.line), (2, config.plane))
        if shape is not None
    }
    parts = {OPERATORS[ndim]: operator for ndim, operator in operators.items()}
    expected = {TEXTS} | {prefix + name for prefix, part in parts.items() for name in part.state_dict()}
    if expected != stored.keys():
        raise UserError("not_a_model", "weights do not match the config", got=sorted(expected ^ stored.keys())[:5])
    if stored[TEXTS].shape != (len(config.texts), config.text_size):
        raise UserError("not_a_model", "the features of texts do not match the config", got=tuple(stored[TEXTS].shape))
    for prefix, part in parts.items():
        found = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
        part.load_state_dict(
            {name: value.float() if value.is_floating_point() else value for name, value in found.items()}
        )
        part.eval().requires_grad_(False)
    return LeadSystem(config, operators, dict(zip(config.texts, stored[TEXTS].float(), strict=True))).to(device)
