"""What the arrays of a file mean, where the file does not explain itself: read from YAML or JSON.

    equation: {id: shock, name: Burgers' equation, equation: u_t + u u_x = nu u_xx}
    fields:
      - {name: u, array: usol, slot: 0}
    axes: [x, time]                     # of the arrays, in the order of the file
    time: {array: t}
    space:
      x: {array: x, points: ends}
    boundary: [[dirichlet, dirichlet]]
    coefficients:
      nu: {value: 0.0031831}

`ups_server.data.mapped` reads a file through it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, ValidationError, model_validator

from ups_server.data.user_equation import CoefficientSpec, EquationSpec, FieldSpec, Name, Sides, Text
from ups_server.errors import UserError
from ups_server.pde.equation import EVOLUTION
from ups_server.pde.grammar import parse_equation
from ups_server.pde.grid import BoundaryCondition, Extent
from ups_server.specs import Spec, invalid_request

AxisName = Literal["trajectory", "time", "x", "y", "z", "component", "-"]
"""`component`: of a vector; `-`: an axis of length one that says nothing."""
ArrayName = Annotated[str, Field(min_length=1, max_length=256, description="The array's name in the file.")]
AxisOrder = Annotated[tuple[AxisName, ...], Field(min_length=1, max_length=8)]
PointPlaces = Literal["cells", "nodes", "ends"]
"""Where the points of an axis lie: in the centres of cells; on nodes, the upper end left out; on nodes, both ends."""


class MappedField(Spec):
    """A field of the equation, and the array that holds it."""

    name: Name
    array: ArrayName
    component: int | None = Field(default=None, ge=0, description="Its place along the axis `component`.")
    axes: AxisOrder | None = Field(default=None, description="Where this array's axes are not those of the others.")
    slot: int | None = Field(default=None, ge=0, description="Of an equation of your own: its place in the models.")
    unit: Annotated[str, Field(max_length=16)] = "1"
    description: Text = ""
    positive: bool = Field(default=False, description="Trajectories with negative values are not used.")


class MappedTime(Spec):
    """When the frames are: an array, or a first time and a step."""

    array: ArrayName | None = None
    start: FiniteFloat = 0.0
    step: FiniteFloat | None = Field(default=None, gt=0)
    onto: int | None = Field(
        default=None,
        ge=2,
        le=2**16,
        description="For times with unequal steps: frames are interpolated, to fourth order, to so many equally spaced "
        "times from the first to the last.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.array is None) == (self.step is None):
            raise ValueError("time is given by an array or by start and step")
        if self.onto is not None and self.array is None:
            raise ValueError("frames are moved onto equal steps from the times of an array")
        return self


class MappedAxis(Spec):
    """Where the points of a spatial axis are: an array of coordinates, or the ends of the box, or both, which agree."""

    array: ArrayName | None = None
    low: FiniteFloat | None = Field(default=None, description="Lower end of the box.")
    high: FiniteFloat | None = Field(default=None, description="Upper end of the box.")
    points: PointPlaces = Field(
        default="cells",
        description="`cells`: in their centres. `nodes`: from the lower end on, the upper one left out. `ends`: nodes "
        "with both ends; on a periodic axis the last one, which repeats the first, is left out.",
    )
    offset: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None = Field(
        default=None, description="Instead of `points`: the place of the first point, in spacings from the lower end."
    )

    onto: int | None = Field(
        default=None,
        ge=2,
        le=2**20,
        description="Values on nodes with both ends are interpolated to the centres of so many cells, to fourth order: "
        "models learn on cells of a bounded axis.",
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.onto is not None and (self.points != "ends" or self.offset is not None):
            raise ValueError("values are moved onto cells from nodes with both ends: points is `ends`")
        if self.array is None and (self.low is None or self.high is None):
            raise ValueError("an axis is given by an array, or by low and high")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class MappedCoefficient(Spec):
    """A number of the equation: given here, or in an array (one number, or one a trajectory) or attribute."""

    value: FiniteFloat | None = None
    array: ArrayName | None = None
    attribute: ArrayName | None = Field(default=None, description="Of the file; `ARRAY@NAME`: of an array.")
    low: FiniteFloat | None = Field(default=None, description="Lower end of its physical domain; null: none.")
    high: FiniteFloat | None = Field(default=None, description="Upper end of its physical domain; null: none.")
    unit: Annotated[str, Field(max_length=16)] = "1"
    description: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, document: Any) -> Any:
        """A number alone is its value."""
        plain = isinstance(document, int | float) and not isinstance(document, bool)
        return {"value": document} if plain else document

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(entry is not None for entry in (self.value, self.array, self.attribute)) != 1:
            raise ValueError("a coefficient is given by value, array or attribute")
        return self


class MappedEquation(Spec):
    """An equation of the user's own, but for what the rest of the mapping says."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{1,63}$", description="The family id it gets.")
    name: str = Field(min_length=1, max_length=128, description="The model reads this name.")
    equation: str = Field(min_length=1, max_length=512, examples=["u_t = nu u_xx - u^3"])
    dt: FiniteFloat | None = Field(
        default=None, gt=0, description="The step to learn: a multiple of the frame spacing, which is the default."
    )
    time_unit: Annotated[str, Field(max_length=16)] = "1"
    length_unit: Annotated[str, Field(max_length=16)] = "1"


class Mapping(Spec):
    """Which array is which field, and where time, space and coefficients are.

    The axes of `fields` are `axes`; those of `static_fields`, which do not change in time, the same without `time`.
    """

    family: str | None = Field(default=None, max_length=64, description="A family id.")
    equation: MappedEquation | None = Field(default=None, description="Instead of a family: an equation of your own.")
    symbols: str | None = Field(
        default=None,
        max_length=2000,
        description="Instead of a family: an equation in symbols on a periodic line, such as `u_t = -u*u_x + nu*u_xx`; "
        "`coefficients` hold the names that it uses.",
    )
    fields: tuple[MappedField, ...] = Field(min_length=1, max_length=16)
    static_fields: tuple[MappedField, ...] = Field(default=(), max_length=16)
    axes: AxisOrder = Field(description="Of the arrays of fields, in the order of the file.")
    time: MappedTime
    space: dict[Literal["x", "y", "z"], MappedAxis] = Field(min_length=1, max_length=3)
    boundary: Sides | None = Field(default=None, description="(low, high) kind per axis; a family has its own.")
    coefficients: dict[Name, MappedCoefficient] = Field(default={}, max_length=16)
    segments: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Every trajectory is cut into so many, one after the other in time, of equal length: for a file "
        "that holds one long one.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sum(entry is not None for entry in (self.family, self.equation, self.symbols)) != 1:
            raise ValueError("a mapping names a family, an equation, or an equation in symbols")
        if self.symbols is not None and self.static_fields:
            raise ValueError("an equation in symbols holds its forcing")
        if self.equation is not None and self.boundary is None:
            raise ValueError("an equation of your own needs its boundary")
        names = "xyz"[: len(self.space)]
        if set(self.space) != set(names):
            raise ValueError(f"an equation in {len(self.space)} dimensions has the axes {', '.join(names)}")
        if self.boundary is not None and len(self.boundary) != len(self.space):
            raise ValueError("boundary needs one entry per axis of space")
        for entry in self.fields:
            self._check_axes(entry, self.order(entry), {"time", *names})
        for entry in self.static_fields:
            self._check_axes(entry, self.order(entry, static=True), {*names})
        named = [entry.name.lower() for entry in (*self.fields, *self.static_fields)]
        named += [name.lower() for name in self.coefficients]
        if len(set(named)) < len(named):
            raise ValueError("fields, static fields and coefficients need names of their own")
        return self

    def _check_axes(self, entry: MappedField, order: tuple[AxisName, ...], needed: set[str]) -> None:
        named = [name for name in order if name != "-"]
        if len(set(named)) < len(named) or not needed <= set(named):
            raise ValueError(f"the axes of {entry.name} need {', '.join(sorted(needed))}, each once")
        if not set(named) <= needed | {"trajectory", "component"}:
            raise ValueError(f"the axes of {entry.name} hold one that space does not describe")
        if ("component" in named) != (entry.component is not None):
            raise ValueError(f"{entry.name} needs its component where, and only where, its axes hold `component`")

    def order(self, entry: MappedField, static: bool = False) -> tuple[AxisName, ...]:
        """The axes of a field's array."""
        if entry.axes is not None:
            return entry.axes
        return tuple(name for name in self.axes if not (static and name == "time"))

    @property
    def names(self) -> tuple[str, ...]:
        """Spatial axes, in order."""
        return tuple("xyz"[: len(self.space)])

    @property
    def family_id(self) -> str:
        if self.equation is not None:
            return self.equation.id
        return EVOLUTION if self.family is None else self.family

    def check(self) -> None:
        """What can be said before the file is there.

        Raises:
            UserError: ``not_mappable``, ``family_exists``, ``invalid_mapping``, ``invalid_equation``.
        """
        if self.equation is not None:
            self.equation_spec(tuple((0.0, 1.0) for _ in self.space)).check()
        if self.symbols is not None:
            try:
                parse_equation(self.symbols, dict.fromkeys(self.coefficients, 1.0))
            except UserError as error:
                if error.code != "missing_coefficient":  # that may be said beside the mapping
                    raise

    def equation_spec(self, extent: Extent, dt: float | None = None) -> EquationSpec:
        """The equation of the user's own on a box.

        Raises:
            UserError: ``invalid_mapping`` where it is of a family, or its parts contradict one another.
        """
        if self.equation is None or self.boundary is None:
            raise UserError("invalid_mapping", "the mapping has no equation of its own")
        own = self.equation
        taken = {entry.slot for entry in self.fields if entry.slot is not None}
        free = iter(slot for slot in range(len(self.fields) + len(taken)) if slot not in taken)
        try:
            return EquationSpec(
                id=own.id,
                name=own.name,
                equation=own.equation,
                fields=tuple(_field(entry, next(free) if entry.slot is None else entry.slot) for entry in self.fields),
                static_fields=tuple(_field(entry, entry.slot or 0) for entry in self.static_fields),
                coefficients=tuple(
                    CoefficientSpec(
                        name=name,
                        value=entry.value,
                        low=entry.low,
                        high=entry.high,
                        unit=entry.unit,
                        description=entry.description,
                    )
                    for name, entry in self.coefficients.items()
                ),
                extent=extent,
                boundary=self.boundary,
                dt=own.dt or dt,
                time_unit=own.time_unit,
                length_unit=own.length_unit,
            )
        except ValidationError as error:
            raise _invalid(error) from None

    @classmethod
    def from_text(cls, text: str, name: str = "the mapping") -> Self:
        """Reads YAML or JSON.

        Raises:
            UserError: ``invalid_mapping``, and those of `check`.
        """
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError("invalid_mapping", f"{name} is not YAML", got=str(error)) from None
        if not isinstance(document, dict):
            raise UserError("invalid_mapping", f"{name} is no mapping", got=type(document).__name__)
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Raises UserError as `from_text`."""
        import json

        try:
            mapping = cls.model_validate_json(json.dumps(document, default=str))
        except (ValidationError, ValueError, TypeError) as error:
            raise _invalid(error) from None
        mapping.check()
        return mapping

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Raises UserError ``not_found``, and those of `from_text`."""
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError("invalid_mapping", f"{path.name} is not text") from error
        except OSError as error:
            raise UserError("not_found", f"there is no file {path}") from error
        return cls.from_text(text, path.name)


def _field(entry: MappedField, slot: int) -> FieldSpec:
    return FieldSpec(
        name=entry.name, slot=slot, unit=entry.unit, description=entry.description, positive=entry.positive
    )


def _invalid(error: Exception) -> UserError:
    if isinstance(error, ValidationError):
        found = invalid_request(error)
        return UserError("invalid_mapping", "the mapping is not valid", got=found.got, expected=found.expected)
    return UserError("invalid_mapping", "the mapping is not valid", got=str(error))


def boundary_of(mapping: Mapping, family: BoundaryCondition) -> BoundaryCondition:
    """The mapping's boundary condition, or the family's."""
    return family if mapping.boundary is None else BoundaryCondition(mapping.boundary)


UNIFORM = 1e-3
"""How far times and coordinates may lie from equal steps, in steps: files round them to float32 and to few digits."""


def check_increasing(values: NDArray[np.float64], what: str) -> None:
    """Raises UserError ``wrong_axis`` where values are not two or more, finite and increasing."""
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise UserError("wrong_axis", f"{what} is no list of two or more finite numbers", got=values.shape)
    if (np.diff(values) <= 0).any():
        raise UserError("wrong_axis", f"{what} does not increase", got=f"{values[0]:g} to {values[-1]:g}")


def line_of(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The numbers along the one axis on which an array changes, as coordinates in a mesh do; None where none does, or
    where there are none."""
    if values.size == 0:
        return None
    values = values.reshape([n for n in values.shape if n != 1] or [1])
    for axis in reversed(range(values.ndim)):
        first = values.take([0], axis)
        if values.ndim > 1 and np.allclose(values, first, rtol=1e-5, atol=1e-7):
            values = first.squeeze(axis)
    return values if values.ndim == 1 else None


def equal_steps(values: NDArray[np.float64], what: str, hint: str = "interpolate the values to equal steps") -> float:
    """The step of increasing values that are equally far apart.

    Raises:
        UserError: ``wrong_axis`` (not increasing, not finite), ``not_uniform``, with the steps found.
    """
    check_increasing(values, what)
    steps = np.diff(values)
    step = float((values[-1] - values[0]) / (len(values) - 1))
    uniform = values[0] + step * np.arange(len(values))
    if np.abs(values - uniform).max() > UNIFORM * step + 2e-7 * np.abs(values).max():
        raise UserError(
            "not_uniform",
            f"the steps of {what} differ: {steps.min():.6g} to {steps.max():.6g}",
            got=[float(f"{entry:.6g}") for entry in steps[:8]],
            expected=f"{len(values) - 1} equal steps of {step:.6g}",
            hint=hint,
        )
    return step
