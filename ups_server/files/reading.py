"""Opening a user's file with what the user says about it. Only the confined process does."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ups_server.data.formats import Given, format_of, open_content
from ups_server.data.formats.pdebench import open_pdebench
from ups_server.data.formats.pdebench.card import GROUPED, SINGLE, Card, card_of
from ups_server.data.source import TrajectorySource
from ups_server.data.user_equation import EquationSpec, check_mappable
from ups_server.data.windows import frame_stride
from ups_server.errors import UserError
from ups_server.files.declaration import Declaration, check_boundary
from ups_server.pde import BoundaryCondition
from ups_server.pde.registry import add_user_family, known_families


def open_declared(path: Path, neutral: Path, declaration: Declaration) -> TrajectorySource:
    """The trajectories of a file.

    Args:
        path: the file under the name its user gave it, which may tell its family.
        neutral: the same file under a name that tells nothing, for a family that is declared.

    Raises:
        UserError: what is missing, contradictory or broken.
    """
    source: TrajectorySource
    if declaration.equation is not None:
        source = _open_equation(neutral, declaration.equation, declaration)
    elif declaration.family is not None:
        source = _open(neutral, declaration, declaration.family, declaration.coefficients, _known_card(declaration))
    else:
        source = open_content(path, None, declaration.coefficients)
    try:
        family = known_families()[source.family]
        check_mappable(family.id, family.ndim, [field.slot for field in family.fields])
        if declaration.boundary is not None:
            source.boundary = BoundaryCondition(declaration.boundary)
        check_boundary(family, source.boundary)
    except UserError:
        source.close()
        raise
    return source


def _known_card(declaration: Declaration) -> Card | None:
    """The card of a known family whose axes the user declares; None where nothing is to be changed."""
    card = card_of(declaration.family or "")
    if card is None:
        raise UserError("no_layout", f"files of {declaration.family} have no layout", got=declaration.family)
    return None if declaration.axes is None else replace(card, axes=declaration.axes)


def _open(
    path: Path, declaration: Declaration, family: str, coefficients: Mapping[str, float], card: Card | None
) -> TrajectorySource:
    """A file of a declared family; NetCDF and npz name their variables and axes, which no card has to."""
    found = format_of(path)
    if not found.names_axes:
        return open_pdebench(path, Given(family, coefficients), card)
    if declaration.axes is not None:
        raise UserError("wrong_axis", f"the axes of {path.name} have names: none are to be declared")
    return found.open(path, Given(family, coefficients))


def _open_equation(path: Path, spec: EquationSpec, declaration: Declaration) -> TrajectorySource:
    """A file of an equation that only the user knows."""
    add_user_family(spec.family())
    known = {entry.name: entry.value for entry in spec.coefficients if entry.value is not None}
    card = equation_card(spec, declaration.axes)
    source = _open(path, declaration, spec.id, {**known, **declaration.coefficients}, card)
    if spec.dt is None and len(source.times) > 1:
        add_user_family(spec.family(float(source.times[-1] - source.times[0]) / (len(source.times) - 1)))
    elif spec.dt is not None:
        try:
            frame_stride(source.times, spec.dt)
        except UserError:
            source.close()
            raise
    return source


def equation_card(spec: EquationSpec, axes: tuple[str, ...] | None = None) -> Card:
    """How the files of a declared equation look."""
    names = tuple("xyz"[: len(spec.extent)]) if axes is None else axes
    coefficients = {entry.name: entry.name for entry in spec.coefficients}
    if spec.layout == GROUPED:
        return Card(spec.id, GROUPED, "", config=coefficients, axes=names)
    return Card(
        spec.id,
        SINGLE,
        "",
        datasets=tuple(entry.dataset or entry.name for entry in spec.fields),
        static=tuple(entry.dataset or entry.name for entry in spec.static_fields),
        attributes=coefficients,
        axes=names,
    )
