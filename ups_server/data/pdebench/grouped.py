"""One group a trajectory: `data` (T, X..., C), `grid/x`, `grid/t` and a YAML configuration as attribute `config`.

Groups are named after their seed; the rows are in the order of their names.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray

from ups_server.data import hdf5
from ups_server.data.pdebench.axes import grid_of, times_of
from ups_server.data.pdebench.card import CARDS, GROUPED, Card
from ups_server.data.pdebench.identify import choose_card, family_of, merge_coefficients, same_number
from ups_server.data.pdebench.reading import PdebenchSource
from ups_server.data.store import Frames, Rows
from ups_server.errors import UserError

CONFIG = "config"
MAX_CONFIG_CHARACTERS = 65536


def matches(file: h5py.File) -> bool:
    """Whether everything in the file is a group."""
    return len(file) > 0 and all(hdf5.has(file, name, h5py.Group) for name in file)


class GroupedFile(PdebenchSource):
    """The layout of diffusion-sorption, shallow water and 2-D reaction-diffusion."""

    layout = "group per trajectory"

    def __init__(self, path: Path, file: h5py.File, family: str | None, given: Mapping[str, float] | None) -> None:
        self._names = sorted(file, key=lambda name: (len(name), name))
        first = self._group(file, self._names[0])
        config = read_config(first)
        card = _choose(path, first, config, family)
        equation = family_of(card)
        axes = [f"grid/{axis}" for axis in card.axes]
        coordinates = [hdf5.vector(first, name) for name in axes]
        data = hdf5.float_dataset(first, "data", 2 + len(axes))
        if data.shape[1:-1] != tuple(map(len, coordinates)):
            got = [len(axis) for axis in coordinates]
            raise UserError("wrong_axis", "the coordinates do not fit the values", got=got, expected=data.shape)
        if data.shape[-1] != len(equation.fields):
            raise UserError(
                "wrong_shape", "data has not one channel a field", got=data.shape[-1], expected=len(equation.fields)
            )
        times = times_of(hdf5.vector(first, "grid/t"), data.shape[0], "grid/t")
        super().__init__(path, file, equation, grid_of(equation, coordinates, axes), times, len(self._names))
        self._card = card
        self._given = dict(given or {})
        self._shape = data.shape
        self._row_coefficients(0)

    @cached_property
    def coefficients(self) -> NDArray[np.float64]:
        return np.array([self._row_coefficients(row) for row in range(self.n_trajectories)]).reshape(
            self.n_trajectories, len(self.coefficient_names)
        )

    @property
    def chunk_rows(self) -> int:
        return 1

    def datasets(self) -> list[h5py.Dataset]:
        return [self._data(0)]

    def read(self, rows: Rows, frames: Frames = slice(None), stride: int = 1, first: int = 0) -> NDArray[np.float32]:
        chosen, out = self._buffer(rows, frames, stride, first)
        if not out.size:
            return out
        span = slice(int(chosen.min()), int(chosen.max()) + 1)
        index: tuple[Any, ...] = (chosen - span.start, *(slice(first, None, stride),) * self.grid.ndim)
        for target, row in zip(out, rows, strict=True):
            target[...] = hdf5.read(self._data(int(row)), span)[index]
        return out

    def _data(self, row: int) -> h5py.Dataset:
        found = hdf5.float_dataset(self._group(self.file, self._names[row]), "data", len(self._shape))
        if found.shape != self._shape:
            raise UserError(
                "ragged",
                f"group {self._names[row]} differs in shape from the first",
                got=found.shape,
                expected=self._shape,
            )
        return found

    def _group(self, file: h5py.File, name: str) -> h5py.Group:
        if not hdf5.has(file, name, h5py.Group):
            raise UserError("missing_dataset", f"{name} is not a group of this file")
        return file[name]

    def _row_coefficients(self, row: int) -> list[float]:
        """Coefficients of one row; its configuration must describe the family's equation."""
        name = self._names[row]
        settings = read_config(self._group(self.file, name)).get("sim", {})
        for key, expected in self._card.constants.items():
            if key in settings and not same_number(_number(settings, key), expected):
                raise UserError(
                    "coefficient_mismatch",
                    f"group {name} solves another equation: {key} is fixed in {self.family}",
                    got=settings[key],
                    expected=expected,
                )
        told = {
            "the user": self._given,
            "the configuration": {
                coefficient: _number(settings, key) for coefficient, key in self._card.config.items() if key in settings
            },
        }
        return list(merge_coefficients(self.equation, (), told).values())


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


def _number(settings: Mapping[str, Any], key: str) -> float:
    try:
        return float(settings[key])
    except (TypeError, ValueError):
        raise UserError("wrong_attribute", f"{key} in the configuration is no number", got=settings[key]) from None


def _choose(path: Path, group: h5py.Group, config: Mapping[str, Any], family: str | None) -> Card:
    if not hdf5.has(group, "data", h5py.Dataset) or not hdf5.has(group, "grid", h5py.Group):
        raise UserError("missing_dataset", f"group {group.name} of {path.name} lacks data or grid")
    axes = set(group["grid"]) - {"t"}
    cards = [card for card in CARDS if card.layout == GROUPED]
    candidates = [card for card in cards if set(card.axes) == axes]
    if not candidates:
        raise UserError(
            "wrong_axis",
            f"no known family of this layout has the axes of {path.name}",
            got=sorted(axes),
            expected={card.family: list(card.axes) for card in cards},
        )
    named = next((card.family for card in cards if card.config_name == config.get("name")), None)
    return choose_card(path.name, candidates, {"the user": family, "the configuration": named})
