"""One interface for everything that advances a state: trained models, persistence, numerical methods."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, Grid

Frames = NDArray[np.float32]


@dataclass(frozen=True)
class Problem:
    """What is solved: one equation on one grid.

    Attributes:
        coefficients: every coefficient of the family: one number for the batch, or one per state.
        dt: the time between two states.
    """

    family: str
    coefficients: Mapping[str, float | Sequence[float]]
    grid: Grid
    boundary: BoundaryCondition
    dt: float

    def coefficient_arrays(self, count: int) -> dict[str, NDArray[np.float64]]:
        """One array (count,) per coefficient."""
        return {
            name: np.broadcast_to(np.asarray(value, dtype=np.float64), (count,))
            for name, value in self.coefficients.items()
        }


class Session(Protocol):
    """One rollout in progress."""

    def step(self) -> Frames:
        """The next state (B, X..., C) in physical units, dt later."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A session whose place can be kept, and taken again by another session of the same problem."""

    def saved(self) -> Frames:
        """What going on from here takes, bit for bit: numbers of any meaning, states along the first axis."""
        ...

    def restore(self, step: int, saved: Frames) -> None:
        """Goes to where a session stood after `step` steps, instead of a first step."""
        ...


Landing = Callable[[], list[Frames | None]]
"""Waits for a step that was launched. Each session's state (B, X..., C) where it was wanted or is not finite."""


class Batch(Protocol):
    """Sessions that advance together."""

    def launch(self, wanted: Sequence[bool]) -> Landing:
        """Begins one step of all; on an accelerator the next one may begin before this one has landed."""
        ...

    def saved(self, wanted: Sequence[bool]) -> Landing:
        """Begins to copy what `Resumable.saved` gives after the step launched last, for each session that wants it."""
        ...

    def release(self) -> None:
        """Gives the sessions their states back: they may join another batch."""
        ...


class BatchedSession(ABC):
    """A rollout in progress that can share its steps with others of the same bucket.

    Attributes:
        bucket: equal for sessions that can be in one batch.
        rows: states.
        row_bytes: estimated memory that a step takes per state, beyond the states themselves.
    """

    bucket: Hashable
    rows: int
    row_bytes: int

    @abstractmethod
    def step(self) -> Frames:
        """See `Session`."""

    @abstractmethod
    def restore(self, step: int, saved: Frames) -> None:
        """See `Resumable`."""

    @abstractmethod
    def split(self, rows: int) -> "list[BatchedSession]":
        """Sessions of at most so many states each, instead of this one; before the first step only."""

    @abstractmethod
    def batch(self, sessions: "Sequence[BatchedSession]") -> Batch:
        """A batch of sessions of this bucket, this one among them."""


class Solver(Protocol):
    """Advances states of a problem."""

    name: str

    def dt(self, family: str) -> float:
        """The time step of this solver for a family.

        Raises:
            UserError: ``family_not_in_model``.
        """
        ...

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        """Starts a rollout of `initial` (B, X..., C), physical units; `static` (B, X..., S).

        Raises:
            UserError: ``family_not_in_model``, ``dt_mismatch``.
        """
        ...

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        """Teacher-forced predictions (B, T-1, X..., C) of truth[:, 1:] from truth[:, :-1]; (B, T, X..., C) given.

        What a solver reads once per rollout, it reads from truth[:, 0]. None where a visible state does not
        determine the next one.
        """
        ...


def rollout(session: Session, n_steps: int) -> Iterator[Frames]:
    """The states after steps 1 … n_steps, one at a time."""
    for _ in range(n_steps):
        yield session.step()


def load(model: str | Path, device: str = "auto", body: Literal["trained", "none", "random"] = "trained") -> Solver:
    """The solver of a model: `persistence`, `numerical`, a folder, or the id of a registered model.

    Args:
        device: "auto", "cpu" or "cuda"; the two built-in solvers always run on the CPU.
        body: as a control, the model without its language model ("none") or with a random one ("random").

    Raises:
        UserError: ``unknown_model``, ``invalid_model``, ``no_language_model``.
    """
    from ups_server.solve.classical import BUILTIN

    if isinstance(model, str) and model in BUILTIN:
        if body != "trained":
            raise UserError("no_language_model", f"{model} has no language model")
        return BUILTIN[model]()
    folder = model_folder(model)
    if model_type(folder) == "ups-lead":
        if body != "trained":
            raise UserError("no_language_model", f"{folder.name} is not controlled without its language model yet")
        from ups_server.solve.lead import load_lead_solver

        return load_lead_solver(folder, choose_device(device))
    from ups_server.solve.neural import load_neural

    return load_neural(folder, choose_device(device), body)


def model_type(folder: Path) -> str:
    """What kind of model a folder holds, by its config."""
    try:
        return str(json.loads((folder / "config.json").read_text()).get("model_type", "ups"))
    except (OSError, ValueError, AttributeError):
        return "ups"


def choose_device(wanted: str) -> str:
    """`auto` becomes CUDA where there is one. Imports torch."""
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def model_folder(model: str | Path) -> Path:
    """The folder of a trained model: itself, or that of a registered id.

    Raises:
        UserError: ``unknown_model``, ``invalid_model``.
    """
    folder = Path(model)
    if (folder / "config.json").is_file():
        return folder
    if isinstance(model, Path) or len(folder.parts) > 1:
        raise UserError(
            "unknown_model", "there is no model in this folder", got=str(model), expected="a folder with config.json"
        )
    from ups_server.catalog import Catalog
    from ups_server.settings import Settings

    return Path(Catalog(Settings.given().data_dir).model(model).source)
