"""An equation of the user's own, which no family of this installation describes: fields, numbers, box and boundary."""

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, Coefficient, Family
from ups_server.pde import Field as Quantity
from ups_server.pde.family import UnsolvedFamily
from ups_server.pde.registry import is_installed
from ups_server.specs import Spec

SLOTS = 4
"""Places for fields in the superspace of the models."""
DIMENSIONS = 2
"""Most spatial dimensions of the models."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")]
Text = Annotated[str, Field(max_length=256)]
Sides = Annotated[
    tuple[tuple[BoundaryKind, BoundaryKind], ...],
    Field(min_length=1, max_length=3, description="(low, high) kind per axis x, y."),
]


class FieldSpec(Spec):
    """A physical quantity of a declared equation, and where it stands."""

    name: Name
    slot: int = Field(ge=0, description="0 Vx or a scalar, 1 Vy or a second scalar, 2 density or tracer, 3 pressure.")
    dataset: str | None = Field(
        default=None, min_length=1, max_length=64, description="Its dataset in the file; default: its name."
    )
    unit: Annotated[str, Field(max_length=16)] = "1"
    description: Text = ""
    positive: bool = Field(default=False, description="Trajectories with negative values are not used.")

    def quantity(self) -> Quantity:
        return Quantity(self.name, self.slot, self.unit, self.description, self.positive)


class CoefficientSpec(Spec):
    """A number in a declared equation. Without a value the file has to say it, as attribute of the same name."""

    name: Name
    value: FiniteFloat | None = None
    low: FiniteFloat | None = Field(default=None, description="Lower end of its physical domain; null: none.")
    high: FiniteFloat | None = Field(default=None, description="Upper end of its physical domain; null: none.")
    unit: Annotated[str, Field(max_length=16)] = "1"
    description: Text = ""

    @model_validator(mode="after")
    def _inside(self) -> Self:
        low, high = self.domain
        if low >= high or (self.value is not None and not low <= self.value <= high):
            raise ValueError("low must be below high, and the value between them")
        return self

    @property
    def domain(self) -> tuple[float, float]:
        return (
            float("-inf") if self.low is None else self.low,
            float("inf") if self.high is None else self.high,
        )

    def coefficient(self) -> Coefficient:
        """Its default only fills a place: `value`, the file or the user tells the number."""
        default = self.value if self.value is not None else min(max(1.0, self.domain[0]), self.domain[1])
        return Coefficient(self.name, self.name, self.description, default, self.domain, unit=self.unit)


class EquationSpec(Spec):
    """An equation of the user's own: what a model has to know of it.

    The file has the layout of PDEBench: `single` (a dataset a field (N, T, X...), coordinates `x-coordinate`, ...,
    `t-coordinate`, coefficients as attributes) or `grouped` (a group a trajectory with `data` (T, X..., C), `grid/x`,
    ..., `grid/t`).
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{1,63}$", description="The family id it gets.", examples=["my_equation"])
    name: str = Field(min_length=1, max_length=128, description="The model reads this name.")
    equation: str = Field(min_length=1, max_length=512, examples=["u_t = nu u_xx - u^3"])
    fields: tuple[FieldSpec, ...] = Field(min_length=1, max_length=16, description="In the order of the channels.")
    static_fields: tuple[FieldSpec, ...] = Field(
        default=(), max_length=16, description="Fields (N, X...) that do not change in time; layout `single` only."
    )
    coefficients: tuple[CoefficientSpec, ...] = Field(default=(), max_length=16)
    extent: tuple[tuple[FiniteFloat, FiniteFloat], ...] = Field(
        min_length=1, max_length=3, description="(low, high) of the box per axis x, y."
    )
    boundary: Sides
    dt: FiniteFloat | None = Field(
        default=None, gt=0, description="The step to learn: a multiple of the frame spacing, which is the default."
    )
    time_unit: Annotated[str, Field(max_length=16)] = "1"
    length_unit: Annotated[str, Field(max_length=16)] = "1"
    layout: Literal["single", "grouped"] = "single"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [entry.name.lower() for entry in (*self.fields, *self.static_fields)]
        names += [entry.name.lower() for entry in self.coefficients]
        if len(set(names)) < len(names):
            raise ValueError("fields, static fields and coefficients need names of their own")
        if len(self.boundary) != len(self.extent):
            raise ValueError("boundary and extent need one entry per axis")
        if any(low >= high for low, high in self.extent):
            raise ValueError("an extent needs low < high")
        if any((low is BoundaryKind.PERIODIC) != (high is BoundaryKind.PERIODIC) for low, high in self.boundary):
            raise ValueError("an axis is periodic on both sides or on none")
        if self.layout == "grouped" and any(entry.value is None for entry in self.coefficients):
            raise ValueError("in the grouped layout every coefficient needs a value")
        if self.layout == "grouped" and self.static_fields:
            raise ValueError("the grouped layout has no static fields")
        return self

    def check(self) -> None:
        """What the models have a place for, and an id that is free.

        Raises:
            UserError: ``not_mappable`` or ``family_exists``.
        """
        check_mappable(self.id, len(self.extent), [entry.slot for entry in self.fields])
        if is_installed(self.id):
            raise UserError(
                "family_exists",
                f"{self.id} is a family of this installation",
                got=self.id,
                hint="give the file's family instead of an equation, or choose another id",
            )

    def family(self, dt: float | None = None) -> Family:
        """The equation as a family without a solver; `dt` where neither the user nor the spacing of frames says it."""
        kind = type(
            "DeclaredFamily",
            (UnsolvedFamily,),
            {
                "__doc__": self.equation,
                "id": self.id,
                "name": self.name,
                "equation": self.equation,
                "fields": tuple(entry.quantity() for entry in self.fields),
                "static_fields": tuple(entry.quantity() for entry in self.static_fields),
                "coefficients": tuple(entry.coefficient() for entry in self.coefficients),
                "extent": self.extent,
                "boundary": BoundaryCondition(self.boundary),
                "dt": self.dt or dt or 1.0,
                "frame_dt": self.dt or dt or 1.0,
                "t_final": self.dt or dt or 1.0,
                "n": 128,
                "time_unit": self.time_unit,
                "length_unit": self.length_unit,
            },
        )
        family: Family = kind()
        return family


def check_mappable(family: str, dimensions: int, slots: list[int]) -> None:
    """Raises UserError ``not_mappable`` for a state that the superspace of the models has no place for."""
    if dimensions > DIMENSIONS:
        reason, got = f"models have at most {DIMENSIONS} dimensions", f"{dimensions} dimensions"
    elif len(slots) > SLOTS:
        reason, got = f"models have {SLOTS} slots for fields", f"{len(slots)} fields"
    elif max(slots) >= SLOTS:
        reason, got = f"models have the slots 0 to {SLOTS - 1}", f"slot {max(slots)}"
    elif len(set(slots)) < len(slots):
        reason, got = "every field needs a slot of its own", f"slots {slots}"
    else:
        return
    raise UserError(
        "not_mappable",
        f"no model can take the states of {family}: {reason}",
        got=got,
        expected=f"at most {DIMENSIONS} dimensions and {SLOTS} fields in slots 0 to {SLOTS - 1}",
        hint="leave out fields, or upload slices",
    )
