"""A model of lead times as a solver: frames are calls, as few as its calibration allows.

A rollout goes from anchor to anchor, each one call of the model ahead of the last; every frame between two anchors is
one call from the earlier. Frames that nobody wants are not computed. Rollouts of other families, steps and lengths on
the same grid share a call: everything that differs is in their rows.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from ups_server.errors import UserError
from ups_server.language.pretrained import installed_folder
from ups_server.model.body import empty_body, load_tokenizer, text_features
from ups_server.model.checkpoint import load_lead
from ups_server.model.lead import LeadModel, LeadSystem, Problems, problems
from ups_server.model.lead_config import NUMBERS, LatentConfig, LeadCard
from ups_server.pde import Grid
from ups_server.pde.resampling import resample
from ups_server.solvers.neural import canonical, off_the_device
from ups_server.solvers.solver import BatchedSession, Frames, InFlight, Problem

TENSORS = 6
"""Of all channels, that are alive at once in a call."""
ROUNDING = 1e-9
RANDOM_BODY = 0
"""Seed of the language model that stands for one that has read nothing."""


@final
class LeadSession(BatchedSession):
    """One rollout.

    Attributes:
        anchor: states (B, X..., N) that calls start from, after `anchored` steps.
        per_call: steps from one anchor to the next.
        grid: that the model works on; `asked`: that the states are given and wanted on.
    """

    def __init__(
        self, model: LeadModel, card: LeadCard, problem: Problem, given: Problems, anchor: Tensor, grid: Grid
    ) -> None:
        self.model, self.card, self.problem, self.given = model, card, problem, given
        self.anchor, self.grid, self.asked = canonical(anchor), grid, problem.grid
        self.anchored = self.steps = 0
        self.per_call = max(1, math.floor(card.call / problem.dt + ROUNDING))
        self.rows = len(anchor)
        self.row_bytes = call_bytes(model.config, grid.n)
        self.bucket = (id(model), grid.n, given.periodic, given.offset)
        self._own: LeadBatch | None = None

    def restore(self, step: int, saved: Frames) -> None:
        self.anchor = canonical(torch.tensor(saved, device=self.anchor.device))
        self.steps, self.anchored = step, step - step % self.per_call

    def step(self) -> Frames:
        self._own = self._own or LeadBatch([self])
        (frames,) = self._own.launch([True])()
        if frames is None:
            raise AssertionError("a wanted frame is there")
        return frames

    def split(self, rows: int) -> list[BatchedSession]:
        parts = torch.arange(self.rows, device=self.anchor.device).split(rows)
        return [
            LeadSession(self.model, self.card, self.problem, self.given.rows(part), self.anchor[part], self.grid)
            for part in parts
        ]

    def batch(self, sessions: Sequence[BatchedSession]) -> "LeadBatch":
        return LeadBatch([session for session in sessions if isinstance(session, LeadSession)])

    @property
    def lead(self) -> float:
        """From the anchor to the step made last."""
        return (self.steps - self.anchored) * self.problem.dt

    @property
    def turns(self) -> bool:
        """Does the step made last become the anchor?"""
        return self.steps - self.anchored == self.per_call

    def frames(self, states: Tensor) -> Frames:
        """States (B, X..., N) on the host -> the family's fields at the points asked for."""
        found: Frames = states[..., list(self.card.slots)].numpy()
        return resample(found, self.grid, self.asked, self.problem.boundary)


@final
class LeadBatch:
    """Sessions of one bucket: one call for those that need one."""

    def __init__(self, sessions: Sequence[LeadSession]) -> None:
        self._sessions = sessions

    @torch.inference_mode()
    def launch(self, wanted: Sequence[bool]) -> InFlight:
        for session in self._sessions:
            session.steps += 1
        called = [
            number
            for number, (session, due) in enumerate(zip(self._sessions, wanted, strict=True))
            if due or session.turns
        ]
        if not called:
            return lambda: [None] * len(self._sessions)
        states = self._call([self._sessions[number] for number in called])
        copies = off_the_device(*states)

        def arrive() -> list[Frames | None]:
            out: list[Frames | None] = [None] * len(self._sessions)
            for number, rows in zip(called, copies(), strict=True):
                if wanted[number] or not rows.isfinite().all():
                    out[number] = self._sessions[number].frames(rows)
            return out

        return arrive

    def _call(self, sessions: Sequence[LeadSession]) -> list[Tensor]:
        anchors = torch.cat([session.anchor for session in sessions])
        leads = torch.cat([anchors.new_full((session.rows,), session.lead) for session in sessions])
        given = Problems.joined([session.given for session in sessions])
        states = list(sessions[0].model(anchors, leads, given).split([session.rows for session in sessions]))
        for session, rows in zip(sessions, states, strict=True):
            if session.turns:
                session.anchor, session.anchored = canonical(rows), session.steps
        return states

    def saved(self, wanted: Sequence[bool]) -> InFlight:
        due = [session.anchor for session, wants in zip(self._sessions, wanted, strict=True) if wants]
        copies = off_the_device(*due)

        def arrive() -> list[Frames | None]:
            arrived = iter(copies())
            return [next(arrived).numpy() if wants else None for wants in wanted]

        return arrive

    def release(self) -> None:
        """Sessions keep their own anchors."""


def call_bytes(config: LatentConfig, points: Sequence[int]) -> int:
    """Working memory of one call of one state, estimated from the architecture."""
    lattice: int = config.patches**config.ndim * config.channels * (2 + config.expansion)
    return 4 * TENSORS * (lattice + math.prod(points) * (config.local + 2 * config.fields))


class LeadSolver:
    """A model of lead times behind the `Solver` interface."""

    def __init__(self, system: LeadSystem) -> None:
        self.system = system
        self.name = system.config.name

    def dt(self, family: str) -> float:
        return self._card(family).dt

    def horizon(self, family: str) -> float:
        """The longest time that it goes ahead at once."""
        return self._card(family).horizon

    def _card(self, family: str) -> LeadCard:
        try:
            return self.system.config.families[family]
        except KeyError:
            raise UserError(
                "family_not_in_model",
                f"{self.name} was not trained on {family}",
                got=family,
                expected=sorted(self.system.config.families),
            ) from None

    @torch.inference_mode()
    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> LeadSession:
        card = self._card(problem.family)
        slack = 1 + ROUNDING
        if not card.shortest <= problem.dt * slack or not problem.dt <= card.horizon * slack:
            raise UserError(
                "dt_mismatch",
                f"{self.name} goes ahead by other times at once",
                got=problem.dt,
                expected=f"{card.shortest:g} to {card.horizon:g}",
            )
        model = self.system.operators[card.ndim]
        grid = fitting(problem.grid, model.config.patches)
        device = model.number_names.device
        states = torch.zeros(len(initial), *grid.n, model.config.fields, device=device)
        states[..., list(card.slots)] = self._tensor(resample(initial, problem.grid, grid, problem.boundary), device)
        fixed = None if static is None else self._tensor(resample(static, problem.grid, grid, problem.boundary), device)
        coefficients = {
            name: torch.from_numpy(values.astype(np.float32)).to(device)
            for name, values in problem.coefficient_arrays(len(initial)).items()
        }
        given = problems(
            card.equation, self.system.features, coefficients, card.slots, problem.boundary, grid, states, fixed,
            model.config.static,
        )  # fmt: skip
        return LeadSession(model, card, problem, given, states, grid)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames:
        out = np.empty_like(truth[:, 1:])
        for step in range(truth.shape[1] - 1):
            out[:, step] = self.session(problem, truth[:, step], static).step()
        return out

    def _tensor(self, frames: Frames, device: torch.device) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(frames, dtype=np.float32)).to(device)


def fitting(grid: Grid, patches: int) -> Grid:
    """The grid itself where its points fill the patches evenly, else the next finer one that does, of cells."""
    if all(n % patches == 0 for n in grid.n):
        return grid
    return Grid(tuple(math.ceil(n / patches) * patches for n in grid.n), grid.extent)


def load_lead_solver(
    path: Path, device: str = "cpu", body: Literal["trained", "none", "random"] = "trained"
) -> LeadSolver:
    """The solver in a model folder; as a control, with other features of the texts of terms, see `other_features`.

    Raises:
        UserError: ``not_a_model``, ``language_model_missing``.
    """
    system = load_lead(path, device)
    if body != "trained":
        system.features = other_features(system, body)
    return LeadSolver(system)


def other_features(system: LeadSystem, body: Literal["none", "random"]) -> dict[str, Tensor]:
    """What no language model makes of the texts of terms: zero; or one with random weights. Numbers keep their names.

    Raises:
        UserError: ``language_model_missing``.
    """
    terms = [text for text in system.config.texts if text not in NUMBERS]
    if body == "none":
        return system.features | {text: torch.zeros_like(system.features[text]) for text in terms}
    folder = installed_folder()
    torch.manual_seed(RANDOM_BODY)
    found = text_features(empty_body(folder).eval(), load_tokenizer(folder), terms)
    return system.features | {text: feature.to(system.features[text]) for text, feature in found.items()}
