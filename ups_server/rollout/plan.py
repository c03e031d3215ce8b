"""From a request to a plan the engine can run: defaults, checks, rescaling, flags. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.catalog import Catalog, FamilySupport, ModelCard
from ups_server.data.exporters.base import Header
from ups_server.engine.engine import RolloutSpec
from ups_server.errors import UserError
from ups_server.files.equations import model_equation
from ups_server.files.storage import FileStorage
from ups_server.pde import BoundaryCondition, Family, Grid, families, family
from ups_server.pde.resampling import resample
from ups_server.rollout.ensemble import Ensemble, perturbed
from ups_server.rollout.equations import ResolvedRequest, WrittenEquation, resolve
from ups_server.rollout.flags import ended_flag, horizon_flags, known_flags, unresolved_flags
from ups_server.rollout.initial import States, as_states, drawn_states, initial_array
from ups_server.rollout.super_resolution import Refinement, refinement, true_start
from ups_server.rollout.uploaded import from_file
from ups_server.settings import Settings
from ups_server.solvers.limits import Ended, state_limits
from ups_server.solvers.solver import Frames, Problem
from ups_server.specs import Flag, Placement, RolloutRequest

MAX_RESCALING = 1e6
"""Boxes up to so many times the family's own, or smaller, are rescaled: float32 still holds the values."""


@dataclass(frozen=True)
class Plan:
    """A rollout ready to run.

    The engine works on the family's own box; `scale` (C,) turns its values into those of the request's box.

    Attributes:
        grid, coefficients: as the request has them.
        initial: (B, X..., C) float32 on the family's own box.
        stride: engine steps per frame.
        dt: time between two steps of the request.
        batched: does the answer have a batch axis?
        flags: what is known before the first step.
        refined: an answer on a finer grid than the state's; `initial` is on the grid the engine works on.
        written: the equation of a request that wrote it out.
        ensemble: `initial` has the control and its members, `answer_values` makes statistics of them.
        truth: what a numerical solver starts from, and that in words, where it is not `initial`.
    """

    request: ResolvedRequest
    card: ModelCard
    family: Family
    spec: RolloutSpec
    grid: Grid
    coefficients: dict[str, float]
    initial: Frames
    static: Frames | None
    scale: NDArray[np.float32]
    stride: int
    dt: float
    batched: bool
    flags: list[Flag]
    refined: Refinement | None = None
    truth: tuple[Frames, Frames | None, str] | None = None
    ensemble: Ensemble | None = None
    written: WrittenEquation | None = None

    @property
    def n_frames(self) -> int:
        """Frames of the answer, the initial condition included."""
        return self.spec.n_steps // self.stride + 1

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
        frame_dt = self.dt * self.request.save_every
        return np.array([float(f"{frame * frame_dt:.12g}") for frame in range(self.n_frames)])

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
            **({"super_resolution": self.refined.told.model_dump(mode="json")} if self.refined else {}),
            **({"ensemble": self.ensemble.told(flags).model_dump(mode="json")} if self.ensemble else {}),
            **(self.written.attributes() if self.written else {}),
        }

    def header(self) -> Header:
        """Of the answer, before its first step."""
        attributes = self.attributes(self.flags)
        return Header(self.family, self.grid, self.times(), self.coefficients, self.rows, attributes, self.batched)

    def answer_values(self, values: Frames) -> Frames:
        """Engine values (B, X..., C) in the units of the request's box, at the points of the answer."""
        physical = self._physical(values)
        return physical if self.ensemble is None else self.ensemble.reduce(physical)

    def _physical(self, values: Frames) -> Frames:
        if self.finer is not None:
            values = resample(values, self.spec.problem.grid, self.finer, self.family.boundary)
        return values * self.scale

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

    def own_states(self, values: Frames) -> Frames:
        """Of what the engine has, the states (B, X..., C) that are diagnosed, on the family's own box."""
        return values if self.ensemble is None else values[:1]

    def states(self, values: Frames) -> Frames:
        """The same in the units of the request's box, at the points of the answer."""
        return self._physical(self.own_states(values))

    @property
    def reference_initial(self) -> Frames:
        """What the numerical solver starts from, on the family's own box."""
        return self.own_states(self.initial if self.truth is None else self.truth[0])

    @property
    def reference_static(self) -> Frames | None:
        static = self.static if self.truth is None else self.truth[1]
        return None if static is None else self.own_states(static)

    @property
    def reference_start(self) -> str:
        """The same in words."""
        return "the initial state of the model" if self.truth is None else self.truth[2]

    def ended_flag(self, event: Ended) -> Flag:
        """What a reader has to know about states that ended early."""
        of = "" if len(self.initial) == 1 else f"state {event.states[0]}"
        of = f"{len(event.states)} states" if len(event.states) > 1 else of
        of = self.ensemble.in_words(event.states) if self.ensemble is not None else of
        return ended_flag(event, self.family, of, self.spec.problem.dt, self.scale.tolist())


def equation_of(request: ResolvedRequest, card: ModelCard) -> Family:
    """The family of a request: the model's own where it was tuned to an equation of a user's."""
    own = model_equation(Path(card.source)) if card.kind == "learned" else None
    return own.family() if own is not None and own.id == request.family else family(request.family)


def plan(
    wanted: RolloutRequest,
    catalog: Catalog,
    settings: Settings,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    files: FileStorage | None = None,
) -> Plan:
    """Checks a request against family, model and limits and fills in what it leaves open.

    Args:
        arrays: the arrays of a binary request: `initial_condition`, and `static` for families with static fields.
        files: the uploaded files of the service, for requests that start from one.

    Raises:
        UserError: everything that can be wrong with a request.
    """
    request, written = resolve(wanted)
    card = catalog.model(request.model or settings.default_model)
    equation = equation_of(request, card)
    if request.initial_condition is not None and request.initial_condition.file is not None:
        request, arrays = from_file(request, equation, files, arrays)
    support, equation = card.support(equation.id), _under(request, equation, card)
    if request.reference:
        _check_reference(card, equation)
    values = initial_array(request.initial_condition, arrays)
    states = None if values is None else as_states(values, equation, request.grid.n)
    grid = grid_of(request, equation, card, states[0].shape[1:-1] if states else None)
    _check_points(request, grid, card, equation)
    dt, substeps = _time_step(request, card, support, equation.t_final)
    stride = substeps * request.save_every
    n_steps = request.n_steps // request.save_every * stride
    count, batched = _batch(request, states)
    points = math.prod(request.output_resolution or grid.n)
    rows = count if request.ensemble is None else max(request.ensemble.members, len(request.ensemble.quantiles)) + 3
    _check_limits(settings, n_steps, (n_steps // stride + 1) * rows * points * len(equation.fields))

    length = _rescaling(equation, grid)
    coefficients = equation.complete(request.coefficients)
    own = equation.complete(_rescaled(equation, coefficients, length))
    own_grid = replace(grid, extent=equation.extent)
    scale = np.array([length**-field.length_power for field in equation.fields], dtype=np.float32)
    if states is None:
        initial, static = drawn_states(request.initial_condition, equation, own_grid, own)
    else:
        initial, static = states[0] if length == 1.0 else states[0] / scale, states[1]
    if written is not None and equation.static_fields:
        static = written.forcing(grid, len(initial))
    flags = known_flags(equation, card, support, own, own_grid, initial)
    flags += horizon_flags(equation, card, n_steps * dt / substeps, request.n_steps, request.save_every)
    if card.id == "numerical" and request.output_resolution is None:
        flags += unresolved_flags(equation, own, own_grid, request.initial_condition, initial)
    if request.ensemble is not None:
        initial = perturbed(initial, request.ensemble, equation, own_grid)
        static = None if static is None else np.repeat(static, len(initial), axis=0)
    refined = refinement(request, card, equation, own, own_grid, initial, static)
    truth = true_start(request, equation, refined, own) if refined and request.reference else None
    if refined is not None:
        grid = Grid(refined.fine.n, grid.extent)
        if not refined.interpolates:
            own_grid, initial, static = refined.fine, refined.initial, refined.static
    problem = Problem(equation.id, own, own_grid, equation.boundary, dt / substeps)
    limits = state_limits(equation, support.statistics, own, initial, static) if card.kind == "learned" else ()
    return Plan(
        request=request,
        card=card,
        family=equation,
        spec=RolloutSpec(card.source, problem, n_steps, stride, request.deterministic, limits=limits),
        grid=grid,
        initial=initial,
        static=static,
        scale=scale,
        stride=stride,
        dt=dt,
        coefficients=coefficients,
        batched=batched or request.ensemble is not None,
        flags=flags,
        refined=refined,
        truth=truth,
        ensemble=None if request.ensemble is None else Ensemble(request.ensemble),
        written=written,
    )


def grid_of(request: ResolvedRequest, equation: Family, card: ModelCard, shape: tuple[int, ...] | None) -> Grid:
    """The request's grid; points default to those of the given array, else to what the model was trained at."""
    default = card.support(equation.id).points or card.resolution or equation.n
    n = request.grid.n or shape or (default,) * equation.ndim
    extent = request.grid.extent or equation.extent
    offset = request.grid.offset or (Grid.CENTRE,) * equation.ndim
    if any(len(entries) != equation.ndim for entries in (n, extent, offset)):
        raise UserError(
            "invalid_grid",
            f"{equation.id} needs a grid of {equation.ndim} dimension(s)",
            got={"n": n, "extent": extent, "offset": offset},
            expected=f"{equation.ndim} entries each",
        )
    if request.grid.points is Placement.NODES:
        return Grid.nodes(n, extent, equation.boundary.periodic)
    return Grid(n, extent, offset)


def _check_points(request: ResolvedRequest, grid: Grid, card: ModelCard, equation: Family) -> None:
    """Refuses points that whatever computes this rollout does not know."""
    sampled = request.initial_condition is not None and request.initial_condition.sample is not None
    if sampled or request.reference or card.id == "numerical":
        equation.check_points(grid)
    if card.kind == "learned" and any(grid.closed):
        raise UserError(
            "points_not_supported",
            f"{card.id} works on cells of a bounded axis, whose ends are no points of it",
            got="nodes",
            expected="cells, or an offset",
        )


def _time_step(request: ResolvedRequest, card: ModelCard, support: FamilySupport, longest: float) -> tuple[float, int]:
    """(time between two steps of the request, model steps in it). Built-in solvers take any step up to `longest`."""
    if request.dt is None:
        return support.dt, 1
    if card.kind == "builtin":
        if request.dt > longest:
            raise UserError(
                "dt_mismatch", "dt is longer than the family's whole time", got=request.dt, expected=f"≤ {longest:g}"
            )
        return request.dt, 1
    substeps = round(request.dt / support.dt)
    if substeps < 1 or not math.isclose(substeps * support.dt, request.dt, rel_tol=1e-6):
        raise UserError(
            "dt_mismatch",
            f"dt must be a multiple of the step {card.id} was trained at",
            got=request.dt,
            expected=f"a multiple of {support.dt:g}",
        )
    # To 12 digits: what is run is the multiple of the model's step, whatever stood behind those in the request.
    return float(f"{substeps * support.dt:.12g}"), substeps


def _check_reference(card: ModelCard, equation: Family) -> None:
    if card.id == "numerical":
        raise UserError("no_reference", "the numerical solver is the reference itself", hint="choose a trained model")
    if equation.id not in families():
        raise UserError(
            "no_reference",
            f"{equation.id} has no numerical solver here to compare with",
            got=equation.id,
            expected=sorted(families()),
        )


def _check_limits(settings: Settings, n_steps: int, values: int) -> None:
    if n_steps > settings.max_steps:
        raise UserError(
            "too_many_steps",
            "the rollout takes more model steps than this service allows",
            got=n_steps,
            expected=f"at most {settings.max_steps}",
        )
    if values > settings.max_points:
        raise UserError(
            "too_many_points",
            "the answer would hold more values than this service allows",
            got=values,
            expected=f"at most {settings.max_points}",
            hint="use a larger save_every, a coarser grid, fewer states or fewer steps",
        )


def _batch(request: ResolvedRequest, states: States | None) -> tuple[int, bool]:
    """(number of states, does the answer have a batch axis)."""
    if states is not None:
        return len(states[0]), states[2]
    sample = request.initial_condition and request.initial_condition.sample
    return (sample.count if sample else None) or 1, bool(sample and sample.count)


def _under(request: ResolvedRequest, equation: Family, card: ModelCard) -> Family:
    """The equation under the boundary condition of the request."""
    if request.boundary is None or request.boundary == equation.boundary.sides:
        return equation
    trained = card.support(equation.id).boundaries
    if card.kind == "learned" and request.boundary not in trained:
        raise UserError(
            "boundary_not_supported",
            f"{card.id} was not trained on {equation.id} under this boundary condition",
            got=BoundaryCondition(request.boundary).as_names(),
            expected=[equation.boundary.as_names(), *(BoundaryCondition(sides).as_names() for sides in trained)],
            hint="choose `numerical`, where the family's `boundaries` have it",
        )
    return equation.under(BoundaryCondition(request.boundary))


def _rescaling(equation: Family, grid: Grid) -> float:
    """L: the length of the request's box over that of the family's own."""
    ratios = [length / (high - low) for length, (low, high) in zip(grid.length, equation.extent, strict=True)]
    if any(not math.isclose(ratio, ratios[0], rel_tol=1e-9) for ratio in ratios):
        raise UserError(
            "extent_not_rescalable",
            "the box must have the proportions of the family's own",
            got=grid.extent,
            expected=equation.extent,
        )
    if not 1 / MAX_RESCALING <= ratios[0] <= MAX_RESCALING:
        raise UserError(
            "extent_not_rescalable",
            "the box is too large or too small to be rescaled",
            got=grid.extent,
            expected=f"{1 / MAX_RESCALING:g} to {MAX_RESCALING:g} times {equation.extent}",
        )
    return 1.0 if math.isclose(ratios[0], 1.0, rel_tol=1e-9) else ratios[0]


def _rescaled(equation: Family, coefficients: dict[str, float], length: float) -> dict[str, float]:
    """The coefficients of the same problem on the family's own box."""
    if length == 1.0:
        return coefficients
    powers = {coefficient.name: coefficient.length_power for coefficient in equation.coefficients}
    fixed = [name for name, power in powers.items() if power is None]
    if fixed or not powers:
        raise UserError(
            "extent_not_rescalable",
            f"{equation.id} cannot be rescaled to another box: its numbers do not scale with length",
            got=length,
            expected=equation.extent,
        )
    return {name: coefficients[name] * length**power for name, power in powers.items() if power is not None}
