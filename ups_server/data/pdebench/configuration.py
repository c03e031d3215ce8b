"""The YAML configuration that some layouts carry as attribute `config` of a group or file."""

from collections.abc import Mapping
from typing import Any

import h5py
import yaml

from ups_server.data import hdf5
from ups_server.data.pdebench.card import Card
from ups_server.data.pdebench.identify import same_number
from ups_server.errors import UserError

CONFIG = "config"
MAX_CONFIG_CHARACTERS = 65536


def read_config(group: h5py.Group) -> dict[str, Any]:
    """The configuration of a group, empty where it has none.

    Raises:
        UserError: ``wrong_attribute`` where it is no YAML mapping.
    """
    content = hdf5.text(group.attrs, CONFIG)
    if content is None:
        return {}
    try:
        config = yaml.safe_load(content[:MAX_CONFIG_CHARACTERS])
    except yaml.YAMLError as error:
        raise UserError("wrong_attribute", f"the configuration of group {group.name} is not YAML") from error
    if not isinstance(config, dict) or not isinstance(config.get("sim", {}), dict):
        raise UserError("wrong_attribute", f"the configuration of group {group.name} is no mapping")
    return config


def config_coefficients(settings: Mapping[str, Any], card: Card, where: str) -> dict[str, float]:
    """The coefficients that a configuration tells.

    Raises:
        UserError: ``coefficient_mismatch`` where it describes another equation, ``wrong_attribute``.
    """
    for key, expected in card.constants.items():
        if key in settings and not same_number(_number(settings, key), expected):
            raise UserError(
                "coefficient_mismatch",
                f"{where} solves another equation: {key} is fixed in {card.family}",
                got=settings[key],
                expected=expected,
            )
    return {name: _number(settings, key) for name, key in card.config.items() if key in settings}


def _number(settings: Mapping[str, Any], key: str) -> float:
    try:
        return float(settings[key])
    except (TypeError, ValueError):
        raise UserError("wrong_attribute", f"{key} in the configuration is no number", got=settings[key]) from None
