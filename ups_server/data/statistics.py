"""Normalisation statistics of a family, over the training split only, in constant memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ups_server.data.splits import Split, split_rows
from ups_server.data.store import Store
from ups_server.data.windows import frame_stride
from ups_server.errors import UserError
from ups_server.pde.registry import known_family

CONSTANT = 1e-6
"""A field whose standard deviation is less than this part of its largest magnitude is constant."""
INCREMENT_FLOOR = 1e-3
"""Smallest increment scale, relative to the field's std: a field that stands still is not divided by zero."""


class FamilyStatistics(BaseModel):
    """What the values of a family look like; one entry a field, in the family's order.

    Attributes:
        std, static_std: standard deviations; of a constant field its magnitude, or one where it is zero.
        increment_std: root mean square of u(t + dt) - u(t), at least `INCREMENT_FLOOR` times `std`.
        relative: fields whose figures (all but the range) are in units of their level, the mean over the box of the
            trajectory's first frame: where the equation lets a field be rescaled, its level says nothing else.
        coefficient_low, coefficient_high: range the training trajectories cover, by coefficient name.
        trajectories: how many entered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    fields: tuple[str, ...]
    dt: float
    n: int
    trajectories: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    increment_std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    relative: tuple[str, ...] = ()
    static_mean: tuple[float, ...] = ()
    static_std: tuple[float, ...] = ()
    coefficient_low: dict[str, float] = {}
    coefficient_high: dict[str, float] = {}


@dataclass
class Moments:
    """Running count, mean and sum of squared deviations (Chan, Golub and LeVeque 1983), and range; per field."""

    width: int
    count: int = 0
    mean: NDArray[np.float64] = field(init=False)
    squares: NDArray[np.float64] = field(init=False)
    low: NDArray[np.float64] = field(init=False)
    high: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.mean = np.zeros(self.width)
        self.squares = np.zeros(self.width)
        self.low = np.full(self.width, np.inf)
        self.high = np.full(self.width, -np.inf)

    def add(self, values: NDArray[np.floating]) -> None:
        """Join values (..., C)."""
        flat = values.reshape(-1, self.width)
        mean = flat.mean(0, dtype=np.float64)
        squares = ((flat - mean) ** 2).sum(0, dtype=np.float64)
        total = self.count + len(flat)
        delta = mean - self.mean
        self.squares += squares + delta**2 * self.count * len(flat) / total
        self.mean += delta * len(flat) / total
        self.count = total
        self.low = np.minimum(self.low, flat.min(0))
        self.high = np.maximum(self.high, flat.max(0))

    @property
    def std(self) -> NDArray[np.float64]:
        return np.sqrt(self.squares / max(self.count, 1))

    @property
    def rms(self) -> NDArray[np.float64]:
        return np.sqrt(self.squares / max(self.count, 1) + self.mean**2)


def scales(found: Moments) -> NDArray[np.float64]:
    """Standard deviations that one can divide by, see `FamilyStatistics`."""
    magnitude = np.maximum(np.abs(found.low), np.abs(found.high))
    usual = found.std > CONSTANT * magnitude
    scale: NDArray[np.float64] = np.where(usual, found.std, np.where(magnitude > 0, magnitude, 1.0))
    return scale


def compute(
    stores: Store | Sequence[Store],
    dt: float,
    n: int,
    seed_of_split: int = 0,
    training: NDArray[np.int64] | None = None,
) -> FamilyStatistics:
    """Statistics at step `dt` and `n` points, over the training trajectories of all `stores` of one family.

    Args:
        training: rows of each store to train on; default: its training split.

    Raises:
        UserError: ``dt_mismatch``, ``resolution_mismatch``, ``mixed_families`` or ``empty_split``.
    """
    group = [stores] if isinstance(stores, Store) else list(stores)
    first = group[0]
    if any((store.family, store.fields) != (first.family, first.fields) for store in group):
        raise UserError("mixed_families", "statistics are per family", got=[store.family for store in group])
    relative = [field.relative for field in known_family(first.family).fields]
    measured, values, increments = (Moments(len(first.fields)) for _ in range(3))
    static = Moments(len(first.manifest.layout.static_fields))
    coefficients = Moments(len(first.coefficient_names))
    trajectories = 0
    for store in group:
        lag, stride = frame_stride(store.times, dt), store.grid.stride_to(n)
        rows = split_rows(len(store), Split.TRAIN, seed_of_split) if training is None else training
        trajectories += len(rows)
        for row in rows:
            frames = store.read([row], stride=stride)[0]
            measured.add(frames)
            level = frames[0].reshape(-1, frames.shape[-1]).mean(0)
            frames = frames / np.where(relative, level, 1.0)
            values.add(frames)
            increments.add(frames[lag:] - frames[:-lag])
            if (fixed := store.static_view(row)) is not None:
                static.add(fixed)
            if coefficients.width:
                coefficients.add(store.coefficients[row])
    if not trajectories:
        raise UserError("empty_split", f"no training trajectory in {first.path.name}")
    std = scales(values)
    return FamilyStatistics(
        family=first.family,
        fields=first.fields,
        dt=dt,
        n=n,
        trajectories=trajectories,
        mean=tuple(values.mean.tolist()),
        std=tuple(std.tolist()),
        increment_std=tuple(np.maximum(increments.rms, INCREMENT_FLOOR * std).tolist()),
        min=tuple(measured.low.tolist()),
        max=tuple(measured.high.tolist()),
        relative=tuple(compress(first.fields, relative)),
        static_mean=tuple(static.mean.tolist()),
        static_std=tuple(scales(static).tolist()),
        coefficient_low=dict(zip(first.coefficient_names, coefficients.low.tolist(), strict=True)),
        coefficient_high=dict(zip(first.coefficient_names, coefficients.high.tolist(), strict=True)),
    )
