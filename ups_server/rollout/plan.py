"""From a request to a plan the engine can run, in stages, each of which hands one value to the next. Imports no torch.

`resolve`     `RolloutRequest` -> `Resolved`: equation, model, where the states come from
`discretize`  `Resolved` -> `Discretized`: grid, coefficients, time step, and what the rest takes
`check_size`  refuses what is too much, before anything of it is made
`_start`      `Discretized` -> `InitialState`: states, perturbed and interpolated where that was asked for, and flags
`_planned`    `InitialState` -> `Plan`: the engine's `RolloutSpec`, and how to make an answer of its frames
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.catalog import Catalog, ModelCard
from ups_server.data.formats.base import CoefficientValues, Header
from ups_server.engine.engine import RolloutSpec
from ups_server.files.storage import FileStorage
from ups_server.pde import Family, Grid
from ups_server.pde.resampling import resample
from ups_server.rollout.ensemble import Ensemble, perturbed
from ups_server.rollout.flags import ended_flag, horizon_flags, known_flags, resolving_factor, unresolved_flags
from ups_server.rollout.initial import drawn_states
from ups_server.rollout.resolve import (
    CoefficientNumbers,
    Discretized,
    ResolvedRequest,
    WrittenEquation,
    check_size,
    discretize,
    resolve,
)
from ups_server.rollout.super_resolution import Refinement, refinement
from ups_server.settings import Settings
from ups_server.solvers.limits import Ended, state_limits
from ups_server.solvers.solver import Frames, Problem
from ups_server.specs import Flag, RolloutRequest, SampleSpec
from ups_server.tensors import Arrays


@dataclass(frozen=True)
class Plan:
    """A rollout ready to run.

    The engine works on the family's own box; `scale` (C,) turns its values into those of the request's box.

    Attributes:
        grid, coefficients: as the request has them.
        initial: (B, X..., C) float32 on the family's own box.
        dt: time between two steps of the request.
        batched: does the answer have a batch axis?
        flags: what is known before the first step.
        refined: an answer on a finer grid than the state's; `initial` is on the grid the engine works on.
        written: the equation of a request that wrote it out.
        ensemble: `initial` has the control and its members, `answer_values` makes statistics of them.
    """

    request: ResolvedRequest
    card: ModelCard
    family: Family
    spec: RolloutSpec
    grid: Grid
    coefficients: CoefficientNumbers
    initial: Frames
    static: Frames | None
    scale: NDArray[np.float32]
    dt: float
    batched: bool
    flags: list[Flag]
    refined: Refinement | None = None
    ensemble: Ensemble | None = None
    written: WrittenEquation | None = None

    @property
    def n_frames(self) -> int:
        """Frames of the answer, the initial condition included."""
        return self.spec.frames_by(self.spec.n_steps) + 1

    @property
    def rows(self) -> int:
        """States of a frame of the answer."""
        return len(self.initial) if self.ensemble is None else len(self.ensemble.statistics)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole answer: (B, T, X..., C)."""
        return (self.rows, self.n_frames, *self.grid.n, self.initial.shape[-1])

    def times(self) -> NDArray[np.float64]:
        """(T,), to 12 digits: 0.15 instead of 0.15000000000000002."""
        step = self.spec.problem.dt
        return np.array([float(f"{self.spec.step_of(frame) * step:.12g}") for frame in range(self.n_frames)])

    def attributes(self, flags: list[Flag]) -> dict[str, Any]:
        """What an answer says beside family, grid, coefficients and arrays."""
        return {
            "model": self.card.id,
            "model_version": self.card.version,
            "dt": self.dt,
            "n_steps": self.request.n_steps,
            "save_every": self.request.save_every,
            "batched": self.batched,
            "flags": [flag.model_dump(mode="json") for flag in flags],
            **({"super_resolution": self.refined.summary.model_dump(mode="json")} if self.refined else {}),
            **({"ensemble": self.ensemble.summary(flags).model_dump(mode="json")} if self.ensemble else {}),
            **(self.written.attributes() if self.written else {}),
        }

    @property
    def stored(self) -> CoefficientValues:
        """The coefficients as formats take them."""
        return {
            name: np.array(value) if isinstance(value, list) else value for name, value in self.coefficients.items()
        }

    def header(self) -> Header:
        """Of the answer, before its first step."""
        attributes = self.attributes(self.flags)
        return Header(self.family, self.grid, self.times(), self.stored, self.rows, attributes, self.batched)

    def answer_values(self, values: Frames) -> Frames:
        """Engine values (B, X..., C) in the units of the request's box, at the points of the answer."""
        physical = self._physical(values)
        return physical if self.ensemble is None else self.ensemble.reduce(physical)

    def _physical(self, values: Frames) -> Frames:
        if self.finer is not None:
            values = resample(values, self.spec.problem.grid, self.finer, self.family.boundary)
        return values * self.scale

    @property
    def answer_static(self) -> Frames | None:
        """(rows, X..., S) static fields at the points of the answer, of an ensemble those of all its members; None on a
        box other than the family's own, whose units they have, and where they may be left out and are zero."""
        found = self.static if self.refined is None else self.refined.static
        if found is None or self.grid.extent != self.family.extent or (self.family.static_optional and not found.any()):
            return None
        return found if self.ensemble is None else np.repeat(found[:1], self.rows, axis=0)

    @property
    def finer(self) -> Grid | None:
        """The grid of the answer on the family's own box, where the engine works on a coarser one."""
        return self.refined.fine if self.refined is not None and self.refined.interpolates else None

    @property
    def many(self) -> bool:
        """Is there an axis of states in what is said of every frame?"""
        return self.batched and self.ensemble is None

    @property
    def answer_grid(self) -> Grid:
        """The grid of the answer, on the family's own box."""
        return self.finer or self.spec.problem.grid

    def control(self, values: Frames) -> Frames:
        """Of the engine's states, those (B, X..., C) that are diagnosed: of an ensemble, the unperturbed one."""
        return values if self.ensemble is None else values[:1]

    def states(self, values: Frames) -> Frames:
        """The same in the units of the request's box, at the points of the answer."""
        return self._physical(self.control(values))

    def ended_flag(self, event: Ended) -> Flag:
        """What a reader has to know about states that ended early."""
        of = "" if len(self.initial) == 1 else f"state {event.states[0]}"
        of = f"{len(event.states)} states" if len(event.states) > 1 else of
        of = self.ensemble.in_words(event.states) if self.ensemble is not None else of
        return ended_flag(event, self.family, of, self.spec.problem.dt, self.scale.tolist())


@dataclass(frozen=True)
class InitialState:
    """A discretized request with its states, on the family's own box.

    Attributes:
        states, static: (B, X..., C) and (B, X..., S), the members of an ensemble included, on `grid`.
        grid: the engine's.
        flags: of the states as they were given or drawn.
        refined: where the answer is on a finer grid than that of the request.
    """

    discretized: Discretized
    states: Frames
    static: Frames | None
    grid: Grid
    flags: list[Flag]
    refined: Refinement | None


def plan(
    wanted: RolloutRequest,
    catalog: Catalog,
    settings: Settings,
    arrays: Arrays | None = None,
    files: FileStorage | None = None,
) -> Plan:
    """Checks a request against family, model and limits and fills in what it leaves open.

    Args:
        arrays: the arrays of a binary request: `initial_condition`, and `static` for families with static fields.
        files: the uploaded files of the service, for requests that start from one.

    Raises:
        UserError: everything that can be wrong with a request.
    """
    return completed(outlined(wanted, catalog, settings, arrays, files), settings)


def outlined(
    wanted: RolloutRequest,
    catalog: Catalog,
    settings: Settings,
    arrays: Arrays | None = None,
    files: FileStorage | None = None,
) -> Discretized:
    """The first half of `plan`, which makes no states: what the other half takes is known before it begins."""
    return discretize(resolve(wanted, catalog, settings, arrays, files))


def completed(outline: Discretized, settings: Settings) -> Plan:
    """The other half."""
    check_size(outline, settings)
    return _planned(_start(outline))


def _start(found: Discretized) -> InitialState:
    """The initial states: given or drawn, flagged, perturbed, and interpolated."""
    resolved, grid, coefficients = found.resolved, found.own_grid, found.own_coefficients
    request, equation, card = resolved.request, resolved.family, resolved.card
    if isinstance(resolved.source, SampleSpec):
        states, static = drawn_states(resolved.source, equation, grid, coefficients)
    else:
        states, static = resolved.source.states(equation)
        states = states if found.length == 1.0 else states / found.scale
    if resolved.written is not None and equation.static_fields:
        static = resolved.written.forcing(found.grid, len(states))
    flags = known_flags(equation, card, resolved.support, found.untrained, grid, states)
    flags += horizon_flags(
        equation, card, found.n_steps * found.dt / found.substeps, request.n_steps, request.save_every
    )
    if card.id == "numerical" and request.output_resolution is None:
        flags += unresolved_flags(equation, grid, states, _whole(found))
    if request.ensemble is not None:
        states = perturbed(states, request.ensemble, equation, grid)
        static = None if static is None else np.repeat(static, len(states), axis=0)
    if request.output_resolution is None:
        return InitialState(found, states, static, grid, flags, None)
    refined = refinement(request.output_resolution, request.method, card, equation, coefficients, grid, states, static)
    if not refined.interpolates:
        grid, states, static = refined.fine, refined.initial, refined.static
    return InitialState(found, states, static, grid, flags, refined)


def _whole(found: Discretized) -> Frames | None:
    """Drawn states at as many points as show all of them; None where they are given, or all points are there."""
    resolved, grid = found.resolved, found.own_grid
    factor = resolving_factor(resolved.family, grid)
    if factor == 1 or not isinstance(resolved.source, SampleSpec):
        return None
    return drawn_states(resolved.source, resolved.family, grid.refined(factor)[0], found.own_coefficients)[0]


def _planned(start: InitialState) -> Plan:
    """What the engine is asked for, and all that an answer is made of."""
    found, refined = start.discretized, start.refined
    resolved = found.resolved
    request, card, equation = resolved.request, resolved.card, resolved.family
    problem = Problem(equation.id, found.own_coefficients, start.grid, equation.boundary, found.dt / found.substeps)
    limits = (
        state_limits(equation, resolved.support.statistics, found.own_coefficients, start.states, start.static)
        if card.kind == "learned"
        else ()
    )
    return Plan(
        request=request,
        card=card,
        family=equation,
        spec=RolloutSpec(
            card.source, problem, found.n_steps, found.stride, request.deterministic, limits=limits, kept=found.kept
        ),
        grid=found.grid if refined is None else Grid(refined.fine.n, found.grid.extent),
        coefficients=found.coefficients,
        initial=start.states,
        static=start.static,
        scale=found.scale,
        dt=found.dt,
        batched=found.batched or request.ensemble is not None,
        flags=start.flags,
        refined=refined,
        ensemble=None if request.ensemble is None else Ensemble(request.ensemble),
        written=resolved.written,
    )
