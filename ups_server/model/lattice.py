"""Between the points of a state and a lattice of patches that belongs to the box, whatever the points.

Each axis of the box is cut into equal patches. Within a patch, at xi in [-1, 1], a field is described by its fit with
the first K Legendre polynomials, phi_j(xi) = sqrt(2 j + 1) P_j(xi), in the least-squares sense; a patch of p < K points
has p polynomials. Points are where the grid's offset says: cell centres and strided points of one smooth field have the
same coefficients. The weights behind never see the number of points: any resolution that is a multiple of the patches
works, with the same lattice and the same cost there.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ups_server.errors import UserError


def check_points(points: tuple[int, ...], patches: int) -> None:
    """Raises UserError ``resolution_not_supported`` for points that do not fill the patches evenly."""
    if any(n % patches for n in points):
        raise UserError(
            "resolution_not_supported",
            "the points of an axis must fill the patches of the model evenly",
            got=points,
            expected=f"multiples of {patches}",
        )


def fitted(u: Tensor, patches: int, degree: int, offset: tuple[float, ...]) -> Tensor:
    """Values (B, X..., C) at the points -> coefficients (B, P..., C degree^d) of the fit in every patch."""
    for axis in range(u.ndim - 2):
        size = u.shape[1 + axis] // patches
        fit = _fit(size, degree, offset[axis], u.device, u.dtype)
        # (..., P, size, ..., C) -> (..., P, ..., C degree): the coefficients of every axis gather in the last one.
        parts = u.unflatten(1 + axis, (patches, size)).movedim(2 + axis, -1)
        u = (parts @ fit).flatten(-2)
    return u


def values(coefficients: Tensor, points: tuple[int, ...], degree: int, offset: tuple[float, ...]) -> Tensor:
    """Coefficients (B, P..., C degree^d) of every patch -> values (B, X..., C) at the points."""
    for axis in reversed(range(len(points))):
        size = points[axis] // coefficients.shape[1 + axis]
        phi = _basis(size, degree, offset[axis], coefficients.device, coefficients.dtype)
        parts = coefficients.unflatten(-1, (-1, degree)) @ phi
        coefficients = parts.movedim(-1, 2 + axis).flatten(1 + axis, 2 + axis)
    return coefficients


def _polynomials(size: int, degree: int, offset: float) -> NDArray[np.float64]:
    """phi_j at the points of a patch: (size, degree), zero for j >= size."""
    xi = 2 * (np.arange(size) + offset) / size - 1
    found = np.asarray(np.polynomial.legendre.legvander(xi, degree - 1), dtype=np.float64)
    found *= np.sqrt(2 * np.arange(degree) + 1)
    found[:, size:] = 0.0
    return found


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _basis(size: int, degree: int, offset: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(degree, size)"""
    return torch.from_numpy(_polynomials(size, degree, offset).T.copy()).to(device, dtype)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _fit(size: int, degree: int, offset: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(size, degree)"""
    return torch.from_numpy(np.linalg.pinv(_polynomials(size, degree, offset)).T.copy()).to(device, dtype)
