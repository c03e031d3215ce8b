"""Transport: exactly, where velocities are constant over the box, and else along characteristics.

With constant coefficients the solution operator of transport and diffusion is a factor of every wave number. A flow
that varies carries a field to a point from where it came: ``u_t + w . grad u = s`` is ``u(t + dt, x) = u(t, x + d(x)) +
...`` with the displacement d back along the characteristic. A carried field keeps its fine structure whatever the
distance, which a sum of few Fourier modes cannot do. This is the semi-Lagrangian method (Staniforth & Cote, Mon.
Weather Rev. 119, 1991).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ups_server.model.conditioning import MAX_VALUE, SYMBOL, Description, zero
from ups_server.model.config import SuperspaceConfig
from ups_server.model.context import BatchRows

RATE_SCALE = 0.01
"""Boxes per step: the unit of learned rates. Small, because a shift by whole boxes is invisible to the loss and a large
step of the optimiser would end there."""
MAX_SHIFT = 0.5
"""Boxes per step; beyond half a box a shift cannot be told from its complement."""
TAPS = (-1, 0, 1, 2)


@dataclass(frozen=True)
class Rates(BatchRows):
    """Coefficients of transport and diffusion per step, on the unit box.

    Attributes:
        velocity: (B, N, d). diffusivity: (B, N, d) >= 0.
        drift: (B, N, d, N) velocity per unit of the mean of each slot (Galilean shift).
    """

    velocity: Tensor
    diffusivity: Tensor
    drift: Tensor

    def half_a_step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and diffusivity (B, N, d) of half a step from the states u (B, N, X...)."""
        means = u.mean(tuple(range(2, u.ndim)))
        velocity = self.velocity + torch.einsum("bndm,bm->bnd", self.drift, means)
        return velocity.clamp(-MAX_SHIFT, MAX_SHIFT) / 2, self.diffusivity / 2


class Propagator(nn.Module):
    """Problems -> the rates of their linear part, which `propagate` integrates.

    Velocity and diffusivity are linear in the coefficients (a transport speed is), with a factor learned per
    coefficient and family, plus a part from the conditioning vector; the velocity also follows the mean of the state.
    """

    def __init__(self, space: SuperspaceConfig, size: int) -> None:
        super().__init__()
        self.slots, self.ndim = space.slots, space.max_dimensions
        rates = self.slots * self.ndim * 2
        self.of_value = zero(nn.Linear(SYMBOL + size, rates))
        self.of_problem = zero(nn.Linear(size, rates))
        self.of_means = zero(nn.Linear(size, self.slots * self.ndim * self.slots))

    def forward(self, problem: Description) -> Rates:
        shape = (-1, self.slots, self.ndim)
        total = self.of_problem(problem.vector)
        if problem.symbols is not None and problem.values is not None:
            family = problem.family[:, None].expand(-1, problem.symbols.shape[1], -1)
            factors = self.of_value(torch.cat([problem.symbols, family], dim=-1))
            total = total + (problem.values.clamp(-MAX_VALUE, MAX_VALUE)[..., None] * factors).sum(1)
        velocity, diffusivity = (RATE_SCALE * total).chunk(2, dim=-1)
        drift = RATE_SCALE * self.of_means(problem.vector).reshape(*shape, self.slots)
        return Rates(velocity.reshape(shape), diffusivity.reshape(shape).abs(), drift)


class Transport(nn.Module):
    """Carries a step along a flow that the states before and after it tell, corrected by the features.

    The advection velocity is linear in the slots, by factors that belong to the problem.
    """

    def __init__(self, space: SuperspaceConfig, size: int, channels: int) -> None:
        super().__init__()
        self.slots, self.ndim = space.slots, space.max_dimensions
        self.of_problem = zero(nn.Linear(size, 2 * self.ndim * self.slots))
        self.of_features = zero(nn.Linear(channels, self.ndim))

    def advection(self, vector: Tensor) -> Tensor:
        """Box lengths a step that a unit of each slot carries the state (B, 2, d, N): before the step, and after."""
        factors: Tensor = RATE_SCALE * self.of_problem(vector)
        return factors.reshape(-1, 2, self.ndim, self.slots)

    def forward(
        self, before: Tensor, after: Tensor, features: Tensor, advection: Tensor, periodic: tuple[bool, ...]
    ) -> Tensor:
        """Args: states (B, N, X...) before and after the step, features (B, X..., C). Returns the latter carried."""
        axes = before.ndim - 2
        linear = torch.einsum("btan,btn...->ba...", advection[:, :, :axes], torch.stack([before, after], dim=1))
        learned = RATE_SCALE * self.of_features(features).movedim(-1, 1)
        displacement = (linear + learned[:, :axes]).clamp(-MAX_SHIFT, MAX_SHIFT)
        return carried(after, departure(displacement, periodic), periodic)


def propagate(u: Tensor, velocity: Tensor, diffusivity: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """Exact solution operator of ``u_t = -v . grad u + D : grad grad u`` for a unit of time, on the unit box.

    Multiplies the Fourier coefficient of wave number k along axis a by ``exp(-i k v_a - k^2 D_a)``. Axes that are not
    periodic are left alone.

    Shapes:
        u: (B, N, X...); velocity, diffusivity: (B, N, d) in box lengths (squared) per unit of time, D >= 0.
    """
    for axis, wraps in enumerate(periodic):
        if not wraps:
            continue
        moved = u.movedim(2 + axis, -1)
        points = moved.shape[-1]
        k = 2 * math.pi * torch.arange(points // 2 + 1, device=u.device, dtype=u.dtype)
        shape = (*u.shape[:2], *(1,) * (moved.ndim - 3), 1)
        v, d = velocity[..., axis].reshape(shape), diffusivity[..., axis].reshape(shape)
        gain = torch.polar(torch.exp(-k.square() * d), -k * v)
        u = torch.fft.irfft(torch.fft.rfft(moved) * gain, n=points).movedim(-1, 2 + axis)
    return u


def departure(displacement: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """Displacements back along the characteristics by the midpoint rule, ``d(x) = d_0(x + d_0(x) / 2)``.

    Shapes: displacement d_0 (B, d, X...) in box lengths, minus the local velocity times dt; result alike.
    """
    return carried(displacement, displacement / 2, periodic)


def carried(u: Tensor, displacement: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """``u(x + d(x))`` by cubic Lagrange interpolation along each axis, exact for polynomials of degree three.

    Beyond the end of an axis that is not periodic the field goes on as its last value.

    Shapes:
        u: (B, N, X...); displacement: (B, d, X...) in box lengths, the same for all N fields.
    """
    points = tuple(u.shape[2:])
    batch = len(u)
    rows = torch.arange(batch, device=u.device).reshape(-1, *(1,) * (len(points) + 1))
    weights = u.new_ones(batch, *points, 1)
    for axis, (n, wraps) in enumerate(zip(points, periodic, strict=True)):
        start = torch.arange(n, device=u.device, dtype=u.dtype)
        place = displacement[:, axis] * n + start.reshape([-1 if a == axis else 1 for a in range(len(points))])
        if not wraps:
            place = place.clamp(0, n - 1)
        cell = place.detach().floor()
        taps = torch.stack([cell.long() + tap for tap in TAPS], dim=-1)
        taps = taps.remainder(n) if wraps else taps.clamp(0, n - 1)
        # Row numbers of the taps of all axes so far times those of this one.
        rows = (rows[..., None] * n + taps[..., None, :]).flatten(-2)
        weights = (weights[..., None] * _lagrange(place - cell)[..., None, :]).flatten(-2)
    table = u.movedim(1, -1).reshape(-1, u.shape[1])
    values = table.index_select(0, rows.flatten()).reshape(-1, rows.shape[-1], u.shape[1])
    mixed = torch.bmm(weights.reshape(-1, 1, rows.shape[-1]), values)
    return mixed.reshape(batch, *points, u.shape[1]).movedim(-1, 1)


def _lagrange(s: Tensor) -> Tensor:
    """Weights (..., 4) of the points -1, 0, 1, 2 at 0 <= s < 1."""
    before, after, far = s + 1, 1 - s, 2 - s
    weights = (-s * after * far / 6, before * after * far / 2, before * s * far / 2, -before * s * after / 6)
    return torch.stack(weights, dim=-1)
