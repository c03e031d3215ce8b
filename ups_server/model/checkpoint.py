"""Model folders: JSON config, safetensors weights, the language model's config and tokenizer. No pickle.

A baseline has no language model, and its folder none of that.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ups_server.errors import UserError
from ups_server.model.baselines import BASELINES
from ups_server.model.body import default_folder, empty_body, load_tokenizer, pretrained_body
from ups_server.model.config import CONFIG_FILE, UPSConfig
from ups_server.model.ups import Operator, UPSModel, build

WEIGHTS_FILE = "model.safetensors"
LANGUAGE_FOLDER = "language_model"


def create(config: UPSConfig, *, random_body: bool = False, language_model: Path | None = None) -> Operator:
    """A new model around the pretrained language model (or, as a control, around random weights), or a new baseline.

    Raises:
        UserError: ``language_model_missing``.
    """
    if not config.has_language_model:
        return BASELINES[config.operator](config)
    folder = language_model or default_folder()
    load = empty_body if random_body else pretrained_body
    return build(config, load(folder, config.body_layers), load_tokenizer(folder))


def save_pretrained(model: Operator, folder: Path) -> None:
    """Writes a self-contained model folder. The language model's weights go in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save(folder)
    if isinstance(model, UPSModel):
        language = folder / LANGUAGE_FOLDER
        model.body.encoder.config.save_pretrained(language)
        model.metadata.tokenizer.save_pretrained(language)
    tensors = {
        name: (value.half() if name.startswith("body.") and value.is_floating_point() else value).contiguous().cpu()
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def from_pretrained(folder: Path, device: str | torch.device = "cpu") -> Operator:
    """Loads a model folder for inference (float32, eval mode).

    Raises:
        UserError: ``not_a_model`` where the folder or its weights are not a checkpoint of this package.
    """
    if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise UserError("not_a_model", "no model here", got=folder.name, expected=f"{CONFIG_FILE} and {WEIGHTS_FILE}")
    config = UPSConfig.load(folder)
    model = _empty(config, folder / LANGUAGE_FOLDER)
    stored = load_file(folder / WEIGHTS_FILE)
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
    expected = {name for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    if expected != tensors.keys():
        raise UserError("not_a_model", "weights do not match the config", got=sorted(expected ^ tensors.keys())[:5])
    model.load_state_dict(tensors, strict=False)
    return model.to(device).eval()


def _empty(config: UPSConfig, language: Path) -> Operator:
    """The architecture of a model folder, its weights to be filled in."""
    if not config.has_language_model:
        return BASELINES[config.operator](config)
    return build(config, empty_body(language), load_tokenizer(language))
