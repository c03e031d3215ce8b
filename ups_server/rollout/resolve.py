"""What a request asks for, before anything is drawn, read or computed: its equation and model, then grid and numbers.

`resolve` finds family, model, number of steps and where the states come from. `discretize` takes what that gives and
places the rollout on its grid, with its coefficients and time step: in the units of the request, and on the family's
own box, where the engine works. What all the rest takes is known from there (`Discretized.bytes`, `check_size`).
Imports no torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ups_server.catalog import Catalog, FamilySupport, ModelCard, Range
from ups_server.data.source import place_of
from ups_server.errors import UserError
from ups_server.files.equations import model_equation
from ups_server.files.storage import FileStorage
from ups_server.language.reader import terms_of
from ups_server.pde import BoundaryCondition, Family, Grid, families, family
from ups_server.pde.equation import Equation, recognise
from ups_server.pde.grammar import parse_equation
from ups_server.rollout.initial import GivenArrays, StoredStart, source_of
from ups_server.settings import Settings
from ups_server.solvers.solver import Frames
from ups_server.specs import GridSpec, Placement, RolloutRequest, SampleSpec
from ups_server.tensors import Arrays

CoefficientNumbers = dict[str, float | list[float]]
"""By name: one number for all states, or one for each."""

UNIFORM = 1e-6
"""Largest deviation of a time from a multiple of the step, in units of the step."""
MAX_UNEVEN = 10_000
"""Times that are not evenly spaced."""
MAX_PARTS = 1000
"""The step of unevenly spaced times is the first of them over a number up to this."""
MOST_STEPS = 10**9
"""As of `RolloutRequest.n_steps`."""


@dataclass(frozen=True)
class WrittenEquation:
    """The equation of a request that writes it out, in the units of its box."""

    equation: Equation

    @classmethod
    def of(cls, text: str, coefficients: Mapping[str, float]) -> "WrittenEquation":
        """Reads an equation in symbols, and values of its names.

        Raises:
            UserError: those of `parse_equation` and `Equation.check`.
        """
        equation = parse_equation(text, dict(coefficients))
        equation.check()
        return cls(equation)

    def known(self) -> dict[str, Any]:
        """The family that solves it, and its coefficients."""
        found = recognise(self.equation)
        return {"family": found.family, "coefficients": found.coefficients}

    def attributes(self) -> dict[str, Any]:
        """What an answer says about it."""
        return {
            "equation": str(self.equation),
            "terms": [term.model_dump(mode="json") for term in terms_of(self.equation)],
        }

    def forcing(self, grid: Grid, count: int) -> Frames:
        """f(x) as static field (B, X, 1) at the points of the request's grid; zero where there is none.

        Raises:
            UserError: ``invalid_equation`` where it is not finite.
        """
        (x,) = grid.axes
        formula = self.equation.forcing
        values = np.zeros_like(x) if formula is None else formula.at(x)
        if not np.isfinite(values).all():
            raise UserError(
                "invalid_equation",
                f"f(x) = {formula} is not finite everywhere on the box",
                got=f"x = {x[~np.isfinite(values)][0]:g}",
                expected="a function that is finite at every point of the grid",
            )
        return np.repeat(values.astype(np.float32)[None, :, None], count, axis=0)


def steps_of(times: tuple[float, ...], longest: float) -> dict[str, Any]:
    """n_steps, dt, and save_every or kept, that give these times after the initial condition.

    The step is the longest that all times are multiples of, and at most `longest`.

    Raises:
        UserError: ``invalid_times``.
    """
    later = np.array(times[1:] if times[0] == 0.0 else times)
    if not len(later) or later[0] <= 0.0 or (np.diff(later) <= 0.0).any():
        raise UserError(
            "invalid_times",
            "times have to rise from the initial condition at 0 on",
            got=list(times[:8]),
            expected="ascending times after 0, with or without 0 before them",
        )
    first = float(later[0])
    step, steps = _common_step(later)
    parts = max(1, math.ceil(step / longest - UNIFORM)) if longest else 1
    found = {"n_steps": int(steps[-1]) * parts, "dt": step / parts}
    if step == first and len(later) == steps[-1]:
        return found | {"save_every": parts}
    return found | {"kept": tuple((steps * parts).tolist())}


def _common_step(later: NDArray[np.float64]) -> tuple[float, NDArray[np.int64]]:
    """The longest step that all times are multiples of to six digits of it, and how many each takes."""
    first = float(later[0])
    uniform = np.arange(1, len(later) + 1)
    if np.abs(later - first * uniform).max() <= UNIFORM * first:
        return first, uniform
    with np.errstate(over="ignore"):
        most = later[-1] / first
    if len(later) <= MAX_UNEVEN and most <= MOST_STEPS:
        for parts in range(1, MAX_PARTS + 1):
            steps = np.rint(later / first * parts)
            if np.abs(later - steps * (first / parts)).max() <= UNIFORM * first / parts:
                return first / parts, steps.astype(np.int64)
    raise UserError(
        "invalid_times",
        "times that are not evenly spaced have to be multiples of one step",
        got=later[:8].tolist(),
        expected=f"at most {MAX_UNEVEN} times, multiples of the first one over a number up to {MAX_PARTS}",
        hint="round them, to hundredths for example, or ask for evenly spaced times and interpolate",
    )


MAX_RESCALING = 1e6
"""Boxes up to so many times the family's own, or smaller, are rescaled: float32 still holds the values."""
MADE_BYTES = 64
"""Most memory a plan takes per value of a state that is perturbed or interpolated."""


class ResolvedRequest(RolloutRequest):
    """A request whose family and steps are known; `kept`: those that are answered, where they are not evenly spaced."""

    family: str
    n_steps: int
    kept: tuple[int, ...] = ()

    @property
    def sample(self) -> SampleSpec | None:
        """What its states are drawn from; None where they are given."""
        return None if self.initial_condition is None else self.initial_condition.sample


@dataclass(frozen=True)
class Resolved:
    """A request whose equation, model and initial states are known.

    Attributes:
        card, support: the model, and what it knows of the family.
        family: under the boundary condition of the request.
        source: what the states come from.
        written: the equation of a request that wrote it out.
        wanted, arrays: what all this was made of.
    """

    request: ResolvedRequest
    card: ModelCard
    support: FamilySupport
    family: Family
    source: GivenArrays | StoredStart | SampleSpec
    written: WrittenEquation | None
    wanted: RolloutRequest
    arrays: Arrays | None


@dataclass(frozen=True)
class Discretized:
    """A resolved request on its grid.

    Attributes:
        grid, coefficients: in the units of the request.
        own_grid, own_coefficients: on the family's own box.
        length: of the request's box over that of the family's own.
        dt: time between two steps of the request, each of which the model makes in `substeps` of its own.
        stride: steps of the model per frame; kept: those that become frames instead, where there are any.
        n_steps: of the model.
        count: states that are given or drawn.
        batched: do they have an axis of their own in the request?
    """

    resolved: Resolved
    grid: Grid
    coefficients: CoefficientNumbers
    own_grid: Grid
    own_coefficients: CoefficientNumbers
    length: float
    dt: float
    substeps: int
    stride: int
    n_steps: int
    kept: tuple[int, ...]
    count: int
    batched: bool

    @property
    def scale(self) -> NDArray[np.float32]:
        """(C,) turns values on the family's own box into those of the request's."""
        fields = self.resolved.family.fields
        return np.array([self.length**-field.length_power for field in fields], dtype=np.float32)

    @property
    def untrained(self) -> dict[str, tuple[float | list[float], Range]]:
        """Coefficients on the family's own box that leave, in any state, what the model was trained on; and that."""
        return {
            name: (self.own_coefficients[name], trained)
            for name, trained in self.resolved.support.coefficients.items()
            if not all(map(trained.contains, np.ravel(self.own_coefficients.get(name, []))))
        }

    @property
    def output(self) -> int:
        """Points of the answer."""
        return math.prod(self.resolved.request.output_resolution or self.grid.n)

    @property
    def bytes(self) -> int:
        """Most memory that making a plan takes, beside the arrays there are."""
        request, equation = self.resolved.request, self.resolved.family
        fields, source = len(equation.fields), self.resolved.source
        state = math.prod(self.grid.n) * fields
        if isinstance(source, SampleSpec):
            made = self.count * state * equation.sample_bytes
        else:
            made = source.bytes(rescaled=request.grid.extent is not None)
        members = 0 if request.ensemble is None else request.ensemble.members + 1
        finer = 0 if request.output_resolution is None else self.output * fields * (members + 1)
        return made + self.count * (state * members + finer) * MADE_BYTES


def resolve(
    wanted: RolloutRequest,
    catalog: Catalog,
    settings: Settings,
    arrays: Arrays | None = None,
    files: FileStorage | None = None,
) -> Resolved:
    """The first stage.

    Args:
        arrays: the arrays of a binary request: `initial_condition`, and `static` for families with static fields.
        files: the uploaded files of the service, for requests that start from one.

    Raises:
        UserError: what is wrong with a request by itself, or for its model.
    """
    written = None if wanted.equation is None else WrittenEquation.of(wanted.equation, _numbers(wanted.coefficients))
    request = _by_family(wanted, written)
    card = catalog.model(request.model or catalog.default(settings.default_model, request.family))
    equation = _family(request, card, catalog)
    stored = None
    if request.initial_condition is not None and request.initial_condition.file is not None:
        request, stored = _from_file(request, equation, files, arrays)
    support, equation = card.support(equation.id), _under(request, equation, card)
    if request.reference:
        _check_reference(card, equation)
    source = stored or source_of(request.initial_condition, arrays, equation, request.grid.n)
    return Resolved(request, card, support, equation, source, written, wanted, arrays)


def discretize(found: Resolved) -> Discretized:
    """The second stage.

    Raises:
        UserError: ``invalid_grid``, ``points_not_supported``, ``dt_mismatch``, ``extent_not_rescalable``, and those of
            coefficients that the family does not have; ``wrong_shape`` of a list that is not as long as the batch.
    """
    request, equation, source = found.request, found.family, found.source
    grid = _grid(found)
    _check_points(found, grid)
    dt, substeps = _time_step(found)
    stride = substeps * request.save_every
    length = _rescaling(equation, grid)
    count = source.count or 1
    coefficients = _coefficients(equation, request.coefficients, count)
    return Discretized(
        resolved=found,
        grid=grid,
        coefficients=coefficients,
        own_grid=replace(grid, extent=equation.extent),
        own_coefficients=_coefficients(equation, _rescaled(equation, coefficients, length), count),
        length=length,
        dt=dt,
        substeps=substeps,
        stride=stride,
        n_steps=request.n_steps // request.save_every * stride,
        kept=tuple(step * substeps for step in request.kept),
        count=count,
        batched=source.count is not None if isinstance(source, SampleSpec) else source.batched,
    )


def check_memory(found: Discretized, settings: Settings) -> None:
    """Raises UserError ``too_much_memory`` where a plan would take more than requests are given."""
    if found.bytes > settings.bodies_memory_bytes:
        raise UserError(
            "too_much_memory",
            "making the initial states of this rollout takes more memory than this service gives to requests",
            got=found.bytes,
            expected=f"at most {settings.bodies_memory_bytes} bytes",
            hint="ask for fewer states at a time, or a coarser grid",
        )


def check_size(found: Discretized, settings: Settings) -> None:
    """Raises UserError ``too_many_steps`` or ``too_many_points`` of what is computed and answered."""
    if found.n_steps > settings.max_steps:
        raise UserError(
            "too_many_steps",
            "the rollout takes more model steps than this service allows",
            got=found.n_steps,
            expected=f"at most {settings.max_steps}",
        )
    ensemble = found.resolved.request.ensemble
    rows = found.count if ensemble is None else max(ensemble.members, len(ensemble.quantiles)) + 3
    frames = (len(found.kept) or found.n_steps // found.stride) + 1
    values = frames * rows * found.output * len(found.resolved.family.fields)
    if values > settings.max_points:
        raise UserError(
            "too_many_points",
            "the answer would hold more values than this service allows",
            got=values,
            expected=f"at most {settings.max_points}",
            hint="use a larger save_every, a coarser grid, fewer states or fewer steps",
        )


def placed(asked: GridSpec, own: Grid) -> GridSpec:
    """What a request says of its grid, with the place of the points of a file.

    Raises:
        UserError: ``points_mismatch`` where the request says another place.
    """
    named = {None: own.offset, Placement.CELLS: (Grid.CENTRE,) * own.ndim, Placement.NODES: (0.0,) * own.ndim}
    wanted = asked.offset or named[asked.points]
    if len(wanted) != own.ndim or not np.allclose(wanted, own.offset, atol=1e-6):
        raise UserError("points_mismatch", "the file itself says where its points lie", got=wanted, expected=own.offset)
    return asked.model_copy(update={"points": None, "offset": own.offset})


def _by_family(request: RolloutRequest, written: WrittenEquation | None) -> ResolvedRequest:
    """The request by family, coefficients, steps and dt, whatever way it says them."""
    found = {} if written is None else written.known()
    times = request.times if request.t_final is None else (request.t_final,)
    if times is not None:
        found |= steps_of(times, family(found.get("family") or request.family or "").t_final)
    fields = {name: getattr(request, name) for name in RolloutRequest.model_fields}
    return ResolvedRequest.model_construct(**{**fields, **found, "equation": None, "times": None, "t_final": None})


def _family(request: ResolvedRequest, card: ModelCard, catalog: Catalog) -> Family:
    """The family of a request: the model's own where it was tuned to an equation of a user's.

    Raises:
        UserError: ``unknown_family``; ``family_not_in_model`` where it is an equation of a user's, and of other models.
    """
    own = None if card.equation is None else model_equation(card)
    if own is not None and own.id == request.family:
        return own.family()
    if request.family not in card.families:
        declared = {found.id: found.equation["id"] for found in catalog.models() if found.equation is not None}
        tuned = [model_id for model_id, equation_id in declared.items() if equation_id == request.family]
        if tuned:
            raise UserError(
                "family_not_in_model",
                f"{request.family} is an equation of a user's own, which only models that were tuned to it solve",
                got=card.id,
                expected=tuned,
            )
    return family(request.family)


def _from_file(
    request: ResolvedRequest, equation: Family, files: FileStorage | None, arrays: Arrays | None
) -> tuple[ResolvedRequest, StoredStart]:
    """The request at the points of a trajectory's first state; its coefficients and boundary are the default.

    Raises:
        UserError: ``unknown_file``, ``wrong_state``, ``unusable_row``, ``row_out_of_range``, ``family_mismatch``,
            ``ambiguous_initial_condition``, ``points_mismatch``, and those of `Family.named`.
    """
    initial = request.initial_condition
    if initial is None or initial.file is None or files is None:
        raise UserError(
            "unknown_file", "there are no uploaded files here", hint="start from values or a sample, or ask a service"
        )
    if arrays:
        raise UserError("ambiguous_initial_condition", "both the request and the binary body give an initial condition")
    with files.open_store(initial.file) as store:
        if store.family != request.family:
            raise UserError(
                "family_mismatch", f"{initial.file} holds another family", got=request.family, expected=store.family
            )
        row = place_of(store, initial.trajectory or 0, initial.file)
        own = dict(zip(store.coefficient_names, store.coefficients[row].tolist(), strict=True))
        size = math.prod(store.grid.n) * len(store.fields)
        stored = StoredStart(files, initial.file, row, store.grid.n, request.grid.n, size)
        changes: dict[str, Any] = {
            "initial_condition": None,
            "coefficients": {**own, **_named(equation, request.coefficients)},
            "grid": placed(request.grid, store.grid),
            "boundary": request.boundary or store.boundary.sides,
        }
    return request.model_copy(update=changes), stored


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


def _grid(found: Resolved) -> Grid:
    """The request's grid; points default to those of the given states, else to what the model was trained at."""
    request, equation = found.request, found.family
    default = found.support.points or found.card.resolution or equation.n
    given = None if isinstance(found.source, SampleSpec) else found.source.n
    n = request.grid.n or given or (default,) * equation.ndim
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


def _check_points(found: Resolved, grid: Grid) -> None:
    """Refuses points that whatever computes this rollout does not know."""
    card = found.card
    if isinstance(found.source, SampleSpec) or found.request.reference or card.id == "numerical":
        found.family.check_points(grid)
    if card.kind == "learned" and any(grid.closed):
        raise UserError(
            "points_not_supported",
            f"{card.id} works on cells of a bounded axis, whose ends are no points of it",
            got="nodes",
            expected="cells, or an offset",
        )


def _time_step(found: Resolved) -> tuple[float, int]:
    """(time between two steps of the request, model steps in it). Built-in solvers take any up to the family's time."""
    request, card, support, longest = found.request, found.card, found.support, found.family.t_final
    if request.dt is None:
        return support.dt, 1
    if card.kind == "builtin":
        if request.dt > longest:
            raise UserError(
                "dt_mismatch", "dt is longer than the family's whole time", got=request.dt, expected=f"≤ {longest:g}"
            )
        return request.dt, 1
    if support.shortest is not None and support.horizon is not None:
        return request.dt, _calls(request.dt, support.shortest, support.horizon, card)
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


def _calls(dt: float, shortest: float, horizon: float, card: ModelCard) -> int:
    """Equal lead times that make a step of a model that goes ahead by any time between two."""
    if dt < shortest * (1.0 - 1e-9):
        raise UserError(
            "dt_mismatch",
            f"dt is shorter than any lead time {card.id} was trained on",
            got=dt,
            expected=f"at least {shortest:g}",
        )
    return max(1, math.ceil(dt / horizon - 1e-9))


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


def _numbers(given: Mapping[str, float | Sequence[float]]) -> dict[str, float]:
    """Raises UserError ``invalid_coefficient`` where a name of an equation in symbols has several values."""
    for name, value in given.items():
        if not isinstance(value, float | int):
            raise UserError(
                "invalid_coefficient",
                f"{name} of an equation in symbols has one value for all states",
                got=list(value),
                expected="a number",
                hint="ask for each equation by itself; requests at once share the model's steps",
            )
    return {name: value for name, value in given.items() if isinstance(value, float | int)}


def _named(equation: Family, given: Mapping[str, float | Sequence[float]]) -> dict[str, float | Sequence[float]]:
    """By the family's own names. Raises what `Family.named` does."""
    return dict(zip(equation.named(dict.fromkeys(given, 0.0)), given.values(), strict=True))


def _coefficients(equation: Family, given: Mapping[str, float | Sequence[float]], count: int) -> CoefficientNumbers:
    """All coefficients of so many states; a list has one for each.

    Raises:
        UserError: ``wrong_shape``, and what `Family.complete` objects to in any of the states.
    """
    lists = {name: list(value) for name, value in _named(equation, given).items() if not isinstance(value, float | int)}
    numbers = {name: value for name, value in given.items() if isinstance(value, float | int)}
    if not lists:
        return {**equation.complete(numbers)}
    wrong = {name: len(values) for name, values in lists.items() if len(values) != count}
    if wrong:
        raise UserError(
            "wrong_shape",
            "a list of a coefficient has one value for each state",
            got=wrong,
            expected=count,
            hint="give a batch of states, or the `count` of a sample",
        )
    rows = [
        equation.complete({**numbers, **{name: values[state] for name, values in lists.items()}})
        for state in range(count)
    ]
    return {name: [row[name] for row in rows] if name in lists else value for name, value in rows[0].items()}


def _rescaled(equation: Family, coefficients: CoefficientNumbers, length: float) -> CoefficientNumbers:
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
    scales = {name: length**power for name, power in powers.items() if power is not None}
    return {name: (np.asarray(coefficients[name]) * scale).tolist() for name, scale in scales.items()}
