"""Fits in patches: they give a field back, and do not know where in their cells the points lie."""

import numpy as np
import pytest
import torch

from ups_server.errors import UserError
from ups_server.model.latent import check_points, fitted, values


def sampled(points: int, offset: float) -> torch.Tensor:
    """(1, X, X, 1): a smooth field at points that lie `offset` spacings into their cells."""
    x = (torch.arange(points, dtype=torch.float64) + offset) / points
    field = torch.sin(2 * np.pi * x)[:, None] * torch.cos(2 * np.pi * x)[None]
    return field[None, ..., None]


@pytest.mark.parametrize("points", [(16, 16), (8, 16), (16,)])
@pytest.mark.parametrize("offset", [0.5, 0.0625])
def test_as_many_polynomials_as_points_give_every_field_back(points: tuple[int, ...], offset: float) -> None:
    torch.manual_seed(0)
    given = torch.randn(2, *points, 3, dtype=torch.float64)
    kept = fitted(given, 4, 4, (offset,) * len(points))
    assert kept.shape == (2, *(4,) * len(points), 3 * 4 ** len(points))
    torch.testing.assert_close(values(kept, points, 4, (offset,) * len(points)), given)


@pytest.mark.parametrize(("points", "offset"), [(128, 0.5), (128, 0.0625), (256, 0.5), (64, 0.25)])
def test_the_fit_belongs_to_the_field_and_not_to_its_points(points: int, offset: float) -> None:
    reference = fitted(sampled(1024, 0.5), 16, 4, (0.5, 0.5))
    found = fitted(sampled(points, offset), 16, 4, (offset, offset))
    # Cubic interpolation: what is left out is of the fourth order in the width of a patch.
    assert (found - reference).abs().max() < (2 * np.pi / 16) ** 4 / 50
    fine = values(found, (1024, 1024), 4, (0.5, 0.5))
    assert (fine - sampled(1024, 0.5)).abs().max() < (2 * np.pi / 16) ** 4 / 10


def test_a_polynomial_is_what_its_coefficients_say() -> None:
    coefficients = torch.zeros(1, 2, 4, dtype=torch.float64)
    coefficients[0, 0, 1], coefficients[0, 1, 0] = 1.0, 3.0
    found = values(coefficients, (8,), 4, (0.5,))[0, :, 0]
    xi = torch.tensor([-0.75, -0.25, 0.25, 0.75], dtype=torch.float64)
    torch.testing.assert_close(found, torch.cat([3**0.5 * xi, torch.full((4,), 3.0, dtype=torch.float64)]))


def test_points_that_do_not_fill_the_patches_are_refused() -> None:
    check_points((64, 96), 16)
    with pytest.raises(UserError, match="fill the patches") as caught:
        check_points((64, 100), 16)
    assert caught.value.code == "resolution_not_supported"
