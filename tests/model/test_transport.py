import math

import pytest
import torch
from torch import Tensor

from ups_server.model.transport import carried, departure

BOX, WALLS = (True, True), (False, False)


def centres(n: int) -> tuple[Tensor, Tensor]:
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return x[:, None].expand(n, n), x[None].expand(n, n)


def wave(x: Tensor, y: Tensor) -> Tensor:
    return (torch.sin(2 * math.pi * x) * torch.cos(4 * math.pi * y))[None, None]


def uniform(n: int, along_x: float, along_y: float) -> Tensor:
    return torch.tensor([along_x, along_y], dtype=torch.float64)[None, :, None, None].expand(1, 2, n, n)


@pytest.mark.parametrize("periodic", [BOX, WALLS])
def test_no_displacement_changes_nothing(periodic: tuple[bool, bool]) -> None:
    u = torch.randn(3, 4, 8, 12)
    assert torch.equal(carried(u, torch.zeros(3, 2, 8, 12), periodic), u)


def test_whole_cells_are_a_shift() -> None:
    u = torch.randn(2, 3, 16, dtype=torch.float64)
    back = torch.full((2, 1, 16), -3 / 16, dtype=torch.float64)
    torch.testing.assert_close(carried(u, back, (True,)), u.roll(3, -1))


def test_cubics_are_exact_inside() -> None:
    x = (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    displacement = 0.06 * torch.sin(7 * x)
    moved = carried((x**3 - x)[None, None], displacement[None, None], (False,))[0, 0]
    place = x + displacement
    torch.testing.assert_close(moved[4:-4], (place**3 - place)[4:-4], atol=1e-12, rtol=0)


def test_fourth_order_in_the_cell() -> None:
    """Half a cell off, where the remainder of cubic interpolation, 3/128 h^4 u'''', is largest."""
    errors = []
    for n in (32, 64):
        x, y = centres(n)
        shift = 2.5 / n
        moved = carried(wave(x, y), uniform(n, shift, -shift), BOX)
        errors.append(float((moved - wave(x + shift, y - shift)).abs().max()))
    assert math.log2(errors[0] / errors[1]) > 3.8


def test_walls_hold_the_last_value() -> None:
    u = torch.arange(8.0)[None, None]
    assert torch.equal(carried(u, torch.full((1, 1, 8), 0.5), (False,))[0, 0, -4:], torch.full((4,), 7.0))


@pytest.mark.parametrize("angle", [0.2, 0.1])
def test_departure_in_a_rotation_is_second_order(angle: float) -> None:
    """Solid rotation by `angle` about the middle: the midpoint rule errs by r angle^3 / 8 at most."""
    x, y = centres(64)
    x, y = x - 0.5, y - 0.5
    back = departure(torch.stack([y, -x])[None] * angle, WALLS)[0]
    exact_x, exact_y = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    inside = x**2 + y**2 < 0.4**2
    error = torch.hypot(x + back[0] - exact_x, y + back[1] - exact_y)[inside].max()
    straight = torch.hypot(x + angle * y - exact_x, y - angle * x - exact_y)[inside].max()
    assert error < 0.4 * angle**3 / 8 * 1.5 < straight


def test_gradient_with_respect_to_field_and_displacement() -> None:
    u = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    displacement = (0.13 + 0.05 * torch.rand(2, 2, 5, 6, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, d: carried(u, d, (True, False)), (u, displacement))
