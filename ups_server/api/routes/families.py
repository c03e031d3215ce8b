"""The equations this installation solves."""

import math

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from ups_server.api.problems import documented
from ups_server.pde import Coefficient, Family, Field, families, family

router = APIRouter(prefix="/v1/families", tags=["families"])


class FieldCard(BaseModel):
    """A physical quantity."""

    name: str
    unit: str
    description: str
    positive: bool


class CoefficientCard(BaseModel):
    """A number in the equation. `low` and `high` bound its physical domain; null: no bound."""

    name: str
    symbol: str
    description: str
    unit: str
    default: float
    low: float | None
    low_included: bool
    high: float | None


class FamilyCard(BaseModel):
    """A PDE family."""

    model_config = ConfigDict(title="Family")
    id: str
    name: str
    equation: str
    dimensions: int
    fields: list[FieldCard]
    static_fields: list[FieldCard]
    coefficients: list[CoefficientCard]
    boundary: list[list[str]]
    extent: list[tuple[float, float]]
    n: int
    dt: float
    t_final: float
    time_unit: str
    length_unit: str
    conserved: list[str]


class FamilyList(BaseModel):
    """All families."""

    families: list[FamilyCard]


@router.get("")
def list_families() -> FamilyList:
    """Every family: equation, fields, coefficients with their physical domains, default grid and time step."""
    return FamilyList(families=[family_card(entry) for entry in families().values()])


@router.get("/{family_id}", responses=documented(404))
def get_family(family_id: str) -> FamilyCard:
    """One family."""
    return family_card(family(family_id))


def family_card(entry: Family) -> FamilyCard:
    return FamilyCard(
        id=entry.id,
        name=entry.name,
        equation=entry.equation,
        dimensions=entry.ndim,
        fields=[_field_card(field) for field in entry.fields],
        static_fields=[_field_card(field) for field in entry.static_fields],
        coefficients=[_coefficient_card(coefficient) for coefficient in entry.coefficients],
        boundary=entry.boundary.as_names(),
        extent=list(entry.extent),
        n=entry.n,
        dt=entry.dt,
        t_final=entry.t_final,
        time_unit=entry.time_unit,
        length_unit=entry.length_unit,
        conserved=list(entry.conserved),
    )


def _field_card(field: Field) -> FieldCard:
    return FieldCard(name=field.name, unit=field.unit, description=field.description, positive=field.positive)


def _coefficient_card(coefficient: Coefficient) -> CoefficientCard:
    low, high = (bound if math.isfinite(bound) else None for bound in coefficient.domain)
    return CoefficientCard(
        name=coefficient.name,
        symbol=coefficient.symbol,
        description=coefficient.description,
        unit=coefficient.unit,
        default=coefficient.default,
        low=low,
        low_included=low is not None and not coefficient.low_open,
        high=high,
    )
