"""Variants of a training configuration: single fields changed, named by their dotted path."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from ups_server.errors import UserError
from ups_server.train.config import TrainConfig


def overridden(config: TrainConfig, changes: Mapping[str, object]) -> TrainConfig:
    """`config` with e.g. ``{"stage1.noise": 0.01, "model.n_modes": 24}`` in place of what it says.

    Raises:
        UserError: ``invalid_config``.
    """
    document = config.model_dump()
    for path, value in changes.items():
        _put(document, path, value)
    try:
        return TrainConfig.model_validate(document)
    except ValidationError as error:
        raise UserError("invalid_config", f"{config.name} cannot be changed so: {error}", got=dict(changes)) from error


def parse_changes(entries: Sequence[str]) -> dict[str, object]:
    """`["model.n_modes=24"]` to `{"model.n_modes": 24}`; values are YAML.

    Raises:
        UserError: ``invalid_config``.
    """
    changes: dict[str, object] = {}
    for entry in entries:
        path, separator, text = entry.partition("=")
        if not separator or not path.strip():
            raise UserError("invalid_config", "a change is given as PATH=VALUE", got=entry, expected="model.n_modes=24")
        changes[path.strip()] = yaml.safe_load(text)
    return changes


def _put(document: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for name in parents:
        inner = document.get(name)
        if not isinstance(inner, dict):
            raise UserError("invalid_config", "no such part of a training configuration", got=path)
        document = inner
    document[last] = value
