"""A PDE family: an equation with its fields, coefficients, boundary, initial states and reference solver."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import ClassVar, NoReturn, Self, final

import numpy as np

from ups_server.errors import UserError
from ups_server.pde.bounds import Bound, between, extremes, positive
from ups_server.pde.grid import Array, BoundaryCondition, Extent, Floats, Grid, Numbers
from ups_server.pde.resampling import refined
from ups_server.pde.solution import Solution, at_times


@dataclass(frozen=True)
class Field:
    """A physical quantity.

    Attributes:
        slot: its place in the superspace (0 Vx or scalar, 1 Vy or second scalar, 2 density or tracer, 3 pressure).
        relative: multiplying it by a constant (and the other relative fields by the same) leaves the equation as it is,
            so that it is best measured in units of its mean.
        length_power: a field scales as ``L ** length_power`` when the box is rescaled by L to the family's own.
    """

    name: str
    slot: int
    unit: str = "1"
    description: str = ""
    positive: bool = False
    relative: bool = False
    length_power: int = 0


@dataclass(frozen=True)
class Coefficient:
    """A number in the equation.

    Attributes:
        default: the value PDEBench (or the paper) uses first.
        domain: (low, high) where the equation makes sense physically; closed at finite ends, `low_open` excludes low.
        length_power: scales as ``L ** length_power`` under rescaling of the box (advection speed -1, viscosity -2);
            None where rescaling is not possible.
        aliases: other spellings in file names and attributes.
    """

    name: str
    symbol: str
    description: str
    default: float
    domain: tuple[float, float] = (-math.inf, math.inf)
    low_open: bool = False
    unit: str = "1"
    length_power: int | None = None
    aliases: tuple[str, ...] = ()

    def check(self, value: float) -> None:
        """Raises UserError ``coefficient_out_of_domain`` outside the physical domain."""
        low, high = self.domain
        inside = math.isfinite(value) and (low < value if self.low_open else low <= value) and value <= high
        if not inside:
            raise UserError(
                "coefficient_out_of_domain",
                f"{self.name} is outside its physical domain",
                got=value,
                expected=f"{'(' if self.low_open else '['}{low:g}, {high:g}]",
            )


RAND = "rand"
"""Name of the usual distribution of initial states, which every family has."""


@dataclass(frozen=True)
class InitialKind:
    """A distribution of initial states beside a family's usual one.

    Attributes:
        draw: (generator, count, grid, coefficients (count,) each) -> states (count, X..., C); one generator draws the
            same functions on every grid.
        boundaries: the boundary conditions it is made for.
        static: (generator, count, grid) -> static fields (count, X..., S), where not the family's usual ones.
    """

    name: str
    description: str
    draw: Callable[[np.random.Generator, int, Grid, Numbers], Array]
    boundaries: tuple[BoundaryCondition, ...]
    static: Callable[[np.random.Generator, int, Grid], Array] | None = None


MOST_NAMED = 4
"""Coefficients that are named even where they are zero."""


def metadata_text(name: str, values: Mapping[str, float]) -> str:
    """The text "[PDE family][coefficients]" that becomes the metadata tokens (thesis 6.1.3); values by symbol.

    Of many coefficients, those that are zero are left out: the terms that an equation does not have.
    """
    named = {symbol: value for symbol, value in values.items() if value or len(values) <= MOST_NAMED}
    return " ".join([name, *(f"{symbol}={value:g}" for symbol, value in named.items())])


class Family(ABC):
    """One equation. Concrete families are stateless; all arrays are batched: (N, X..., C).

    Class attributes describe the equation; `sample_initial` and `begin` are its mathematics.
    """

    id: ClassVar[str]
    name: ClassVar[str]
    equation: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]]
    coefficients: ClassVar[tuple[Coefficient, ...]] = ()
    static_fields: ClassVar[tuple[Field, ...]] = ()
    extent: ClassVar[Extent]
    boundary: BoundaryCondition
    offered: ClassVar[tuple[BoundaryCondition, ...]] = ()
    """`boundaries`, where there are more than `boundary`."""
    dt: ClassVar[float]
    """The step of the learned operator (the paper's protocol)."""
    frame_dt: ClassVar[float]
    """Spacing of the frames in PDEBench's files."""
    t_final: ClassVar[float]
    n: ClassVar[int]
    """PDEBench's resolution per axis."""
    time_unit: ClassVar[str] = "1"
    length_unit: ClassVar[str] = "1"
    reflections: ClassVar[tuple[tuple[int, ...], ...]] = ()
    """Exact reflection symmetries, one per axis that has one: the sign each field takes when that axis is mirrored."""
    static_reflections: ClassVar[tuple[tuple[int, ...], ...]] = ()
    """The same of the static fields; without it, a family that has them counts as not symmetric."""
    exchange: tuple[int, ...] = ()
    """Exact symmetry under the exchange of the two axes: which field then stands in the place of each."""
    static_exchange: ClassVar[tuple[int, ...]] = ()
    odd: ClassVar[bool] = False
    """Is -u a solution where u is?"""
    conserved: tuple[str, ...] = ()
    """Fields whose integral over the box is constant in time."""
    solenoidal: ClassVar[bool] = False
    """Is the velocity, in the first slots, free of divergence from the first step on, with no flow through walls?"""
    anywhere: ClassVar[bool] = False
    """Do sampler and solver know points along bounded axes that are no cell centres? Along periodic axes all do."""
    single: bool = False
    """Does the solver compute in single precision, or to a looser agreement of its resolutions?"""
    single_offered: ClassVar[bool] = False
    kinds: ClassVar[tuple[InitialKind, ...]] = ()
    """Distributions of initial states beside the one of `sample_initial`."""
    reference_points: ClassVar[int] = 512
    """Least points along an axis of what others are measured against."""
    grid_bound: ClassVar[str] = ""
    """Why a state on another grid is another problem, so that no finer one tells how good a solution is; or empty."""
    keeps_extremes: ClassVar[str] = ""
    """Why every field stays between its extremes at the start; or empty, where it need not."""
    static_optional: ClassVar[bool] = False
    """Are static fields that are not given zero?"""
    signal_speed: ClassVar[float] = 0.0
    """Steps of the reference solver per unit of time and point along an axis, for usual states; 0 where they do not
    follow from the grid."""
    full_state: ClassVar[bool] = True
    """Do the fields determine their own future? False where files leave out part of the state."""

    @property
    @final
    def ndim(self) -> int:
        return len(self.extent)

    @property
    @final
    def sample_bytes(self) -> int:
        """Most memory that drawing initial states and static fields takes, in bytes per value of the states."""
        return 112 if self.ndim == 1 else 48

    @property
    @final
    def parity(self) -> tuple[int, ...]:
        """The sign each field takes when all axes are mirrored at once; empty where this is no symmetry."""
        return self._parity(self.reflections) if not self.static_fields or self.static_parity else ()

    @property
    @final
    def static_parity(self) -> tuple[int, ...]:
        """The same of the static fields; empty where there are none."""
        return self._parity(self.static_reflections)

    def _parity(self, reflections: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
        whole = len(reflections) == self.ndim and all(reflections)
        return tuple(math.prod(signs) for signs in zip(*reflections, strict=True)) if whole else ()

    @property
    @final
    def boundaries(self) -> tuple[BoundaryCondition, ...]:
        """All boundary conditions that the solver takes."""
        return self.offered or (self.boundary,)

    @final
    def under(self, boundary: BoundaryCondition) -> Self:
        """The equation in a box with this boundary condition; its own is the one `boundary` tells.

        Raises:
            UserError: ``boundary_not_supported`` where the solver does not offer it.
        """
        if boundary == self.boundary:
            return self
        if boundary not in self.boundaries:
            raise UserError(
                "boundary_not_supported",
                f"{self.id} is not solved under this boundary condition",
                got=boundary.as_names(),
                expected=[offered.as_names() for offered in self.boundaries],
            )
        other = copy(self)
        other.boundary = boundary
        # What leaves through a side is no longer in the box; axes with different ends are not alike.
        other.conserved = self.conserved if all(boundary.periodic) else ()
        other.exchange = self.exchange if len(set(boundary.sides)) == 1 else ()
        return other

    @final
    def in_single(self) -> Self:
        """The equation with a solver of less precision (see `single`), which is faster and good enough to train on.

        Raises:
            UserError: ``single_not_offered``.
        """
        if not self.single_offered:
            raise UserError("single_not_offered", f"the solver of {self.id} has one precision only", got=self.id)
        other = copy(self)
        other.single = True
        return other

    @final
    def default_grid(self, n: int | None = None) -> Grid:
        return Grid((n or self.n,) * self.ndim, self.extent)

    @final
    def check_points(self, grid: Grid) -> None:
        """Raises UserError ``points_not_supported`` where sampler and solver do not know points that lie so."""
        bounded = [axis for axis, wraps in enumerate(self.boundary.periodic) if not wraps]
        if not self.anywhere and any(not math.isclose(grid.offset[axis], Grid.CENTRE) for axis in bounded):
            raise UserError(
                "points_not_supported",
                f"the solver of {self.id} works on cell centres",
                got={"offset": grid.offset, "closed": grid.closed},
                expected="cells",
            )

    @property
    @final
    def steady(self) -> bool:
        """Does its solution not depend on time, nor on an initial state?"""
        return self.t_final == 0.0

    @final
    def frame_times(self) -> Array:
        """Times of PDEBench's frames."""
        return np.arange(round(self.t_final / self.frame_dt) + 1, dtype=np.float64) * self.frame_dt

    @final
    def named(self, coefficients: Mapping[str, float] | None) -> dict[str, float]:
        """Given coefficients by their own names.

        Raises:
            UserError: ``unknown_coefficient``, or ``coefficient_given_twice`` where two spellings mean the same one.
        """
        names = {alias.lower(): c.name for c in self.coefficients for alias in (c.name, *c.aliases)}
        given: dict[str, float] = {}
        for key, value in (coefficients or {}).items():
            if key.lower() not in names:
                raise UserError(
                    "unknown_coefficient",
                    f"{self.id} has no coefficient {key}",
                    got=key,
                    expected=[c.name for c in self.coefficients],
                )
            name = names[key.lower()]
            if name in given:
                raise UserError(
                    "coefficient_given_twice",
                    f"{name} of {self.id} is given twice, in two spellings",
                    got={other: v for other, v in (coefficients or {}).items() if names.get(other.lower()) == name},
                    expected=f"{name} alone",
                )
            given[name] = float(value)
        return given

    @final
    def complete(self, coefficients: Mapping[str, float] | None) -> dict[str, float]:
        """All coefficients in declared order, defaults filled in, aliases resolved, domains checked.

        Raises:
            UserError: ``coefficient_out_of_domain``, and those of `named` and `objection`.
        """
        given = self.named(coefficients)
        complete = {c.name: given.get(c.name, c.default) for c in self.coefficients}
        for coefficient in self.coefficients:
            coefficient.check(complete[coefficient.name])
        if (objection := self.objection(complete)) is not None:
            raise objection
        return complete

    @final
    def metadata_text(self, coefficients: Mapping[str, float]) -> str:
        """The text of this family with these coefficients."""
        return metadata_text(self.name, {c.symbol: coefficients[c.name] for c in self.coefficients})

    def objection(self, coefficients: Mapping[str, float]) -> UserError | None:
        """Why these coefficients, each in its domain, make no problem together; None where they do."""
        return None

    def sample_coefficients(self, rng: np.random.Generator) -> dict[str, float] | None:
        """Coefficients that are drawn together, for families in which each by itself makes no sense; None elsewhere."""
        return None

    @abstractmethod
    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        """`count` initial states (N, X..., C) from PDEBench's distribution, evaluated at the grid's points."""

    @final
    def sample_averages(self, rng: np.random.Generator, count: int, grid: Grid, parts: int = 4) -> Array:
        """The states of `sample_initial` (N, X..., C) averaged over the cells around the grid's points.

        Args:
            parts: midpoints taken along each axis of a cell.
        """
        values = self.sample_initial(rng, count, grid.within_cells(parts))
        for axis, points in enumerate(grid.n, start=1):
            values = values.reshape(*values.shape[:axis], points, parts, *values.shape[axis + 1 :]).mean(axis=axis + 1)
        return values

    @abstractmethod
    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        """The reference solution from `initial` (N, X..., C), to be advanced from time to time.

        Args:
            coefficients: one array (N,) per coefficient: every trajectory may have its own.
            static: (N, X..., S) static fields, for families that have them.
        """

    @final
    def solve(
        self,
        initial: Array,
        times: Array,
        grid: Grid,
        coefficients: Numbers,
        static: Array | None = None,
    ) -> Array:
        """The reference solution (N, T, X..., C) at `times`, from `initial` at times[0]; the rest as in `begin`."""
        return at_times(self.begin(initial, grid, coefficients, static), times)

    def fit_initial(self, initial: Array, coefficients: Numbers) -> Array:
        """Sampled states (N, X..., C) as they start at these coefficients, each (N,): most families ignore them."""
        return initial

    @final
    def initial_kind(self, name: str) -> InitialKind | None:
        """The distribution of that name, None for the usual one.

        Raises:
            UserError: ``unknown_initial_kind``, or ``boundary_not_supported`` where it is made for other boundaries.
        """
        if name == RAND:
            return None
        chosen = next((kind for kind in self.kinds if kind.name == name), None)
        if chosen is None:
            raise UserError(
                "unknown_initial_kind",
                f"{self.id} has no initial states of that kind",
                got=name,
                expected=[RAND, *(kind.name for kind in self.kinds)],
            )
        if self.boundary not in chosen.boundaries:
            raise UserError(
                "boundary_not_supported",
                f"initial states {name} of {self.id} are made for another boundary condition",
                got=self.boundary.as_names(),
                expected=[boundary.as_names() for boundary in chosen.boundaries],
                hint="give the boundary with the request",
            )
        return chosen

    @final
    def draw_initial(
        self,
        rng: np.random.Generator,
        count: int,
        grid: Grid,
        coefficients: Numbers,
        kind: str = RAND,
    ) -> Array:
        """`count` states (N, X..., C) of a kind as they start at these coefficients, each (N,).

        Raises:
            UserError: those of `initial_kind`.
        """
        chosen = self.initial_kind(kind)
        if chosen is None:
            return self.fit_initial(self.sample_initial(rng, count, grid), coefficients)
        return chosen.draw(rng, count, grid, coefficients)

    def refine(self, values: Array, grid: Grid, factor: int) -> Array:
        """States (N, X..., C) known on `grid` as they are taken to be on `grid.refined(factor)`."""
        _, places = grid.refined(factor)
        positive = [field.positive for field in self.fields]
        return refined(values, (factor,) * grid.ndim, [place.start for place in places], self.boundary, positive)

    @final
    def draw_static(self, rng: np.random.Generator, count: int, grid: Grid, kind: str = RAND) -> Array | None:
        """Static fields (N, X..., S) that go with initial states of that kind; None for families without.

        Raises:
            UserError: those of `initial_kind`.
        """
        chosen = self.initial_kind(kind)
        if chosen is None or chosen.static is None:
            return self.sample_static(rng, count, grid)
        return chosen.static(rng, count, grid)

    def conserved_means(self, values: Floats) -> dict[str, Array]:
        """Means over the box (T,) of what the equation conserves, by name, from values (T, X..., C)."""
        space = tuple(range(1, values.ndim - 1))
        names = [field.name for field in self.fields]
        return {name: values[..., names.index(name)].mean(axis=space, dtype=np.float64) for name in self.conserved}

    def bounds(self, initial: Floats, coefficients: Numbers, static: Floats | None = None) -> list[Bound]:
        """What no solution from `initial` (N, X..., C) leaves at any time.

        By default all values stay between the extremes of the start (`keeps_extremes`), or positive fields positive.

        Args:
            coefficients: (N,) each, or one number for all.
            static: (N, X..., S).
        """
        if self.keeps_extremes:
            kept = [between(index, *extremes(initial, index), self.keeps_extremes) for index in range(len(self.fields))]
            return [bound for bounds in kept for bound in bounds]
        return [positive(initial, index) for index, field in enumerate(self.fields) if field.positive]

    def sample_static(self, rng: np.random.Generator, count: int, grid: Grid) -> Array | None:
        """(N, X..., S) static fields such as forcing; None for families without."""
        return None


class UnsolvedFamily(Family):
    """A family without a solver: its files can be read, checked, drawn and converted."""

    @final
    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        """Raises UserError ``no_solver``."""
        self._refuse()

    @final
    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        """Raises UserError ``no_solver``."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UserError(
            "no_solver",
            f"{self.id} has no solver here",
            got=self.id,
            expected="a family with a solver",
            hint="give the initial state; its files can be read, checked and converted",
        )
