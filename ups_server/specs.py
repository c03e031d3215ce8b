"""What a rollout request says and what its answer holds: one contract for API, client and command line.

Arrays are channels last, in physical units: (B, X..., C) for states, (B, T, X..., C) for trajectories.
"""

import reprlib
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ups_server.errors import UserError
from ups_server.pde import BoundaryKind
from ups_server.pde.family import RAND
from ups_server.pde.grammar import MAX_CHARACTERS

MIN_POINTS = 8
"""Fewest points per axis of a grid."""
MAX_STATES = 4096
"""Most states that a request draws, or gives coefficients of."""

AxisPoints = Annotated[int, Field(ge=MIN_POINTS, le=2**20)]
Offset = Annotated[FiniteFloat, Field(ge=0, lt=1)]


class Spec(BaseModel):
    """Frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Placement(StrEnum):
    """Where the n points of an axis lie."""

    CELLS = "cells"
    """In the centres of n cells."""
    NODES = "nodes"
    """From the lower end on. A periodic axis ends one spacing before its upper end, any other on it."""


class GridSpec(Spec):
    """The grid. Omitted parts default to the model's resolution and the family's box."""

    n: tuple[AxisPoints, ...] | None = Field(default=None, min_length=1, max_length=3, description="Points per axis.")
    extent: tuple[tuple[FiniteFloat, FiniteFloat], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=3,
        description="(low, high) per axis. Another box than the family's is rescaled where the equation allows.",
    )
    points: Placement | None = Field(
        default=None,
        strict=False,
        description="Where the points lie. `cells`: in the centres of n cells (default). `nodes`: from the lower end "
        "on; a periodic axis ends one spacing before its upper end, any other on it.",
    )
    offset: tuple[Offset, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=3,
        description="Instead of `points`: the place of the first one per axis, in spacings of (high - low) / n. "
        "0.5 is a cell centre; every eighth of 1024 cell centres begins at 0.0625.",
    )

    @model_validator(mode="after")
    def _placed_once(self) -> "GridSpec":
        if self.points is not None and self.offset is not None:
            raise ValueError("give points or offset, not both")
        return self


class SampleSpec(Spec):
    """Initial conditions drawn from a distribution of the family's."""

    seed: int = Field(default=0, ge=0, lt=2**63, description="The same seed draws the same states.")
    count: int | None = Field(
        default=None, ge=1, le=MAX_STATES, description="How many; with a count the answer has a leading batch axis."
    )
    kind: str = Field(
        default=RAND,
        max_length=32,
        description="Which distribution: one of the family's `initial_kinds`; some need a `boundary`.",
    )


class InitialConditionSpec(Spec):
    """Where a rollout starts. Exactly one of `sample`, `values` and `file`; binary requests carry the array instead."""

    sample: SampleSpec | None = None
    file: str | None = Field(
        default=None,
        max_length=64,
        description="An uploaded file: the first state of one of its trajectories, whose coefficients are the default.",
    )
    trajectory: int | None = Field(default=None, ge=0, description="Its number in the file. [default: 0]")
    values: list[Any] | None = Field(
        default=None, description="Nested lists: (X..., C), or (X...) for a single field; a leading axis makes a batch."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "InitialConditionSpec":
        if [self.sample, self.values, self.file].count(None) != 2:
            raise ValueError("give exactly one of sample, values and file")
        if (self.trajectory is not None) and self.file is None:
            raise ValueError("a trajectory is one of a file")
        return self


class Method(StrEnum):
    """How an answer comes to a grid finer than that of its state."""

    RESOLUTION_FREE = "resolution-free"
    """The model runs on the fine grid, from the interpolated state."""
    INTERPOLATION = "interpolation"
    """The model runs on the state's own grid; its answer is interpolated."""


Share = Annotated[FiniteFloat, Field(gt=0, lt=1)]


class EnsembleSpec(Spec):
    """Rollouts from perturbed initial states, beside the one from the state itself."""

    members: int = Field(ge=2, le=256)
    seed: int = Field(default=0, ge=0, lt=2**63, description="The same seed perturbs by the same functions.")
    amplitude: FiniteFloat = Field(
        default=0.01,
        gt=0,
        le=1,
        description="Root mean square of a perturbation over that of the field's deviation from its mean.",
    )
    quantiles: tuple[Share, ...] = Field(default=(0.05, 0.5, 0.95), max_length=16)


def _one_or_each(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """One sentence instead of what is wrong with each of the two readings."""
    try:
        return validate(value)
    except ValidationError:
        raise PydanticCustomError(
            "coefficient",
            "Input should be a valid number, or a list of at most {most} with one for each state",
            {"most": MAX_STATES},
        ) from None


GivenCoefficient = Annotated[
    float | Annotated[tuple[float, ...], Field(min_length=1, max_length=MAX_STATES, strict=False)],
    WrapValidator(_one_or_each),
]
"""One value for all states of a request, or one for each."""


class RolloutRequest(Spec):
    """One rollout: what is solved, where it starts, how far it goes."""

    model: str | None = Field(
        default=None, max_length=128, description="A model id; default: the service's default model."
    )
    family: str | None = Field(
        default=None, max_length=128, description="A family id; or write an `equation` out.", examples=["burgers"]
    )
    equation: str | None = Field(
        default=None,
        max_length=MAX_CHARACTERS,
        description="Instead of a family, an equation in symbols on a periodic box, by default [0, 1]: u_t equal to a "
        "sum of u_x, u*u_x, u_xx, u_xxx, u_xxxx, powers of u up to the third, and a function of x.",
        examples=["u_t = -u*u_x + 0.01*u_xx + u*(1-u)"],
    )
    coefficients: dict[str, GivenCoefficient] = Field(
        default_factory=dict,
        description="Values of coefficients; the others keep the family's default. A list has one for each state of "
        "a batch. Of an equation in symbols, the values of its names.",
    )
    grid: GridSpec = Field(default_factory=lambda: GridSpec())
    boundary: tuple[tuple[BoundaryKind, BoundaryKind], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=3,
        description="(low, high) kind per axis; default: that of the file, or else the family's. Others are those that "
        "the family's solver offers, or that the model was trained on.",
    )
    initial_condition: InitialConditionSpec | None = Field(
        default=None, description="Required, unless a binary body carries the array `initial_condition`."
    )
    n_steps: int | None = Field(
        default=None, ge=1, le=10**9, description="Steps of `dt`; or give `times` or `t_final`."
    )
    times: tuple[FiniteFloat, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=10**6,
        description="Instead of `n_steps`, `dt` and `save_every`: the times of the answer, ascending, multiples of one "
        "step. The initial condition at 0 is always part of it.",
    )
    t_final: FiniteFloat | None = Field(
        default=None, gt=0, description="Instead of those: the one time that is asked for beside the initial condition."
    )
    dt: FiniteFloat | None = Field(
        default=None, gt=0, description="Time between two steps: a multiple of the model's; default: the model's."
    )
    save_every: int = Field(
        default=1, ge=1, le=10**9, description="Keep every so many steps; the initial condition is kept."
    )
    output_resolution: tuple[AxisPoints, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=3,
        description="Points per axis of the answer, where it is to be on a finer grid than the state; any numbers.",
    )
    method: Method | None = Field(
        default=None,
        strict=False,
        description="How it comes to that grid; default: resolution-free where that was measured to be no worse.",
    )
    ensemble: EnsembleSpec | None = Field(
        default=None,
        description="Also run perturbed members. `data` then has a leading axis: the unperturbed rollout, and mean, "
        "spread and quantiles of the members.",
    )
    diagnostics: bool = Field(
        default=False,
        description="Also report conserved quantities, energy and spectrum of every state, the expected error, and "
        "whether the request lies outside the model's training.",
    )
    reference: bool = Field(
        default=False,
        description="Also run the family's numerical solver, on finer and finer grids until two agree, and report the "
        "true error of every state, that of the reference, and which of the two computed faster.",
    )
    deterministic: bool = Field(
        default=False,
        description="Share no step with other requests: the same request then gives the same bits. Otherwise answers "
        "agree to rounding.",
    )

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "RolloutRequest":
        if (self.family is None) == (self.equation is None):
            raise ValueError("give a family or an equation, and not both")
        if sum(each is not None for each in (self.n_steps, self.times, self.t_final)) != 1:
            raise ValueError("give n_steps, times or t_final, and not two of them")
        if self.n_steps is None and (self.dt is not None or self.save_every != 1):
            raise ValueError("times already say what dt and save_every would")
        if self.n_steps is not None and self.save_every > self.n_steps:
            raise ValueError("save_every must be at most n_steps")
        if self.method is not None and self.output_resolution is None:
            raise ValueError("a method needs an output_resolution")
        return self

    @classmethod
    def from_json(cls, text: str | bytes) -> "RolloutRequest":
        """Reads a request.

        Raises:
            UserError: ``invalid_json`` or ``invalid_request``, with what is wrong per place.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise invalid_request(error) from None


class EquationTerm(BaseModel):
    """One term c T(u) of an equation."""

    model_config = ConfigDict(frozen=True)
    name: str = Field(description="As in the list of terms.", examples=["diffusion"])
    sign: int = Field(description="Of its coefficient: 1 or -1.")
    coefficient: float = Field(description="c, with its sign.")


class ProposedTerm(EquationTerm):
    """A term that a description names. Its coefficient is the middle of a range, for the user to confirm or change."""

    confidence: float = Field(description="That the description names it, 0 to 1.")
    range: tuple[float, float] = Field(description="Of the coefficient's size, on a box of length 1.")
    stated: str | None = Field(default=None, description="The word that states the range, such as `slowly`.")


class EquationProposal(BaseModel):
    """What equation a description names: a proposal, which nothing runs."""

    model_config = ConfigDict(frozen=True)
    equation: str | None = Field(description="In symbols; null where it abstains.")
    terms: list[ProposedTerm]
    unplaced: list[str] = Field(description="Clauses that name no term.")
    abstained: bool = Field(description="Is the description no equation, or not clear enough?")


class EquationRequest(Spec):
    """An equation in symbols to be read, or a description in words. Exactly one of the two."""

    equation: str | None = Field(
        default=None,
        max_length=MAX_CHARACTERS,
        description="In symbols, as in a rollout.",
        examples=["u_t = -u*u_x + 0.01*u_xx + u*(1-u)"],
    )
    coefficients: dict[str, float] = Field(default_factory=dict, description="Values of the names it uses.")
    description: str | None = Field(
        default=None,
        max_length=2000,
        description="In words.",
        examples=["a dye carried to the right that slowly spreads and decays"],
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "EquationRequest":
        if (self.equation is None) == (self.description is None):
            raise ValueError("give an equation or a description, and not both")
        if self.description is not None and self.coefficients:
            raise ValueError("coefficients belong to an equation in symbols")
        return self


class EquationAnswer(BaseModel):
    """An equation as it is understood."""

    equation: str | None = Field(description="Its canonical form, or a proposal; null where it abstains.")
    terms: list[ProposedTerm] | list[EquationTerm]
    unplaced: list[str] = Field(default_factory=list, description="Clauses of a description that name no term.")
    abstained: bool = False
    family: str | None = Field(default=None, description="The family that solves it.")
    coefficients: dict[str, float] = Field(default_factory=dict, description="Of that family.")


class GridAnswer(BaseModel):
    """Points along an axis are at ``low + (i + offset) (high - low) / n``; with n - 1 for n on a closed axis."""

    n: list[int]
    extent: list[tuple[float, float]]
    offset: list[float]
    closed: list[bool] = Field(description="Are both ends of the axis points?")


class Flag(BaseModel):
    """Something to know before trusting an answer, such as `coefficient_outside_trained_range` or `blow_up`."""

    model_config = ConfigDict(frozen=True, extra="allow")
    code: str
    message: str


class Stopped(BaseModel):
    """Where states of a rollout ended; their values are null, or NaN, from there on."""

    step: int = Field(description="Steps of the model that led there.")
    time: float
    fields: list[str]
    states: list[int] = Field(description="Which of the states; of an ensemble 0 is the control, 1 the first member.")
    reason: str = Field(description="`not_finite`, `outside_bounds` of the equation, or `outside_trained_range`.")


class Drift(BaseModel):
    """A quantity the equation conserves: its mean over points. Fronts between these move it, though all is exact."""

    initial: Any
    drift: list[Any] = Field(description="How far the mean has moved, for every frame.")


class Spectra(BaseModel):
    """Power at each wave number; the powers of a field add up to its energy."""

    wave_numbers: list[int] = Field(description="In cycles per box.")
    power: dict[str, list[Any]] = Field(description="By field, for every frame, at every wave number.")


class ExpectedError(BaseModel):
    """Split-conformal bounds of the root mean square error, where the model has some that fit the request."""

    available: bool
    reason: str | None = Field(default=None, description="Why there are none, or what limits them.")
    level: float | None = Field(
        default=None, description="How often a new trajectory stays inside at every step, at least."
    )
    bounds: dict[str, list[Any]] = Field(default_factory=dict, description="By field, for every frame, in its unit.")
    coverage: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="By field, how often trajectories that chose nothing did stay inside."
    )
    valid_for: dict[str, Any] = Field(default_factory=dict, description="What it was measured on.")


class OutOfDistribution(BaseModel):
    """Is the request outside of what the model was trained on?"""

    flagged: bool | None = Field(description="null where nothing is known of the training, or there was none.")
    checked: list[str] = Field(description="Of `coefficients`, `resolution`, `states`.")
    reasons: list[Flag] = Field(description="Those of the flags that say so.")
    departure: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="By field, for every frame: root mean square distance from the mean of the training states, in "
        "units of their standard deviation.",
    )


class Diagnostics(BaseModel):
    """What `diagnostics` asks for: for every frame (T), or (B, T) with a batch axis; null is not finite."""

    stopped: Stopped | None = Field(description="The first that ended.")
    endings: list[Stopped] = Field(default_factory=list, description="All that ended, in order.")
    conserved: dict[str, Drift] = Field(description="Empty where the equation conserves no mean over the box.")
    energy: dict[str, list[Any]] = Field(description="Mean square over the box, by field.")
    spectrum: Spectra
    expected_error: ExpectedError
    out_of_distribution: OutOfDistribution


class Comparison(BaseModel):
    """What `reference` asks for: the true error against the family's numerical solver, for every frame it reached.

    nRMSE is ``||model - solver|| / ||solver||``: of a frame, over its points; of the trajectory, over all frames but
    the first. `nrmse` lumps the fields into one norm.
    """

    solver: str
    complete: bool = Field(description="Did the solver reach every frame of the answer?")
    reason: str | None = Field(default=None, description="Why it did not.")
    start: str = Field(description="What the solver started from.")
    points: list[int] = Field(description="An axis, that it was solved at.")
    error: Any = Field(description="Of the reference: trajectory nRMSE between its last two resolutions; null for one.")
    error_per_field: dict[str, Any]
    settled: bool | None = Field(description="Is that small enough for a reference? Null where there is one.")
    accuracy: str = Field(description="The same in a sentence.")
    nrmse: list[Any]
    nrmse_per_field: dict[str, list[Any]]
    rmse_per_field: dict[str, list[Any]] = Field(description="In the unit of the field.")
    nrmse_trajectory: Any
    nrmse_trajectory_per_field: dict[str, Any]
    seconds: dict[str, float | None] = Field(
        description="Time to compute this answer: of the `model`, and of the `solver` on the coarsest grid on which it "
        "was no worse."
    )
    faster: str | None = Field(description="`model` or `solver`; null where one of them did not finish.")
    remark: str | None = Field(default=None, description="The same in a sentence.")


class SuperResolution(BaseModel):
    """An answer on a finer grid than its state: where from, which way, and what detail it can have."""

    method: Method
    reason: str = Field(description="Why this method.")
    given: list[int] = Field(description="Points per axis of the state.")
    output: list[int]
    observed_cycles: list[int] = Field(description="Along each axis, the shortest waves the given points tell apart.")
    explained: list[str] = Field(description="What detail can and cannot be recovered.")


class EnsembleAnswer(BaseModel):
    """What the leading axis of `data` holds."""

    members: int
    seed: int
    amplitude: float
    statistics: list[str] = Field(
        description="One name an entry: `control`, the unperturbed rollout, which diagnostics and reference are about; "
        "of the members `mean`, `spread` (standard deviation) and the quantiles."
    )
    ended: list[int] = Field(default=[], description="Members, from 1, that ended early: the statistics go on without.")


class RolloutAnswer(BaseModel):
    """The JSON answer. Binary formats hold the same: `data`, `times` and coordinates as arrays, the rest as text."""

    model: str
    model_version: str
    family: str
    equation: str = Field(description="Of the family; of a request that wrote its equation out, its canonical form.")
    terms: list[EquationTerm] | None = Field(default=None, description="The terms of an equation that was written out.")
    fields: list[str] = Field(description="Names of the fields: the last axis of `data`.")
    units: list[str] = Field(description="Unit of each field.")
    coefficients: dict[str, float | list[float]] = Field(description="A list has one for each state.")
    boundary: list[list[str]]
    grid: GridAnswer
    dt: float = Field(description="Time between two steps.")
    n_steps: int
    save_every: int
    times: list[float] = Field(description="Time of each frame; the first is 0, the initial condition.")
    time_unit: str
    length_unit: str
    batched: bool = Field(description="Has `data` a leading batch axis?")
    flags: list[Flag]
    super_resolution: SuperResolution | None = None
    ensemble: EnsembleAnswer | None = None
    diagnostics: Diagnostics | None = None
    reference: Comparison | None = None
    data: list[Any] = Field(
        description="(T, X..., C) nested lists in physical units, the initial condition first; (B, T, X..., C) "
        "where the request had a batch axis. States of a batch that ended early are null from there on, NaN in binary "
        "formats; `data` ends where all have."
    )


class SuperResolutionAnswer(RolloutAnswer):
    """The answer of both methods: `data` (M, T, X..., C), one entry a method in the order of `methods`."""

    methods: list[Method] = Field(description="The default or requested one first.")
    errors: dict[str, Comparison] = Field(description="By method, where a reference was asked for.")


def invalid_request(error: ValidationError) -> UserError:
    """The problem behind a failed validation, one entry per place."""
    entries = error.errors(include_url=False, include_context=False)
    if any(entry["type"] == "json_invalid" for entry in entries):
        return UserError("invalid_json", "the request is not valid JSON", got=entries[0]["msg"])
    problems = [
        {"at": ".".join(map(str, entry["loc"])), "got": _short(entry["input"]), "expected": entry["msg"]}
        for entry in entries
    ]
    return UserError(
        "invalid_request",
        "the request does not follow the specification",
        got={problem["at"]: problem["got"] for problem in problems},
        expected={problem["at"]: problem["expected"] for problem in problems},
    )


def _short(value: Any, limit: int = 80) -> Any:
    """A value as a problem document may repeat it: never a whole array."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= limit else text[:limit] + "…"
