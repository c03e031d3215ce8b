"""A few large steps of an incompressible flow between walls that carries particles: what the operator starts from.

In units of the characteristic speed, times in units of a box over it,

    v_s = -v . grad v - grad p + nu lap v + c f,  div v = 0,  c_s = -v . grad c,  v = 0 at the walls.

A step advects the velocity by itself and the particles (semi-Lagrangian, cubic splines), adds the force, lets the
velocity diffuse (exactly, in sine waves) and takes the gradient of the pressure away (Stam, Stable Fluids, 1999). It is
stable for any size; what such large steps leave is for the operator to learn (`model.latent`).
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

STEP, STEPS = 0.03, 12
"""Of a lead time, in characteristic units; and how many there are at most."""


@torch.no_grad()
def flow_steps(own: Tensor, force: Tensor, time: Tensor, viscosity: Tensor) -> Tensor:
    """Velocities and particles (B, 3, X, Y) after `time` (B,), under a force (B, 2, X, Y); viscosity (B,)."""
    count = (time / STEP).ceil().clamp(1, STEPS)
    size = (time / count).reshape(-1, 1, 1, 1)
    n = own.shape[2:]
    sines, cosines = [sine_waves(m, own.device) for m in n], [cosine_waves(m, own.device) for m in n]
    numbers = [math.pi * torch.arange(m + 1, device=own.device) for m in n]
    squares = [numbers[0].square()[:, None], numbers[1].square()]
    decay = (-viscosity.reshape(-1, 1, 1, 1) * size * (squares[0] + squares[1])).exp()[..., 1:, 1:]
    u = own
    for done in range(int(count.max())):
        velocity = u[:, :2]
        half = splined(velocity, -size / 2 * velocity)
        moved = splined(u, -size * half)
        velocity = moved[:, :2] + size * (u[:, 2:] + moved[:, 2:]) / 2 * force
        velocity = without_gradient(_diffused(velocity, sines, decay), sines, cosines)
        # The family's scheme advects linearly between cells, which blurs like a viscosity of |v| dx / 2.
        blur = [half[:, axis].abs().mean((1, 2)).reshape(-1, 1, 1, 1) / (2 * m) for axis, m in enumerate(n)]
        fading = (-size * (blur[0] * squares[0] + blur[1] * squares[1])).exp()
        particles = _diffused(moved[:, 2:], cosines, fading[..., :-1, :-1])
        u = torch.where((count > done).reshape(-1, 1, 1, 1), torch.cat([velocity, particles], 1), u)
    return u


def splined(u: Tensor, displacement: Tensor) -> Tensor:
    """``u(x + d(x))`` by cubic B-splines, of fourth order; beyond a wall the field is its mirror image.

    The sum over 4 x 4 splines is one of four linear interpolations of their coefficients (Sigg & Hadwiger, GPU Gems 2,
    chapter 20).

    Shapes:
        u: (B, C, X, Y); displacement: (B, 2, X, Y) in box lengths.
    """
    across, along = (spline_coefficients(m, u.device) for m in u.shape[2:])
    coefficients = across @ u @ along.T
    places, shares = [], []
    for axis, m in enumerate(u.shape[2:]):
        start = torch.arange(m, device=u.device, dtype=u.dtype).reshape([-1, 1] if axis == 0 else [1, -1])
        place = displacement[:, axis] * m + start
        cell = place.floor()
        f = place - cell
        g = 1 - f
        ends, second, third = (g**3 / 6, f**3 / 6), (4 - 6 * f**2 + 3 * f**3) / 6, (4 - 6 * g**2 + 3 * g**3) / 6
        left, right = ends[0] + second, ends[1] + third
        # In units of half the box about its centre, as `grid_sample` counts.
        places.append([((at + 0.5) * 2 / m - 1) for at in (cell - 1 + second / left, cell + 1 + ends[1] / right)])
        shares.append([left, right])
    total = torch.zeros_like(u)
    for x, share in zip(places[0], shares[0], strict=True):
        for y, other in zip(places[1], shares[1], strict=True):
            taken = F.grid_sample(coefficients, torch.stack([y, x], -1), padding_mode="reflection", align_corners=False)
            total += (share * other)[:, None] * taken
    return total


def without_gradient(v: Tensor, sines: list[Tensor], cosines: list[Tensor]) -> Tensor:
    """The part of a velocity (B, 2, X, Y) that is free of divergence, without a flow through the walls.

    Its components are sin(k pi x) cos(m pi y) and cos(k pi x) sin(m pi y): see `model.constraints.gradient_part`.
    """
    n = v.shape[2:]
    k, m = (torch.arange(count, device=v.device, dtype=v.dtype) for count in n)
    # The last sine has no gradient: it is none of the waves of a potential.
    a = F.pad((sines[0][:-1] @ v[:, 0]) @ cosines[1].T, (0, 0, 1, 0))
    b = F.pad((cosines[0] @ v[:, 1]) @ sines[1][:-1].T, (1, 0))
    potential = (k[:, None] * a + m * b) / (k[:, None].square() + m.square()).clamp_min(1)
    gradient = [
        sines[0][:-1].T @ (k[:, None] * potential)[:, 1:] @ cosines[1],
        cosines[0].T @ (m * potential)[:, :, 1:] @ sines[1][:-1],
    ]
    return v - torch.stack(gradient, dim=1)


def _diffused(u: Tensor, waves: list[Tensor], fading: Tensor) -> Tensor:
    """(B, C, X, Y) whose amplitudes in the waves fade by these factors."""
    across, along = waves
    return across.T @ (fading * (across @ u @ along.T)) @ along


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def sine_waves(n: int, device: torch.device) -> Tensor:
    """(n, n) rows sin(k pi x), k = 1 ... n, at the centres of n cells, orthonormal."""
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    rows = torch.sin(math.pi * torch.outer(torch.arange(1, n + 1, dtype=torch.float64), x)) * math.sqrt(2 / n)
    rows[-1] /= math.sqrt(2)
    return rows.to(device, torch.float32)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def cosine_waves(n: int, device: torch.device) -> Tensor:
    """(n, n) rows cos(k pi x), k = 0 ... n - 1, likewise."""
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    rows = torch.cos(math.pi * torch.outer(torch.arange(n, dtype=torch.float64), x)) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows.to(device, torch.float32)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def spline_coefficients(n: int, device: torch.device) -> Tensor:
    """(n, n): values in cells -> coefficients of the cubic B-splines through them, mirrored at the walls."""
    matrix = torch.eye(n, dtype=torch.float64) * 4
    matrix[0, 0] = matrix[-1, -1] = 5
    index = torch.arange(n - 1)
    matrix[index, index + 1] = matrix[index + 1, index] = 1
    inverse: Tensor = torch.linalg.inv(matrix / 6)
    return inverse.to(device, torch.float32)
