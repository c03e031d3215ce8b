"""Folders of models of lead times: JSON config, safetensors weights, the language model that reads the terms.

The weights lie in half precision; matrices of the language model in eight bits, row by row: what it is asked for are
features of a few texts.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ups_server.errors import UserError
from ups_server.model.body import empty_body, load_tokenizer, text_features
from ups_server.model.checkpoint import LANGUAGE_FOLDER, SCALE, WEIGHTS_FILE
from ups_server.model.config import CONFIG_FILE
from ups_server.model.deltas import in_levels
from ups_server.model.lead import LeadModel
from ups_server.model.lead_config import LeadConfig
from ups_server.model.scales import NUMBERS

READER = "reader."


class LeadSystem:
    """The operators of a model by dimension, and the language model that reads its texts."""

    def __init__(
        self,
        config: LeadConfig,
        operators: Mapping[int, LeadModel],
        reader: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.config, self.operators, self.reader, self.tokenizer = config, dict(operators), reader, tokenizer
        self._features = dict[str, Tensor]()

    def features(self, texts: tuple[str, ...]) -> Mapping[str, Tensor]:
        """The feature (E,) of every text; each is read once."""
        new = [text for text in texts if text not in self._features]
        if new:
            self._features |= text_features(self.reader, self.tokenizer, new)
        return self._features

    def read_names(self) -> None:
        """Has the operators know the names of what they are told beside the terms."""
        names = self.features(NUMBERS)
        for operator in self.operators.values():
            operator.number_names.copy_(torch.stack([names[name] for name in NUMBERS]))

    def to(self, device: str | torch.device) -> "LeadSystem":
        for operator in self.operators.values():
            operator.to(device)
        self.reader.to(torch.device(device))  # type: ignore[arg-type]
        self._features = {text: feature.to(device) for text, feature in self._features.items()}
        return self


def save_lead(system: LeadSystem, folder: Path) -> None:
    """Writes a self-contained model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    system.config.save(folder)
    system.reader.config.save_pretrained(folder / LANGUAGE_FOLDER)
    system.tokenizer.save_pretrained(folder / LANGUAGE_FOLDER)
    tensors = dict[str, Tensor]()
    for name, value in system.reader.state_dict().items():
        if value.ndim > 1 and value.is_floating_point():
            tensors[READER + name], tensors[READER + name + SCALE] = in_levels(value, torch.int8)
        else:
            tensors[READER + name] = value
    for ndim, operator in system.operators.items():
        for name, value in operator.state_dict().items():
            tensors[f"{NAMES[ndim]}.{name}"] = value.half() if value.is_floating_point() else value
    contiguous = {name: value.contiguous().cpu() for name, value in tensors.items()}
    save_file(contiguous, folder / WEIGHTS_FILE, metadata={"format": "pt"})


NAMES = {1: "line", 2: "plane"}


def load_lead(folder: Path, device: str | torch.device = "cpu") -> LeadSystem:
    """Loads a model folder for inference (float32, eval mode).

    Raises:
        UserError: ``not_a_model`` where the folder or its weights are not a checkpoint of this package.
    """
    if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise UserError("not_a_model", "no model here", got=folder.name, expected=f"{CONFIG_FILE} and {WEIGHTS_FILE}")
    config = LeadConfig.load(folder)
    stored = load_file(folder / WEIGHTS_FILE)
    for name in [name for name in stored if name + SCALE in stored]:
        stored[name] = stored[name] * stored.pop(name + SCALE)[:, None]
    reader = empty_body(folder / LANGUAGE_FOLDER)
    operators = {
        ndim: LeadModel(shape, config.text_size)
        for ndim, shape in ((1, config.line), (2, config.plane))
        if shape is not None
    }
    parts: dict[str, torch.nn.Module] = {READER: reader}
    parts |= {f"{NAMES[ndim]}.": operator for ndim, operator in operators.items()}
    expected = {prefix + name for prefix, part in parts.items() for name in part.state_dict()}
    if expected != stored.keys():
        raise UserError("not_a_model", "weights do not match the config", got=sorted(expected ^ stored.keys())[:5])
    for prefix, part in parts.items():
        own = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
        part.load_state_dict(
            {name: value.float() if value.is_floating_point() else value for name, value in own.items()}
        )
        part.eval().requires_grad_(False)
    return LeadSystem(config, operators, reader, load_tokenizer(folder / LANGUAGE_FOLDER)).to(device)
