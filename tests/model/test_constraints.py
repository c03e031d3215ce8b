"""What is kept after a step: flows free of divergence, extremes, what a gas conserves, and its entropy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_models import SMALL, card
from ups_server.model.conditioning import Conditions, conditions
from ups_server.model.constraints import above_least_entropy, between_extremes, gas, gradient_part
from ups_server.model.context import Context
from ups_server.model.operator import UPSModel
from ups_server.pde.gas import GAMMA
from ups_server.pde.grid import BoundaryCondition, BoundaryKind

BOX, WALLS, CHANNEL = (True, True), (False, False), (True, False)


def centres(n: int) -> tuple[Tensor, Tensor]:
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return x[:, None].expand(n, n), x[None].expand(n, n)


def between_walls(n: int) -> tuple[Tensor, Tensor]:
    """A flow from a stream function that vanishes on the walls, and a gradient whose normal part does."""
    x, y = centres(n)
    pi = math.pi
    flow = torch.stack([
        2 * torch.sin(pi * x) * torch.cos(2 * pi * y), -torch.cos(pi * x) * torch.sin(2 * pi * y)
    ])  # fmt: skip
    slope = torch.stack([
        -3 * torch.sin(3 * pi * x) * torch.cos(pi * y), -torch.cos(3 * pi * x) * torch.sin(pi * y)
    ])  # fmt: skip
    return flow[None], slope[None]


def around(n: int) -> tuple[Tensor, Tensor]:
    x, y = centres(n)
    phase = 2 * math.pi * (2 * x + y)
    flow = torch.stack([torch.cos(phase), -2 * torch.cos(phase)])
    slope = torch.stack([2 * torch.sin(phase), torch.sin(phase)])
    return flow[None], slope[None]


def along_a_channel(n: int) -> tuple[Tensor, Tensor]:
    """Periodic in x, walls in y: stream function cos(2 pi x) sin(pi y), potential sin(2 pi x) cos(pi y)."""
    x, y = centres(n)
    a, b = 2 * math.pi * x, math.pi * y
    flow = torch.stack([torch.cos(a) * torch.cos(b), 2 * torch.sin(a) * torch.sin(b)])
    slope = torch.stack([2 * torch.cos(a) * torch.cos(b), -torch.sin(a) * torch.sin(b)])
    return flow[None], slope[None]


@pytest.mark.parametrize(("parts", "periodic"), [(between_walls, WALLS), (around, BOX), (along_a_channel, CHANNEL)])
def test_a_flow_is_kept_and_a_gradient_found(parts, periodic: tuple[bool, bool]) -> None:  # type: ignore[no-untyped-def]
    flow, slope = parts(24)
    torch.testing.assert_close(gradient_part(flow + slope, periodic), slope, atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient_part(flow, periodic), torch.zeros_like(flow), atol=1e-12, rtol=0)


@pytest.mark.parametrize("periodic", [BOX, WALLS, CHANNEL])
def test_it_is_an_orthogonal_projection(periodic: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    v, other = torch.randn(2, 3, 2, 12, 17, dtype=torch.float64)
    gradient = gradient_part(v, periodic)
    torch.testing.assert_close(gradient_part(gradient, periodic), gradient, atol=1e-12, rtol=0)
    rest = other - gradient_part(other, periodic)
    assert float((gradient * rest).sum().abs()) < 1e-9
    assert float(gradient.norm()) > 0.3 * float(v.norm())


def test_a_uniform_stream_passes_a_box_and_not_a_wall() -> None:
    stream = torch.ones(1, 2, 8, 8, dtype=torch.float64)
    assert float(gradient_part(stream, BOX).abs().max()) < 1e-14
    torch.testing.assert_close(gradient_part(stream, WALLS), stream, atol=1e-12, rtol=0)


def test_fields_stay_between_the_extremes_that_they_had() -> None:
    generator = torch.Generator().manual_seed(1)
    before, after = torch.rand(3, 5, 6, 4, generator=generator), 3 * torch.rand(3, 5, 6, 4, generator=generator) - 1
    kept = between_extremes(after, before, (2,))
    assert torch.equal(kept[..., [0, 1, 3]], after[..., [0, 1, 3]])
    for row in range(3):
        own = before[row, ..., 2].numpy()
        wanted = np.clip(after[row, ..., 2].numpy(), own.min(), own.max())
        np.testing.assert_array_equal(kept[row, ..., 2].numpy(), wanted)


def mass(state: Tensor) -> Tensor:
    return state[..., 2]


def momentum(state: Tensor) -> Tensor:
    return state[..., :2] * state[..., 2:3]


def energy(state: Tensor) -> Tensor:
    return state[..., 3] / (GAMMA - 1) + state[..., 2] * state[..., :2].square().sum(-1) / 2


def entropy(state: Tensor) -> Tensor:
    return state[..., 3].log() - GAMMA * state[..., 2].log()


def test_a_gas_keeps_mass_momentum_and_energy() -> None:
    generator = torch.Generator().manual_seed(2)
    before, after = torch.rand(2, 4, 12, 10, 4, dtype=torch.float64, generator=generator)
    before, after = before + 0.5, after + 0.5
    after[:, 3, 4, 2] = 9.0  # a peak of density that no pressure has made
    kept = gas(after, before)
    for conserved in (mass, momentum, energy):
        torch.testing.assert_close(conserved(kept).mean((1, 2)), conserved(before).mean((1, 2)))


def test_mass_above_the_least_entropy_moves_to_where_there_is_room() -> None:
    generator = torch.Generator().manual_seed(3)
    before = torch.rand(3, 16, 16, 4, dtype=torch.float64, generator=generator) + 0.5
    density, pressure = before[..., 2:3].clone(), before[..., 3:]
    assert torch.equal(above_least_entropy(density, pressure, before), density)
    density[:, 3, 4] = 9.0
    kept = above_least_entropy(density, pressure, before)
    torch.testing.assert_close(kept.mean((1, 2)), density.mean((1, 2)))
    now = torch.cat([before[..., :2], kept, pressure], -1)
    assert (entropy(now).amin((1, 2)) > entropy(before).amin((1, 2)) - 1e-9).all()
    rest = torch.ones(16, 16, dtype=torch.bool)
    rest[3, 4] = False
    assert (kept[:, rest] >= density[:, rest]).all(), "mass is only taken from where there is too much"


def test_any_resolution_finds_the_same_part() -> None:
    coarse, fine = (gradient_part(torch.stack(between_walls(n)).sum(0), WALLS) for n in (16, 48))
    torch.testing.assert_close(fine[..., 1::3, 1::3], coarse, atol=1e-12, rtol=0)


NO_SLIP = BoundaryCondition.uniform(BoundaryKind.NO_SLIP, 2)


def problem(count: int, *, solenoidal: bool) -> Conditions:
    """A flow whose velocities have different means and scales: the projection is one of physical units."""
    entry = card("2D Flow", 2, (0, 1, 2)).model_copy(update={"solenoidal": solenoidal})
    statistics = entry.statistics.model_copy(update={"mean": (0.25, -0.1, 0.0), "std": (2.0, 1.5, 1.0)})
    entry = entry.model_copy(update={"statistics": statistics})
    return conditions(SMALL, entry, {"nu": [0.01] * count}, NO_SLIP, (0.5, 0.5), torch.ones(count, 8, 8, 3))


def states(count: int) -> Tensor:
    torch.manual_seed(7)
    return torch.nn.functional.pad(torch.randn(count, 3, 16, 16), (0, 0, 0, 0, 0, 1))


def velocity(u: Tensor, given: Conditions) -> Tensor:
    return (u * given.std[..., None, None] + given.mean[..., None, None])[:, :2]


@torch.no_grad()
def test_steps_of_an_incompressible_flow_have_no_gradient_part(small: UPSModel) -> None:
    u, given = states(2), problem(2, solenoidal=True)
    following = small(u, small.read(u, given))
    physical = velocity(following, given)
    assert float(gradient_part(physical, WALLS).norm()) < 1e-5 * float(physical.norm())
    assert float(gradient_part(velocity(u, given), WALLS).norm()) > 0.1 * float(velocity(u, given).norm())


@torch.no_grad()
def test_a_gradient_in_the_initial_velocity_changes_nothing(small: UPSModel) -> None:
    u, given = states(1), problem(1, solenoidal=True)
    context = small.read(u, given)
    gradient = gradient_part(velocity(torch.randn_like(u), given), WALLS) / given.std[:, :2, None, None]
    pushed = torch.cat([u[:, :2] + gradient, u[:, 2:]], dim=1)
    torch.testing.assert_close(small(pushed, context), small(u, context), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_other_flows_of_the_batch_keep_theirs(small: UPSModel) -> None:
    u, given = states(2), [problem(1, solenoidal=flag) for flag in (True, False)]
    contexts = [small.read(u[i : i + 1], given[i]) for i in range(2)]
    alone = [small(u[i : i + 1], contexts[i]) for i in range(2)]
    torch.testing.assert_close(small(u, Context.joined(contexts)), torch.cat(alone), atol=1e-5, rtol=1e-4)
    physical = velocity(alone[1], given[1])
    assert float(gradient_part(physical, WALLS).norm()) > 0.1 * float(physical.norm())
