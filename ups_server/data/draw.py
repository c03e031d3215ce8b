"""How the coefficients and the kinds of initial states of generated trajectories are drawn."""

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator


class CoefficientDraw(BaseModel):
    """A continuous range with gaps, and a share at given values.

    Attributes:
        scale: uniform in the value or in its logarithm.
        gaps: open intervals never drawn from, kept for tests of interpolation.
        also: values that get `also_share` of the trajectories, equally; PDEBench's own, for example.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float
    scale: Literal["log", "linear"] = "log"
    gaps: tuple[tuple[float, float], ...] = ()
    also: tuple[float, ...] = ()
    also_share: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.low <= self.high or (self.scale == "log" and self.low <= 0):
            raise ValueError("low must not exceed high, and be positive on a logarithmic scale")
        if any(low < value < high for low, high in self.gaps for value in self.also):
            raise ValueError("a value of `also` lies in a gap")
        if self.low < self.high and not self._intervals():
            raise ValueError("the gaps leave nothing to draw from")
        return self

    @classmethod
    def fixed(cls, value: float) -> "CoefficientDraw":
        """Always this value."""
        return cls(low=value, high=value, scale="linear")

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """(count,) values."""
        position, special = rng.random(count), rng.random(count)
        pick = rng.integers(0, max(len(self.also), 1), count)
        drawn = self._quantile(position)
        if self.also:
            drawn = np.where(special < self.also_share, np.asarray(self.also)[pick], drawn)
        return drawn

    def _intervals(self) -> list[tuple[float, float]]:
        """What the gaps leave of [low, high], on the scale drawn from."""
        intervals, start = [], self.low
        for gap_low, gap_high in sorted(self.gaps):
            if start < min(gap_low, self.high):
                intervals.append((start, min(gap_low, self.high)))
            start = max(start, gap_high)
        if start < self.high:
            intervals.append((start, self.high))
        if self.scale == "linear":
            return intervals
        return [(float(np.log(low)), float(np.log(high))) for low, high in intervals]

    def _quantile(self, position: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.low == self.high:
            return np.full(position.shape, self.low)
        intervals = np.asarray(self._intervals())
        lengths = intervals[:, 1] - intervals[:, 0]
        edges = np.concatenate([[0.0], np.cumsum(lengths)])
        along = position * edges[-1]
        which = np.clip(np.searchsorted(edges, along, side="right") - 1, 0, len(lengths) - 1)
        drawn: NDArray[np.float64] = intervals[which, 0] + along - edges[which]
        # exp(log(high)) may round past the end
        if self.scale == "log":
            drawn = np.exp(drawn)
        return np.clip(drawn, self.low, self.high)


class SameAs(BaseModel):
    """The value that another coefficient of the trajectory has drawn, as PDEBench's eta = zeta."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    same_as: str


Draw = CoefficientDraw | SameAs


def pick_kind(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    """One of the kinds, by their shares."""
    names, weights = list(shares), np.array(list(shares.values()))
    return names[int(np.searchsorted(np.cumsum(weights), rng.random() * weights.sum(), side="right"))]
