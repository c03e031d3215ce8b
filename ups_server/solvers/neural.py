"""A trained model as a solver: arrays in physical units in, arrays in physical units out.

`ZeroShotSolver` asks it about a family that it was never trained on. Statistics then come from the given initial state
alone, the metadata text from the family's own card (method: a family the model has never seen has no statistics of its
own, and the target set must not lend them).
"""

import math
from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from ups_server.data.statistics import FamilyStatistics
from ups_server.errors import UserError
from ups_server.model.checkpoint import TrainedModel, from_pretrained
from ups_server.model.conditioning import Conditions, conditions
from ups_server.model.config import KnownFamily, UPSConfig
from ups_server.model.context import Context
from ups_server.model.operator import BodyControl, Operator, control_body
from ups_server.model.superspace import check_card, lift, lower
from ups_server.pde import BoundaryCondition, Grid
from ups_server.pde import family as find
from ups_server.pde.resampling import resample, subsampled
from ups_server.solvers.solver import BatchedSession, Frames, InFlight, Problem, Session

STEP_TENSORS = 12
"""Tensors (channels, points) that are alive at once in the heaviest part of a step."""


def as_static(static: Frames | None, card: KnownFamily) -> Tensor | None:
    """Static fields (B, X..., S) -> normalised (B, S, X...)."""
    if static is None:
        return None
    mean, std = np.asarray(card.statistics.static_mean), np.asarray(card.statistics.static_std)
    return torch.from_numpy(((static - mean) / std).astype(np.float32)).movedim(-1, 1)


def reads_again(model: Operator, step: int) -> bool:
    """Is the problem read again before this step of a rollout?"""
    return step > 0 and (every := model.config.reading.refresh) > 0 and step % every == 0


@final
class UPSSession(BatchedSession):
    """One rollout of a trained model: the problem is read once, before the first step, then the state advances.

    A model with `refresh` reads again, from the state reached, after every so many steps. Sessions of other families,
    coefficients and lengths can share the steps: what differs is in the rows of the context.

    Attributes:
        u: states (B, N, X...) in the superspace, on the device; stale while a batch has the session.
        context: what was read; None before the first step.
        steps: how many it has made.
        origin: the state that was read last, of a model that reads again.
        every: along each axis, every so many-th point is one that was asked for.
    """

    def __init__(self, model: Operator, card: KnownFamily, given: Conditions, u: Tensor, every: int = 1) -> None:
        self.model, self.card, self.given, self.u, self.every = model, card, given, canonical(u), every
        self.context: Context | None = None
        self.steps = 0
        self.origin = self.u if model.config.reading.refresh else None
        self.rows = len(u)
        points = tuple(u.shape[2:])
        averaged = given.symmetry is not None
        self.row_bytes = step_bytes(model.config, points) * (2 if averaged else 1)
        symmetry = None if given.symmetry is None else given.symmetry.mirrors
        self.bucket = (id(model), points, given.periodic, given.offset, given.trained, symmetry, u.dtype)
        self._own: UPSBatch | None = None

    @property
    def kind(self) -> Hashable:
        """Problems of one kind can be read together: of one family, with the same given."""
        return (id(self.card), self.given.coefficient_names, self.given.static is None)

    @torch.inference_mode()
    def restore(self, step: int, saved: Frames) -> None:
        """Of a model that reads again, `saved` holds the state that was read last before the state reached."""
        states = torch.tensor(saved, device=self.u.device)
        if self.origin is not None:
            origin, states = states.split(self.u.shape[1], dim=1)
            self.u = canonical(origin)
        read([self])
        self.u, self.steps = canonical(states), step

    def step(self) -> Frames:
        self._own = self._own or UPSBatch([self])
        (frames,) = self._own.launch([True])()
        if frames is None:
            raise AssertionError("a wanted frame is there")
        return frames

    def split(self, rows: int) -> list[BatchedSession]:
        parts = [slice(first, first + rows) for first in range(0, self.rows, rows)]
        return [UPSSession(self.model, self.card, self.given.part(part), self.u[part], self.every) for part in parts]

    def batch(self, sessions: Sequence[BatchedSession]) -> "UPSBatch":
        return UPSBatch([session for session in sessions if isinstance(session, UPSSession)])


def canonical(u: Tensor) -> Tensor:
    """The values in memory of their own, in the order of their axes.

    Kernels sum in another order where channels lie last, or where memory begins elsewhere: a state that goes on from
    a copy of its numbers has to lie as the state itself did.
    """
    return u.clone(memory_format=torch.contiguous_format)


def read(sessions: Sequence[UPSSession]) -> None:
    """Reads the problems of a bucket from the states reached, those of one kind in one pass."""
    kinds: dict[Hashable, list[UPSSession]] = {}
    for session in sessions:
        kinds.setdefault(session.kind, []).append(session)
    for alike in kinds.values():
        given = Conditions.joined([session.given for session in alike])
        contexts = alike[0].model.read(torch.cat([session.u for session in alike]), given)
        for session, context in zip(alike, contexts.split([session.rows for session in alike]), strict=True):
            session.context = context
            session.origin = session.origin if session.origin is None else session.u


def joined(sessions: Sequence[UPSSession]) -> Context:
    """What was read of the problems of a bucket; those that have not been read are read now."""
    read([session for session in sessions if session.context is None])
    return Context.joined([session.context for session in sessions if session.context is not None])


@final
class UPSBatch:
    """Sessions of one bucket, their rows one after another: one forward pass a step, one copy off the device."""

    @torch.inference_mode()
    def __init__(self, sessions: Sequence[UPSSession]) -> None:
        self._sessions = sessions
        self._model = sessions[0].model
        self._rows = [session.rows for session in sessions]
        self._context = joined(sessions)
        self._u = canonical(torch.cat([session.u for session in sessions]))
        spread = (..., *(None,) * (self._u.ndim - 2))
        self._mean = torch.cat([session.given.mean for session in sessions])[spread]
        self._std = torch.cat([session.given.std for session in sessions])[spread]
        self._absent = torch.cat([session.given.mask for session in sessions])[spread] == 0

    @torch.inference_mode()
    def launch(self, wanted: Sequence[bool]) -> InFlight:
        self._read_again()
        self._u = canonical(self._model(self._u, self._context))
        for session in self._sessions:
            session.steps += 1
        physical = self._u * self._std + self._mean
        finite = (physical.isfinite() | self._absent).flatten(1).all(1)
        copies = off_the_device(finite, physical) if any(wanted) else off_the_device(finite)

        def arrive() -> list[Frames | None]:
            arrived, *states = copies()
            good = [bool(rows.all()) for rows in arrived.split(self._rows)]
            if not states and not all(good):
                states = [physical.cpu()]
            if not states:
                return [None] * len(good)
            chosen = zip(self._sessions, states[0].split(self._rows), wanted, good, strict=True)
            return [_frames(rows, session) if due or not fine else None for session, rows, due, fine in chosen]

        return arrive

    def saved(self, wanted: Sequence[bool]) -> InFlight:
        chosen = zip(self._sessions, self._u.split(self._rows), wanted, strict=True)
        copies = off_the_device(*(_saved(session, rows) for session, rows, due in chosen if due))

        def arrive() -> list[Frames | None]:
            arrived = iter(copies())
            return [next(arrived).numpy() if due else None for due in wanted]

        return arrive

    def _read_again(self) -> None:
        due = [session for session in self._sessions if reads_again(self._model, session.steps)]
        if due:
            self._return_states()
            read(due)
            self._context = joined(self._sessions)

    def _return_states(self) -> None:
        for session, rows in zip(self._sessions, self._u.split(self._rows), strict=True):
            session.u = rows

    def release(self) -> None:
        for session, rows in zip(self._sessions, self._u.split(self._rows), strict=True):
            session.u = canonical(rows)


def _frames(rows: Tensor, session: UPSSession) -> Frames:
    """Superspace values (B, N, X...) on the host -> the family's fields (B, X..., C) at the points asked for."""
    frames: Frames = rows[:, list(session.card.slots)].movedim(1, -1).numpy()
    return subsampled(frames, (session.every,) * session.card.ndim)


def _saved(session: UPSSession, rows: Tensor) -> Tensor:
    """What `UPSSession.restore` takes: (B, N, X...), or (B, 2 N, X...)."""
    return rows if session.origin is None else torch.cat([session.origin, rows], dim=1)


def off_the_device(*tensors: Tensor) -> Callable[[], list[Tensor]]:
    """Begins to copy to the host; the result waits for the copies. On the CPU nothing is copied."""
    if tensors[0].device.type != "cuda":
        return lambda: list(tensors)
    host = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for target, tensor in zip(host, tensors, strict=True):
        target.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def arrived() -> list[Tensor]:
        done.synchronize()
        return host

    return arrived


def stepped_on(grid: Grid, boundary: BoundaryCondition, least: int) -> tuple[Grid, int]:
    """A grid of at least `least` points an axis of a periodic box, of which every so many-th is one of `grid`."""
    every = max(1, *(math.ceil(least / n) for n in grid.n)) if all(boundary.periodic) else 1
    return Grid(tuple(n * every for n in grid.n), grid.extent, tuple(place * every for place in grid.offset)), every


def step_bytes(config: UPSConfig, points: Sequence[int]) -> int:
    """Working memory of one step of one state, estimated from the architecture.

    `STEP_TENSORS` tensors of all channels at every point, padding included; an operator through the language model
    works on its own square grid.
    """
    if config.through_body:
        points = (config.resolution,) * config.superspace.max_dimensions
    padded = math.prod(round(n * (1 + config.embedder.padding)) for n in points)
    return 4 * STEP_TENSORS * config.embedder.hidden_channels * padded


class UPSSolver:
    """A trained model behind the `Solver` interface."""

    def __init__(self, model: TrainedModel | Operator) -> None:
        self.checkpoint = TrainedModel.of(model)
        self.model = self.checkpoint.operator
        self.name = model.config.name
        self._operators = dict[str, Operator]()
        self._device = next(self.model.parameters()).device

    def dt(self, family: str) -> float:
        return self._card(family).dt

    def _card(self, family: str) -> KnownFamily:
        try:
            return self.model.config.families[family]
        except KeyError:
            raise UserError(
                "family_not_in_model",
                f"{self.name} was not trained on {family}",
                got=family,
                expected=sorted(self.model.config.families),
            ) from None

    def _operator(self, family: str) -> Operator:
        """With the deltas of the family, where it has any."""
        if family not in self._operators:
            self._operators[family] = self.checkpoint.of_family(family).operator
        return self._operators[family]

    def _stepped_on(self, problem: Problem) -> tuple[Problem, int]:
        """The problem on the grid it is stepped on, and which of its points, every so many-th, are those asked for."""
        fine, every = stepped_on(problem.grid, problem.boundary, self._card(problem.family).points)
        return replace(problem, grid=fine), every

    def _spread(self, frames: Frames, problem: Problem, fine: Problem) -> Tensor:
        """States (B, X..., C) given on the grid of `problem`, on that of `fine`."""
        return self._tensor(resample(frames, problem.grid, fine.grid, problem.boundary))

    def _conditions(
        self, problem: Problem, fine: Problem, initial: Tensor, static: Frames | None
    ) -> tuple[KnownFamily, Conditions]:
        """Args: initial, on the grid of `fine`; static, on that of `problem`."""
        card = self._card(problem.family)
        if not np.isclose(problem.dt, card.dt, rtol=1e-6):
            raise UserError("dt_mismatch", f"{self.name} steps by its own dt", got=problem.dt, expected=card.dt)
        values = {name: array.tolist() for name, array in problem.coefficient_arrays(len(initial)).items()}
        fixed = None if static is None else resample(static, problem.grid, fine.grid, problem.boundary)
        given = conditions(
            self.model.config, card, values, fine.boundary, fine.grid.offset, initial, as_static(fixed, card)
        )
        return card, given.to(self._device)

    @torch.inference_mode()
    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> UPSSession:
        fine, every = self._stepped_on(problem)
        state = self._spread(initial, problem, fine)
        card, given = self._conditions(problem, fine, state, static)
        return UPSSession(self._operator(problem.family), card, given, lift(state, card, given), every)

    @torch.inference_mode()
    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        fine, every = self._stepped_on(problem)
        initial = self._spread(truth[:, 0], problem, fine)
        card, given = self._conditions(problem, fine, initial, static)
        model = self._operator(problem.family)
        context = model.read(lift(initial, card, given), given)
        out = np.empty_like(truth[:, 1:])
        for step in range(truth.shape[1] - 1):
            u = lift(self._spread(truth[:, step], problem, fine), card, given)
            if reads_again(model, step):
                context = model.read(u, given)
            predicted = lower(model(u, context), card, given).cpu().numpy()
            out[:, step] = subsampled(predicted, (every,) * fine.grid.ndim)
        return out

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


STD_FLOOR = 1e-6
"""Smallest scale of a field, relative to its magnitude: a constant initial field is not divided by zero."""


@final
class ZeroShotSolver:
    """The model on any family, every trajectory under statistics of its own."""

    def __init__(self, model: TrainedModel | Operator) -> None:
        self.name = model.config.name
        self._model = TrainedModel.of(model).operator

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
        model = copy(self._model)  # the weights that all families share
        model.config = self._model.config.model_copy(update={"families": {problem.family: card}})
        return UPSSolver(model)


@final
class _Sessions:
    """Rollouts of single states, side by side."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = sessions

    def step(self) -> Frames:
        return np.concatenate([session.step() for session in self._sessions])


def unseen_card(config: UPSConfig, family_id: str, initial: Frames, static: Frames | None = None) -> KnownFamily:
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
    card = KnownFamily(
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
