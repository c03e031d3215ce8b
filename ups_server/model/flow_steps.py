"""A few large steps of an incompressible flow between walls that carries particles: what the operator starts from.

In units of the characteristic speed, times in units of a box over it,

    v_s = -v . grad v - grad p + nu lap v + c f,  div v = 0,  c_s = -v . grad c,  v = 0 at the walls.

A step advects the velocity by itself and the particles (semi-Lagrangian, cubic), adds the force, lets the velocity
diffuse (exactly, in sine waves) and takes the gradient of the pressure away (Stam, Stable Fluids, 1999). It is stable
for any size; what such large steps leave is for the operator to learn (`model.latent`).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ups_server.model.constraints import gradient_part
from ups_server.model.transport import carried

STEP, STEPS = 0.03, 6
"""Of a lead time, in characteristic units; and how many there are at most."""
FARTHEST = 0.5
"""Way of a step, in boxes."""
WALLS = (False, False)


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
        half = carried(velocity, (-size / 2 * velocity).clamp(-FARTHEST, FARTHEST), WALLS)
        moved = carried(u, (-size * half).clamp(-FARTHEST, FARTHEST), WALLS)
        velocity = moved[:, :2] + size * (u[:, 2:] + moved[:, 2:]) / 2 * force
        velocity = _diffused(velocity, sines, decay)
        # The family's scheme advects linearly between cells, which blurs like a viscosity of |v| dx / 2.
        blur = [half[:, axis].abs().mean((1, 2)).reshape(-1, 1, 1, 1) / (2 * m) for axis, m in enumerate(n)]
        fading = (-size * (blur[0] * squares[0] + blur[1] * squares[1])).exp()
        particles = _diffused(moved[:, 2:], cosines, fading[..., :-1, :-1])
        velocity = velocity - gradient_part(velocity, WALLS)
        u = torch.where((count > done).reshape(-1, 1, 1, 1), torch.cat([velocity, particles], 1), u)
    return u


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
