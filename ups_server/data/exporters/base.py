"""What exporters have in common: open with a header, write step after step, close."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryCondition, Grid

AXIS_NAMES = ("x", "y", "z")

LONGEST_ATTRIBUTE = 2**15
"""Bytes: HDF5 stores no attribute of 64 KiB or more; texts that are longer than this become variables."""

Coefficients = Mapping[str, "float | NDArray[np.float64]"]
"""By name: one number, or one a trajectory (B,)."""


@dataclass(frozen=True)
class Header:
    """Everything about trajectories but their values.

    Attributes:
        times: (T,) planned; a solution that ends early keeps the first ones.
        count: trajectories B.
        attributes: whatever else belongs to the result (model, flags, ...); JSON values.
        batched: whether the trajectory axis is kept; dropping it needs B = 1.
        boundary: where it is not the family's own.
    """

    family: Family
    grid: Grid
    times: NDArray[np.float64]
    coefficients: Coefficients
    count: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    batched: bool = True
    boundary: BoundaryCondition | None = None

    @property
    def sides(self) -> list[list[str]]:
        """The boundary condition by name."""
        return (self.boundary or self.family.boundary).as_names()

    @property
    def step_shape(self) -> tuple[int, ...]:
        """(B, X..., C)"""
        return (self.count, *self.grid.n, len(self.family.fields))

    def axes(self) -> dict[str, NDArray[np.float64]]:
        """Coordinates by axis name."""
        return dict(zip(AXIS_NAMES, self.grid.axes, strict=False))

    def document(self, times: NDArray[np.float64]) -> dict[str, Any]:
        """The header as JSON; `attributes` are merged in."""
        return {
            "family": self.family.id,
            "equation": self.family.equation,
            "fields": [entry.name for entry in self.family.fields],
            "units": [entry.unit for entry in self.family.fields],
            "coefficients": {name: np.asarray(value).tolist() for name, value in self.coefficients.items()},
            "times": times.tolist(),
            "time_unit": self.family.time_unit,
            "length_unit": self.family.length_unit,
            "grid": self.grid.as_json(),
            "boundary": self.sides,
            **self.attributes,
        }


class Exporter(ABC):
    """Writes trajectories to a path or a binary stream.

    Attributes:
        format: its name.
        suffixes: of the files it writes.
        media_type: of the bytes it writes.
    """

    format: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    media_type: ClassVar[str]

    @final
    def __init__(self, target: Path | BinaryIO, header: Header) -> None:
        self.target = target
        self.header = header
        self.steps = 0
        self.open()

    @abstractmethod
    def open(self) -> None:
        """Make ready for the first step."""

    @final
    def write_step(self, values: NDArray[np.floating[Any]]) -> None:
        """The next state (B, X..., C).

        Raises:
            UserError: ``wrong_shape``.
        """
        if values.shape != self.header.step_shape or self.steps >= len(self.header.times):
            raise UserError("wrong_shape", "a step does not fit", got=values.shape, expected=self.header.step_shape)
        self.put(self.steps, values)
        self.steps += 1

    @abstractmethod
    def put(self, step: int, values: NDArray[np.floating[Any]]) -> None:
        """Store the state (B, X..., C) of step number `step`."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    @final
    def __enter__(self) -> Self:
        return self

    @final
    def __exit__(self, *exception: object) -> None:
        self.close()


class WholeExporter(Exporter):
    """For formats whose one array needs all steps: keeps float32 values until the end."""

    @final
    def open(self) -> None:
        count, *state = self.header.step_shape
        self._values = np.empty((count, len(self.header.times), *state), np.float32)

    @final
    def put(self, step: int, values: NDArray[np.floating[Any]]) -> None:
        self._values[:, step] = values

    @final
    def close(self) -> None:
        values = self._values[:, : self.steps]
        content = self.encode(values if self.header.batched else values[0], self.header.times[: self.steps])
        if isinstance(self.target, Path):
            self.target.write_bytes(content)
        else:
            self.target.write(content)

    @abstractmethod
    def encode(self, values: NDArray[np.float32], times: NDArray[np.float64]) -> bytes:
        """The file of values ([B,] T, X..., C)."""
