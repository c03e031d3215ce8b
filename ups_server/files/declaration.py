"""What a user says about a file: its family and numbers, or a whole equation that this installation does not know."""

from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, FiniteFloat, ValidationError, model_validator

from ups_server.data.mapping import Mapping
from ups_server.data.user_equation import EquationSpec, Sides, check_mappable
from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, Family
from ups_server.pde.registry import known_families
from ups_server.specs import Spec, invalid_request

Axes = Annotated[
    tuple[Literal["x", "y", "z"], ...],
    Field(min_length=1, max_length=3, description="The spatial axes in the order in which the file stores them."),
]


MOST_BRACKETS = 200
"""Of a mapping in YAML: it names a few dozen arrays, and none is nested deeply."""


class Declaration(Spec):
    """What the user says; it wins over what name and structure of the file suggest.

    Numbers and names written inside the file are no guesses: where they contradict, the file is refused.
    """

    family: str | None = Field(default=None, max_length=64, description="A family id.", examples=["burgers"])
    equation: EquationSpec | None = Field(default=None, description="Instead of a family: an equation of your own.")
    coefficients: dict[Annotated[str, Field(max_length=32)], FiniteFloat] = Field(default={}, max_length=16)
    boundary: Sides | None = Field(default=None, description="Default: the family's. (low, high) kind per axis.")
    axes: Axes | None = None
    mapping: Mapping | None = Field(
        default=None, description="Instead of all else: what the file's arrays mean, where it does not explain itself."
    )
    slots: dict[Annotated[str, Field(max_length=32)], int] | None = Field(
        default=None, description="Field -> slot; must be the family's own. Other slots need an equation of your own."
    )

    @model_validator(mode="after")
    def _one_equation(self) -> Self:
        if self.family is not None and self.equation is not None:
            raise ValueError("give family or equation, not both")
        if self.equation is not None and (self.boundary is not None or self.slots is not None):
            raise ValueError("an equation has its own boundary and slots")
        others = (self.family, self.equation, self.boundary, self.axes, self.slots)
        if self.mapping is not None and any(entry is not None for entry in others):
            raise ValueError("a mapping says what family, equation, boundary, axes and slots would")
        if self.axes is not None and sorted(self.axes) != list("xyz"[: len(self.axes)]):
            raise ValueError("axes are a permutation of x, y")
        if self.slots is not None and self.family is None:
            raise ValueError("slots need the family whose fields they place")
        if self.axes is not None and self.family is None and self.equation is None:
            raise ValueError("axes need a family or an equation")
        return self

    @property
    def family_id(self) -> str | None:
        if self.mapping is not None:
            return self.mapping.family_id
        return self.family if self.equation is None else self.equation.id

    def check(self) -> None:
        """What can be said before the file is there.

        Raises:
            UserError: ``unknown_family``, ``unknown_coefficient``, ``coefficient_out_of_domain``,
                ``wrong_boundary``, ``wrong_axis``, ``slot_mismatch``, ``not_mappable``, ``family_exists``.
        """
        if self.mapping is not None:
            self.mapping.check()
        elif self.equation is not None:
            self.equation.check()
            self._check_against(self.equation.family())
        elif self.family is not None:
            known = known_families()
            if self.family not in known:
                raise UserError(
                    "unknown_family",
                    f"there is no family {self.family!r}",
                    got=self.family,
                    expected=sorted(known),
                    hint="an equation of your own is declared under `equation`",
                )
            self._check_against(known[self.family])

    def _check_against(self, family: Family) -> None:
        family.complete(self.coefficients)
        check_mappable(family.id, family.ndim, [field.slot for field in family.fields])
        if self.boundary is not None:
            check_boundary(family, BoundaryCondition(self.boundary))
        if self.axes is not None and len(self.axes) != family.ndim:
            raise UserError("wrong_axis", f"{family.id} has {family.ndim} spatial axes", got=self.axes)
        own = {field.name: field.slot for field in family.fields}
        if self.slots is not None and self.slots != own:
            raise UserError(
                "slot_mismatch",
                f"the fields of {family.id} have slots of their own",
                got=self.slots,
                expected=own,
                hint="declare an equation of your own to place fields otherwise",
            )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads a declaration.

        Raises:
            UserError: ``invalid_request``, and those of `check`.
        """
        try:
            declaration = cls.model_validate_json(text)
        except ValidationError as error:
            raise invalid_request(error) from None
        declaration.check()
        return declaration

    @classmethod
    def from_mapping(cls, text: bytes) -> Self:
        """The declaration of a mapping in YAML, such as the one that a refused file proposes.

        Raises:
            UserError: ``invalid_mapping``, and those of `check`.
        """
        try:
            written = text.decode()
            aliased = any(isinstance(token, yaml.AliasToken) for token in yaml.scan(written))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError("invalid_mapping", "the mapping is not YAML", got=str(error)[:500]) from None
        if aliased or written.count("[") + written.count("{") > MOST_BRACKETS:
            raise UserError("invalid_mapping", "the mapping has aliases, or too many brackets", expected="plain YAML")
        declaration = cls(mapping=Mapping.from_text(written))
        declaration.check()
        return declaration


def check_boundary(family: Family, boundary: BoundaryCondition) -> None:
    """Raises UserError ``wrong_boundary`` where it does not fit the axes."""
    if len(boundary.sides) != family.ndim:
        raise UserError(
            "wrong_boundary",
            f"{family.id} has {family.ndim} spatial axes",
            got=boundary.as_names(),
            expected=family.ndim,
        )
    if any((low is BoundaryKind.PERIODIC) != (high is BoundaryKind.PERIODIC) for low, high in boundary.sides):
        raise UserError("wrong_boundary", "an axis is periodic on both sides or on none", got=boundary.as_names())
