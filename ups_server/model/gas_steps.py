"""A few large steps of an exponential integrator for a gas in a periodic box: what the operator starts from.

In units of the speed of sound c, with R = log rho and P = log p about their levels, s = c t, and the friction of
`pde.gas`, a gas obeys ``u_s = L u + N(u)``, L being what small disturbances do:

    v_s = -grad P / gamma + D v + n_v,    R_s = -div v - v . grad R,    P_s = -gamma div v - v . grad P + heat.

In Fourier space L couples v and i P / gamma by a real matrix for each wave vector, whose exponential is found by
scaling and squaring (Moler & Van Loan, SIAM Rev. 45, 2003); R - P / gamma stays. A step of Lawson's method of second
order (Lawson, SIAM J. Numer. Anal. 4, 1967; Hochbruck & Ostermann, Acta Numerica 19, 2010) is, with E_h = e^{h L},

    u(s + h) = E_h u + h E_{h/2} N( E_{h/2} (u + h/2 N(u)) ).

The steps are far too large for a solver in a violent flow; there N is bounded, so that nothing grows without limit.
What they leave is for the operator to learn (`model.latent`).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ups_server.pde.gas import GAMMA

STEP, STEPS = 0.04, 6
"""Of a lead time, in units of a length over the speed of sound; and how many there are at most."""
MOST = 0.5
"""What N may change in a step: Mach numbers, logarithms."""
UNALIASED = 2 / 3
"""Of all wave numbers, those that N is computed with."""
STEEPEST = 1e6
"""Of fields and gradients, in magnitude."""
LARGEST = 12.0
"""Of P - R, in magnitude."""
ORDER, REACH, MOST_HALVED = 6, 0.5, 2.0**16
"""Of the series of the exponential, the norm that it is trusted to, and how often that a norm may hold it."""


@torch.no_grad()
def gas_steps(own: Tensor, time: Tensor, shear: Tensor, bulk: Tensor, lengths: Tensor) -> Tensor:
    """Velocities, R and P, in this order (B, d + 2, X...), after `time`.

    Args: time, shear, bulk: (B,), kinematic viscosities, over the speed of sound. lengths: (B, d) of the box.
    """
    waves = GasWaves(own, shear, bulk, lengths)
    count = (time / STEP).ceil().clamp(1, STEPS)
    step = time / count
    half = waves.over(step / 2)
    whole = half.twice()
    u = waves.spectra
    for done in range(int(count.max())):
        size = waves.spread(step)[:, None]
        middle = half(u + size / 2 * waves.nonlinear(u, size))
        after = whole(u) + size * half(waves.nonlinear(middle, size))
        u = torch.where(waves.spread(count > done)[:, None], after, u)
    return waves.fields(u)


class GasWaves:
    """The terms of the equation in Fourier space, moving with the mean velocity; arguments as in `gas_steps`."""

    def __init__(self, own: Tensor, shear: Tensor, bulk: Tensor, lengths: Tensor) -> None:
        self.ndim, self.points = own.ndim - 2, tuple(own.shape[2:])
        self.axes = tuple(range(2, own.ndim))
        self.drift = own[:, : self.ndim].mean(self.axes, keepdim=True)
        self.spectra = torch.fft.rfftn(
            torch.cat([own[:, : self.ndim] - self.drift, own[:, self.ndim :]], 1), dim=self.axes
        )
        numbers = wave_numbers(self.points, own.device)
        self.waves = [k / self.spread(lengths[:, axis]) for axis, k in enumerate(numbers)]
        self.kept = math.prod([k.abs() <= UNALIASED * math.pi * n for k, n in zip(numbers, self.points, strict=True)])
        self.shear, self.along = self.spread(shear)[:, None], self.spread(bulk + 4 / 3 * shear)[:, None]
        self.matrix = self._coupling()

    def _coupling(self) -> Tensor:
        """(B, K..., d + 1, d + 1) of the velocities and i P / gamma."""
        squares = [k.square() for k in self.waves]
        total, ndim = sum(squares[1:], squares[0]), self.ndim
        matrix = total.new_zeros(*total.shape, ndim + 1, ndim + 1)
        for axis, (k, square) in enumerate(zip(self.waves, squares, strict=True)):
            # Friction acts on each component by itself, more strongly along its own axis.
            matrix[..., axis, axis] = -(self.shear[:, 0] * (total - square) + self.along[:, 0] * square)
            matrix[..., axis, ndim], matrix[..., ndim, axis] = -k, k
        return matrix

    def over(self, time: Tensor) -> "GasStep":
        """L over (B,) times."""
        shift = sum((k * self.drift[:, axis] for axis, k in enumerate(self.waves)), self.matrix[..., 0, 0] * 0)
        angle = -shift * self.spread(time)
        return GasStep(exponential(self.matrix * self.spread(time)[..., None, None]),
                       torch.polar(torch.ones_like(angle), angle)[:, None])  # fmt: skip

    def nonlinear(self, spectra: Tensor, size: Tensor) -> Tensor:
        """N of spectra, bounded for a step of this size."""
        ndim, spectra = self.ndim, spectra * self.kept
        slopes = [1j * k[:, None] * spectra for k in self.waves]
        values = torch.fft.irfftn(torch.cat([spectra, *slopes], dim=1), s=self.points, dim=self.axes)
        fields, *gradients = values.clamp(-STEEPEST, STEEPEST).split(ndim + 2, dim=1)
        made = -sum(
            (fields[:, axis, None] * g for axis, g in enumerate(gradients[1:], 1)), fields[:, :1] * gradients[0]
        )
        density, pressure = fields[:, ndim], fields[:, ndim + 1]
        lightness = (pressure - density).clamp(-LARGEST, LARGEST).exp()
        heat = torch.zeros_like(density)
        for i, gradient in enumerate(gradients):
            made[:, i] -= (lightness - 1) * gradient[:, -1] / GAMMA
            for j, other in enumerate(gradients):
                friction = (self.along if i == j else self.shear)[:, 0]
                made[:, i] += friction * other[:, ndim] * other[:, i]
                heat += friction * other[:, i].square()
        made[:, -1] += (GAMMA - 1) * GAMMA * heat / lightness
        bounded: Tensor = torch.fft.rfftn(MOST / size * torch.tanh(made * size / MOST), dim=self.axes) * self.kept
        return bounded

    def fields(self, spectra: Tensor) -> Tensor:
        found = torch.fft.irfftn(spectra, s=self.points, dim=self.axes)
        return torch.cat([found[:, : self.ndim] + self.drift, found[:, self.ndim :]], dim=1)

    def spread(self, rows: Tensor) -> Tensor:
        """(B,) to be broadcast over points or wave vectors."""
        return rows.reshape(-1, *(1,) * self.ndim)


class GasStep:
    """Spectra (B, d + 2, K...) -> those that L makes of them in a time."""

    def __init__(self, matrix: Tensor, turn: Tensor) -> None:
        self.matrix, self.turn = matrix, turn

    def __call__(self, spectra: Tensor) -> Tensor:
        velocity, density, pressure = spectra[:, :-2], spectra[:, -2], spectra[:, -1]
        coupled = [*velocity.unbind(1), 1j / GAMMA * pressure]
        moved = []
        for i, own in enumerate(coupled):
            others = (self.matrix[..., i, j] * part for j, part in enumerate(coupled) if j != i)
            moved.append(sum(others, self.matrix[..., i, i] * own))
        after = -1j * GAMMA * moved.pop()
        return torch.stack([*moved, density + (after - pressure) / GAMMA, after], dim=1) * self.turn

    def twice(self) -> "GasStep":
        """In twice the time."""
        return GasStep(self.matrix @ self.matrix, self.turn.square())


def exponential(matrix: Tensor) -> Tensor:
    """exp of (B, ..., n, n); each of the B by itself."""
    norm = matrix.abs().sum(-1).flatten(1).amax(1).nan_to_num(0.0, posinf=0.0)
    halvings = (norm / REACH).clamp(1, MOST_HALVED).log2().ceil()
    spread = (-1, *(1,) * (matrix.ndim - 1))
    small = matrix / (2**halvings).reshape(spread)
    found = one = torch.eye(matrix.shape[-1], device=matrix.device, dtype=matrix.dtype)
    for order in range(ORDER, 0, -1):
        found = one + small @ found / order
    for done in range(int(halvings.max())):
        found = torch.where((halvings > done).reshape(spread), found @ found, found)
    return found


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def wave_numbers(points: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
    """2 pi n of a real transform by axis, in a box of length one, to be broadcast: each (1, K...)."""
    ndim, found = len(points), []
    for axis, n in enumerate(points):
        transform = torch.fft.rfftfreq if axis == ndim - 1 else torch.fft.fftfreq
        k = transform(n, 1 / n, device=device) * 2 * math.pi
        found.append(k.reshape(1, *(-1 if a == axis else 1 for a in range(ndim))))
    return tuple(found)
