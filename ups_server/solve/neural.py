"""A trained model as a solver: arrays in physical units in, arrays in physical units out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ups_server.errors import UserError
from ups_server.model.checkpoint import from_pretrained
from ups_server.model.conditioning import Conditions, conditions
from ups_server.model.config import FamilyCard
from ups_server.model.controls import BodyControl, control_body
from ups_server.model.superspace import lift, lower
from ups_server.model.ups import Context, Operator
from ups_server.solve.solver import Frames, Problem


def as_static(static: Frames | None, card: FamilyCard) -> Tensor | None:
    """Static fields (B, X..., S) -> normalised (B, S, X...)."""
    if static is None:
        return None
    mean, std = np.asarray(card.statistics.static_mean), np.asarray(card.statistics.static_std)
    return torch.from_numpy(((static - mean) / std).astype(np.float32)).movedim(-1, 1)


def reads_again(model: Operator, step: int) -> bool:
    """Is the problem read again before this step of a rollout?"""
    return step > 0 and model.config.refresh > 0 and step % model.config.refresh == 0


class UPSSession:
    """One rollout of a trained model: the context is read once, then the state advances on the device.

    A model with `refresh` reads again, from the state reached, after every so many steps.
    """

    def __init__(self, model: Operator, card: FamilyCard, given: Conditions, initial: Tensor) -> None:
        self._model, self._card, self._given = model, card, given
        self._u = lift(initial, card, given)
        self._context = model.read(self._u, given)
        self._steps = 0

    @torch.inference_mode()
    def step(self) -> Frames:
        if reads_again(self._model, self._steps):
            self._context = self._model.read(self._u, self._given)
        self._steps += 1
        self._u = self._model(self._u, self._context)
        frames: Frames = lower(self._u, self._card, self._given).cpu().numpy()
        return frames


class UPSSolver:
    """A trained model behind the `Solver` interface."""

    def __init__(self, model: Operator) -> None:
        self.model = model
        self.name = model.config.name
        self._device = next(model.parameters()).device

    def dt(self, family: str) -> float:
        return self._card(family).dt

    def _card(self, family: str) -> FamilyCard:
        try:
            return self.model.config.families[family]
        except KeyError:
            raise UserError(
                "family_not_in_model",
                f"{self.name} was not trained on {family}",
                got=family,
                expected=sorted(self.model.config.families),
            ) from None

    def _conditions(self, problem: Problem, initial: Tensor, static: Frames | None) -> tuple[FamilyCard, Conditions]:
        card = self._card(problem.family)
        if not np.isclose(problem.dt, card.dt, rtol=1e-6):
            raise UserError("dt_mismatch", f"{self.name} steps by its own dt", got=problem.dt, expected=card.dt)
        values = {name: array.tolist() for name, array in problem.coefficient_arrays(len(initial)).items()}
        given = conditions(
            self.model.config, card, values, problem.boundary, problem.grid.offset, initial, as_static(static, card)
        )
        return card, given.to(self._device)

    @torch.inference_mode()
    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> UPSSession:
        state = self._tensor(initial)
        card, given = self._conditions(problem, state, static)
        return UPSSession(self.model, card, given, state)

    @torch.inference_mode()
    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        initial = self._tensor(truth[:, 0])
        card, given = self._conditions(problem, initial, static)
        context = self.model.read(lift(initial, card, given), given)
        out = np.empty_like(truth[:, 1:])
        for step in range(truth.shape[1] - 1):
            if reads_again(self.model, step):
                context = self.model.read(lift(self._tensor(truth[:, step]), card, given), given)
            out[:, step] = self._advance(truth[:, step], card, given, context)
        return out

    def _advance(self, frames: Frames, card: FamilyCard, given: Conditions, context: Context) -> Frames:
        predicted = lower(self.model(lift(self._tensor(frames), card, given), context), card, given)
        result: Frames = predicted.cpu().numpy()
        return result

    def _tensor(self, frames: Sequence[float] | Frames) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(frames, dtype=np.float32)).to(self._device)


def load_neural(path: Path, device: str = "cpu", body: BodyControl = "trained") -> UPSSolver:
    """The solver in a model folder; as a control without its language model, or around a random one.

    Raises:
        UserError: ``not_a_model``, ``no_language_model``.
    """
    solver = UPSSolver(from_pretrained(path, device))
    control_body(solver.model, body)
    if body != "trained":
        solver.name = f"{solver.name} ({body} body)"
    return solver
