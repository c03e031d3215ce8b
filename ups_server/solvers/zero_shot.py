"""A trained model asked about a family it was never trained on.

Statistics come from the given initial state alone, the metadata text from the family's own card (method: a family the
model has never seen has no statistics of its own, and the target set must not lend them).
"""

import copy
from collections.abc import Sequence
from typing import final

import numpy as np

from ups_server.data.statistics import FamilyStatistics
from ups_server.model.checkpoint import Checkpoint
from ups_server.model.config import FamilyCard, UPSConfig
from ups_server.model.operator import Operator
from ups_server.model.superspace import check_card
from ups_server.pde import family as find
from ups_server.solvers.neural import UPSSolver
from ups_server.solvers.solver import Frames, Problem, Session

STD_FLOOR = 1e-6
"""Smallest scale of a field, relative to its magnitude: a constant initial field is not divided by zero."""


@final
class ZeroShotSolver:
    """The model on any family, every trajectory under statistics of its own."""

    def __init__(self, model: Checkpoint | Operator) -> None:
        self.name = model.config.name
        self._model = Checkpoint.of(model).operator

    def dt(self, family: str) -> float:
        return find(family).dt

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        """Raises UserError ``superspace_too_small``, ``dt_mismatch``."""
        sessions = [
            self._solver(problem, initial[row], None if static is None else static[row]).session(
                one_problem(problem, row, len(initial)), initial[row : row + 1], _row(static, row)
            )
            for row in range(len(initial))
        ]
        return _Sessions(sessions)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        out = np.empty_like(truth[:, 1:])
        for row in range(len(truth)):
            solver = self._solver(problem, truth[row, 0], None if static is None else static[row])
            one = one_problem(problem, row, len(truth))
            predicted = solver.one_step(one, truth[row : row + 1], _row(static, row))
            if predicted is None:
                return None
            out[row] = predicted[0]
        return out

    def _solver(self, problem: Problem, initial: Frames, static: Frames | None) -> UPSSolver:
        card = unseen_card(self._model.config, problem.family, initial, static)
        model = copy.copy(self._model)  # the weights that all families share
        model.config = self._model.config.model_copy(update={"families": {problem.family: card}})
        return UPSSolver(model)


@final
class _Sessions:
    """Rollouts of single states, side by side."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = sessions

    def step(self) -> Frames:
        return np.concatenate([session.step() for session in self._sessions])


def unseen_card(config: UPSConfig, family_id: str, initial: Frames, static: Frames | None = None) -> FamilyCard:
    """The card of a family the model does not know, from one initial state (X..., C) and static fields (X..., S).

    How far a state moves in one step is not in it: the scale of increments is the geometric mean, over the families
    the model knows, of their increments in units of their spread.

    Raises:
        UserError: ``superspace_too_small``.
    """
    entry = find(family_id)
    fields = tuple(field.name for field in entry.fields)
    flat = initial.reshape(-1, len(fields)).astype(np.float64)
    mean, low, high = flat.mean(0), flat.min(0), flat.max(0)
    std = np.maximum(flat.std(0), STD_FLOOR * np.maximum(np.abs(flat).max(0), 1.0))
    still = np.zeros((1, len(entry.static_fields))) if static is None else static.reshape(-1, static.shape[-1])
    statistics = FamilyStatistics(
        family=family_id,
        fields=fields,
        dt=entry.dt,
        n=initial.shape[0],
        trajectories=1,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        increment_std=tuple((std * typical_increment(config)).tolist()),
        min=tuple(low.tolist()),
        max=tuple(high.tolist()),
        static_mean=tuple(still.mean(0).tolist()),
        static_std=tuple(np.maximum(still.std(0), STD_FLOOR).tolist()),
    )
    card = FamilyCard(
        dt=entry.dt,
        name=entry.name,
        ndim=entry.ndim,
        fields=fields,
        slots=tuple(field.slot for field in entry.fields),
        symbols={coefficient.name: coefficient.symbol for coefficient in entry.coefficients},
        static_fields=tuple(field.name for field in entry.static_fields),
        parity=entry.parity,
        static_parity=entry.static_parity,
        odd=entry.odd,
        statistics=statistics,
    )
    check_card(config, card)
    return card


def typical_increment(config: UPSConfig) -> float:
    """Increment over spread, the geometric mean over all fields of all families that the model knows."""
    ratios = [
        increment / std
        for card in config.families.values()
        for increment, std in zip(card.statistics.increment_std, card.statistics.std, strict=True)
    ]
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else 1.0


def one_problem(problem: Problem, row: int, count: int) -> Problem:
    """The problem of one state of a batch."""
    values = {name: [float(array[row])] for name, array in problem.coefficient_arrays(count).items()}
    return Problem(problem.family, values, problem.grid, problem.boundary, problem.dt)


def _row(static: Frames | None, row: int) -> Frames | None:
    return None if static is None else static[row : row + 1]
