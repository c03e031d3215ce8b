"""A step that is averaged over a symmetry commutes with it exactly; where there is none, nothing is averaged."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.small_models import SMALL, card
from ups_server.model.conditioning import Conditions, conditions
from ups_server.model.config import KnownFamily
from ups_server.model.context import Context, turned
from ups_server.model.operator import UPSModel
from ups_server.model.superspace import lift, lower
from ups_server.pde import families
from ups_server.pde.grid import BoundaryCondition, BoundaryKind

LINE = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
WALLS = BoundaryCondition.uniform(BoundaryKind.NO_SLIP, 2)
ODD = card().model_copy(update={"odd": True})
MIRRORED = card().model_copy(update={"parity": (-1,)})


def flow() -> KnownFamily:
    """Velocities of different means and scales between walls, with a force."""
    entry = card("2D Flow", 2, (0, 1, 2))
    update = {"mean": (0.25, -0.1, 0.3), "std": (2.0, 1.5, 1.0), "static_mean": (0.2, -0.4), "static_std": (1.0, 3.0)}
    known = {"static_fields": ("fx", "fy"), "parity": (-1, -1, 1), "static_parity": (-1, -1), "solenoidal": True}
    return entry.model_copy(update={**known, "statistics": entry.statistics.model_copy(update=update)})


def told(entry: KnownFamily, fields: Tensor, boundary: BoundaryCondition, static: Tensor | None = None) -> Conditions:
    """Args: physical fields (B, X..., C) and static fields (B, X..., S)."""
    normalised = None
    if static is not None:
        mean, std = torch.tensor(entry.statistics.static_mean), torch.tensor(entry.statistics.static_std)
        normalised = ((static - mean) / std).movedim(-1, 1)
    offset = (0.5,) * entry.ndim
    return conditions(SMALL, entry, {"nu": [0.01] * len(fields)}, boundary, offset, fields, normalised)


def stepped(
    model: UPSModel, entry: KnownFamily, fields: Tensor, boundary: BoundaryCondition, static: Tensor | None = None
) -> Tensor:
    """Two steps of physical fields, read at their beginning."""
    given = told(entry, fields, boundary, static)
    u = lift(fields, entry, given)
    context = model.read(u, given)
    return lower(model(model(u, context), context), entry, given)


def problem(entry: KnownFamily) -> tuple[BoundaryCondition, Tensor, Tensor | None]:
    torch.manual_seed(5)
    if entry.ndim == 1:
        return LINE, torch.randn(2, 16, 1), None
    return WALLS, torch.randn(2, 12, 12, 3), torch.randn(2, 12, 12, 2)


def symmetric(entry: KnownFamily, fields: Tensor, signs: tuple[int, ...]) -> Tensor:
    axes = [] if entry.odd else list(range(1, fields.ndim - 1))
    return fields.flip(axes) * torch.tensor(signs)


@torch.no_grad()
@pytest.mark.parametrize("entry", [MIRRORED, ODD, flow()], ids=["mirrored line", "odd", "walls and a force"])
def test_steps_commute_with_the_symmetry(small: UPSModel, entry: KnownFamily) -> None:
    boundary, fields, static = problem(entry)
    signs = entry.parity or (-1,)
    other = None if static is None else symmetric(entry, static, entry.static_parity)
    one = symmetric(entry, stepped(small, entry, fields, boundary, static), signs)
    two = stepped(small, entry, symmetric(entry, fields, signs), boundary, other)
    torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-5)
    plain = entry.model_copy(update={"parity": (), "odd": False})
    without = symmetric(entry, stepped(small, plain, fields, boundary, static), signs)
    assert float((without - stepped(small, plain, symmetric(entry, fields, signs), boundary, other)).abs().max()) > 1e-3


@torch.no_grad()
def test_a_step_is_the_mean_of_the_steps_of_both(small: UPSModel) -> None:
    _, fields, _ = problem(MIRRORED)
    given = told(MIRRORED, fields, LINE)
    u = lift(fields, MIRRORED, given)
    context = small.read(u, given)
    symmetry = context.symmetry
    assert symmetry is not None
    assert context.coefficients is not None
    plain = replace(context, symmetry=None)
    image = replace(plain, coefficients=context.coefficients.turned(symmetry))
    mean = (small(u, plain) + symmetry.of(small(symmetry.of(u), image))) / 2
    torch.testing.assert_close(small(u, context), mean, atol=1e-6, rtol=1e-5)


def test_training_steps_are_not_averaged(small: UPSModel) -> None:
    _, fields, _ = problem(MIRRORED)
    given = told(MIRRORED, fields, LINE)
    small.train()
    try:
        assert small.read(lift(fields, MIRRORED, given), given).symmetry is None
    finally:
        small.eval()


@pytest.mark.parametrize(
    ("boundary", "offset", "averaged"),
    [
        (LINE, 0.0, True),
        (BoundaryCondition.uniform(BoundaryKind.NO_FLUX, 1), 0.5, True),
        (BoundaryCondition.uniform(BoundaryKind.NO_FLUX, 1), 0.25, False),
        (BoundaryCondition(((BoundaryKind.DIRICHLET, BoundaryKind.NO_FLUX),)), 0.5, False),
    ],
    ids=["periodic", "centred", "off centre", "unlike sides"],
)
def test_a_box_that_does_not_map_onto_itself_is_left_alone(
    boundary: BoundaryCondition, offset: float, averaged: bool
) -> None:
    fields = torch.ones(1, 8, 1)
    assert (conditions(SMALL, MIRRORED, {"nu": [0.1]}, boundary, (offset,), fields).symmetry is not None) is averaged
    assert conditions(SMALL, ODD, {"nu": [0.1]}, boundary, (offset,), fields).symmetry is not None
    assert conditions(SMALL, card(), {"nu": [0.1]}, boundary, (offset,), fields).symmetry is None
    both = MIRRORED.model_copy(update={"odd": True})
    found = conditions(SMALL, both, {"nu": [0.1]}, boundary, (offset,), fields).symmetry
    assert found is not None
    assert found.mirrors is averaged


@torch.no_grad()
def test_batched_as_alone(small: UPSModel) -> None:
    _, fields, _ = problem(MIRRORED)
    given = told(MIRRORED, fields, LINE)
    u = lift(fields, MIRRORED, given)
    contexts = [small.read(u[row : row + 1], given.part(slice(row, row + 1))) for row in range(2)]
    alone = torch.cat([small(u[row : row + 1], context) for row, context in enumerate(contexts)])
    joined = Context.joined(contexts)
    torch.testing.assert_close(small(u, joined), alone, atol=1e-6, rtol=1e-5)
    parted = torch.cat([small(u[row : row + 1], context) for row, context in enumerate(joined.split([1, 1]))])
    torch.testing.assert_close(parted, alone, atol=1e-6, rtol=1e-5)


def test_turning_twice_changes_nothing() -> None:
    entry = flow()
    _, fields, static = problem(entry)
    given = told(entry, fields, WALLS, static)
    assert given.symmetry is not None
    turn, static_turn = given.symmetry.turn, given.symmetry.static_turn
    assert static_turn is not None
    assert given.static is not None
    u = lift(fields, entry, given)
    torch.testing.assert_close(turned(turned(u, turn, True), turn, True), u)
    again = turned(turned(given.static, static_turn, True), static_turn, True)
    torch.testing.assert_close(again, given.static)


def test_parities_are_products_of_the_reflections() -> None:
    signs = {entry.id: entry.parity for entry in families().values() if entry.parity}
    assert signs == {
        "burgers": (-1,),
        "compressible_ns_1d": (-1, 1, 1),
        "compressible_ns_2d": (-1, -1, 1, 1),
        "diffusion_reaction_1d": (1,),
        "diffusion_reaction_2d": (1, 1),
        "incompressible_ns_2d": (-1, -1, 1),
        "shallow_water": (1,),
    }
    assert [entry.id for entry in families().values() if entry.odd] == ["advection"]
