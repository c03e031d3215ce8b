"""Error envelopes: how far a rollout of a model is off, at a stated level, measured on trajectories that chose nothing.

Split-conformal (Vovk et al. 2005; Lei et al. 2018). Of each calibration trajectory i, step t and field, the error
e_i(t) is the root mean square over the box in units of the field's spread. With a shape s(t), the median error of
trajectories set aside for it, the score of a trajectory is ``max_t e_i(t) / s(t)``, and the envelope is ``q s(t)``
with the ceil((m + 1) level)-th smallest of the m scores as q. A new trajectory of the same distribution stays inside
**at every step** with a probability of at least `level`; how often others did is stored beside it.

Imports no torch: the API reads it too.
"""

import math
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ups_server.catalog import invalid_model, read_document
from ups_server.data.statistics import FamilyStatistics
from ups_server.pde.grid import Array

ENVELOPE_FILE = "envelope.json"
CONFIDENCE = 0.95
SHAPE_FLOOR = 1e-9


class EnvelopePart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Coverage(EnvelopePart):
    """Share of test trajectories inside at every step, with its Clopper-Pearson interval at 95 %."""

    share: float
    low: float
    high: float

    @classmethod
    def of(cls, inside: int, count: int) -> Self:
        from scipy import stats

        tail = (1 - CONFIDENCE) / 2
        low = float(stats.beta.ppf(tail, inside, count - inside + 1)) if inside else 0.0
        high = float(stats.beta.ppf(1 - tail, inside + 1, count - inside)) if inside < count else 1.0
        return cls(share=inside / count, low=low, high=high)


class FamilyEnvelope(EnvelopePart):
    """One envelope of a family; it is valid for what its attributes say and for nothing else.

    Attributes:
        coefficients: range of each coefficient in the calibration.
        n: points per axis; steps: of `dt`, from an initial state of the family's own distribution.
        boundary: (low, high) kind per axis.
        offset: place of the points in their cells (`Grid.offset`) per axis; None along a periodic one, where it makes
            no difference.
        bounds: by field, root mean square error after step 1, 2, … in units of the field's spread.
        spread: by field, in physical units; for fields in `relative`, in units of the mean of the initial state.
    """

    family: str
    coefficients: dict[str, tuple[float, float]]
    boundary: tuple[tuple[str, str], ...]
    dt: float
    n: int
    offset: tuple[float | None, ...]
    level: float
    bounds: dict[str, tuple[float, ...]]
    spread: dict[str, float]
    relative: tuple[str, ...] = ()
    calibration: int
    test: int
    coverage: dict[str, Coverage]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.bounds or not self.bounds.keys() == self.spread.keys() == self.coverage.keys():
            raise ValueError("bounds, spread and coverage are of the same fields")
        return self

    @property
    def steps(self) -> int:
        return len(next(iter(self.bounds.values())))

    def physical(self, means: dict[str, float]) -> dict[str, tuple[float, ...]]:
        """The bounds in physical units, given the mean over the box of every field of the initial state."""
        return {
            name: tuple(bound * self.spread[name] * (means[name] if name in self.relative else 1.0) for bound in bounds)
            for name, bounds in self.bounds.items()
        }


class ModelEnvelopes(EnvelopePart):
    """All envelopes of a model folder, and the command that measured them.

    Attributes:
        families: by family, one for each kind of request.
        withheld: why a family has none.
    """

    command: str
    families: dict[str, tuple[FamilyEnvelope, ...]] = Field(default_factory=dict)
    withheld: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """None where the model has none. Raises UserError ``invalid_model``."""
        document = read_document(folder / ENVELOPE_FILE)
        try:
            return None if document is None else cls.model_validate(document)
        except ValidationError as error:
            raise invalid_model(folder / ENVELOPE_FILE, error) from error

    def save(self, folder: Path) -> None:
        (folder / ENVELOPE_FILE).write_text(self.model_dump_json(indent=1) + "\n")


def conformal_bounds(shape: Array, calibration: Array, level: float) -> Array:
    """Bounds (T, C) from errors (M, T, C) for their shape and errors (m, T, C) for their size; inf if m is too few."""
    median = np.maximum(np.median(shape, axis=0), SHAPE_FLOOR)
    scores = np.sort((calibration / median).max(axis=1), axis=0)
    rank = math.ceil((len(scores) + 1) * level)
    largest = scores[rank - 1] if rank <= len(scores) else np.full(scores.shape[1], np.inf)
    return np.asarray(largest * median)


def measured_coverage(bounds: Array, test: Array) -> list[Coverage]:
    """Per field, how many of the test trajectories (k, T, C) stay inside (T, C) at every step."""
    inside = (test <= bounds).all(axis=1).sum(axis=0)
    return [Coverage.of(int(count), len(test)) for count in inside]


def spread_of(statistics: FamilyStatistics) -> dict[str, float]:
    """By field, the unit of its errors."""
    return dict(zip(statistics.fields, statistics.std, strict=True))
