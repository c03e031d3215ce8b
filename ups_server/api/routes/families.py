"""The equations this installation solves."""

import math
from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from ups_server.api.problems import documented
from ups_server.api.service import CurrentService, Service
from ups_server.files.equations import declared_families
from ups_server.pde import BoundaryCondition, Coefficient, Family, families, family
from ups_server.pde import Field as Quantity
from ups_server.pde.family import RAND

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


class InitialKindCard(BaseModel):
    """A distribution of initial states."""

    model_config = ConfigDict(title="InitialKind")
    name: str
    description: str
    boundaries: list[list[list[str]]] = Field(description="The boundary conditions it is made for.")


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
    boundaries: list[list[list[str]]] = Field(description="All that its numerical solver offers.")
    initial_kinds: list[InitialKindCard] = Field(description="Distributions that initial states are drawn from.")
    extent: list[tuple[float, float]]
    n: int
    dt: float
    t_final: float
    time_unit: str
    length_unit: str
    conserved: list[str]
    declared: bool = Field(default=False, description="An equation of a user's file; only models tuned to it solve it.")


class FamilyList(BaseModel):
    """All families."""

    families: list[FamilyCard]


@router.get("")
def list_families(service: CurrentService) -> FamilyList:
    """Every family: equation, fields, coefficients with their physical domains, default grid and time step.

    Equations that users declared come last.
    """
    known = [family_card(entry) for entry in families().values()]
    return FamilyList(families=known + [family_card(entry, declared=True) for entry in _declared(service).values()])


@router.get("/{family_id}", responses=documented(404))
def get_family(family_id: str, service: CurrentService) -> FamilyCard:
    """One family."""
    declared = _declared(service)
    return family_card(declared[family_id], declared=True) if family_id in declared else family_card(family(family_id))


def _declared(service: Service) -> dict[str, Family]:
    return declared_families(
        service.settings.data_dir, [Path(card.source) for card in service.catalog.models() if card.kind == "learned"]
    )


def family_card(entry: Family, declared: bool = False) -> FamilyCard:
    return FamilyCard(
        id=entry.id,
        name=entry.name,
        equation=entry.equation,
        dimensions=entry.ndim,
        fields=[_field_card(field) for field in entry.fields],
        static_fields=[_field_card(field) for field in entry.static_fields],
        coefficients=[_coefficient_card(coefficient) for coefficient in entry.coefficients],
        boundary=entry.boundary.as_names(),
        boundaries=_names(entry.boundaries),
        initial_kinds=[
            InitialKindCard(name=RAND, description="the family's usual one", boundaries=_names(entry.boundaries)),
            *(
                InitialKindCard(name=kind.name, description=kind.description, boundaries=_names(kind.boundaries))
                for kind in entry.kinds
            ),
        ],
        extent=list(entry.extent),
        n=entry.n,
        dt=entry.dt,
        t_final=entry.t_final,
        time_unit=entry.time_unit,
        length_unit=entry.length_unit,
        conserved=list(entry.conserved),
        declared=declared,
    )


def _field_card(field: Quantity) -> FieldCard:
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


def _names(boundaries: Sequence[BoundaryCondition]) -> list[list[list[str]]]:
    return [boundary.as_names() for boundary in boundaries]
