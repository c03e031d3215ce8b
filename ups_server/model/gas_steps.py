"""A few steps of an exponential integrator for a gas in a periodic box: what the operator starts from.

In units of the speed of sound c, with R = log rho and P = log p about their levels, s = c t, and the friction of
`pde.gas`, a gas obeys ``u_s = L u + N(u)``, L being what small disturbances do:

    v_s = -grad P / gamma + D v + n_v,    R_s = -div v - v . grad R,    P_s = -gamma div v - v . grad P + heat.

In Fourier space L couples v and i P / gamma by a real matrix for each wave vector, whose exponential is found by
scaling and squaring (Moler & Van Loan, SIAM Rev. 45, 2003); R - P / gamma stays. A step of Lawson's method of second
order (Lawson, SIAM J. Numer. Anal. 4, 1967; Hochbruck & Ostermann, Acta Numerica 19, 2010) is, with E_h = e^{h L},

    u(s + h) = E_h u + h E_{h/2} N( E_{h/2} (u + h/2 N(u)) ).

A state takes steps of its own, halves of halves of the lead time: the shorter, the steeper its velocity, and the faster
its sound waves turn where the speed of sound differs from place to place (N of a wave turns with it, which a step
follows to second order). In a violent flow the shortest is too long; there N is bounded, so that nothing grows without
limit. What the steps leave is for the operator to learn (`model.latent`).
"""

import math
from copy import copy
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from ups_server.pde.gas import GAMMA

LONGEST, TURNED, SOUNDED = 0.1, 0.12, {1: 0.1, 2: 0.2}
"""Of a step: in units of a length over the speed of sound; times the root mean square of the gradient of v; and, by
dimension, times the wave number of P and the root of the contrast of p / rho."""
FINEST = {1: 8, 2: 7}
"""By dimension, halvings of the lead time to its shortest step."""
MOST = 0.5
"""What N may change in a step: Mach numbers, logarithms."""
MODES = {1: 84, 2: 21}
"""By dimension, wave numbers an axis that act on each other; at most a third of the points."""
STEEPEST = 1e6
"""Of fields and gradients, in magnitude."""
LEAST = 1e-12
LARGEST = 12.0
"""Of P - R, in magnitude."""
ORDER, REACH, MOST_HALVED = 6, 0.5, 2.0**16
"""Of the series of the exponential, the norm that it is trusted to, and how often that a norm may hold it."""


@torch.no_grad()
def gas_steps(own: Tensor, time: Tensor, shear: Tensor, bulk: Tensor, lengths: Tensor) -> Tensor:
    """Velocities, R and P, in this order (B, d + 2, X...), after `time`.

    Args: time, shear, bulk: (B,), kinematic viscosities, over the speed of sound. lengths: (B, d) of the box.
    """
    ndim, points = own.ndim - 2, tuple(own.shape[2:])
    axes = tuple(range(2, own.ndim))
    drift = own[:, :ndim].mean(axes, keepdim=True)
    spectra = torch.fft.rfftn(torch.cat([own[:, :ndim] - drift, own[:, ndim:]], dim=1), dim=axes, norm="forward")
    whole = GasWaves(wave_numbers(points, own.device), shear, bulk, lengths, drift)
    after = whole.over(time)(spectra)
    modes = tuple(min(MODES[ndim], (n - 1) // 3) for n in points)
    low = GasWaves(wave_numbers(points, own.device, modes), shear, bulk, lengths, drift)
    after = with_low(after, low_integrated(low, taken_low(spectra, modes), modes, time), modes)
    found = torch.fft.irfftn(after, s=points, dim=axes, norm="forward")
    return torch.cat([found[:, :ndim] + drift, found[:, ndim:]], dim=1)


def low_integrated(waves: "GasWaves", u: Tensor, modes: tuple[int, ...], time: Tensor) -> Tensor:
    """Spectra (B, d + 2, K...) of the lowest waves after `time`, with what they do to each other."""
    finest = FINEST[waves.ndim]
    steps = StepsOfL(waves, time / 2**finest, finest)
    ticks = torch.full_like(time, 2.0**finest)
    grid = Products(modes)
    while (rows := (ticks > 0).nonzero()[:, 0]).numel():
        part, v, tick = waves.rows(rows), u[rows], steps.tick[rows]
        slopes = grid.slopes(part, v)
        longest = grid.longest(slopes) / tick
        level = torch.minimum(longest.nan_to_num(1.0), ticks[rows]).clamp_min(1).log2().floor().long()
        size = (tick * 2.0**level).reshape(-1, *(1,) * (waves.ndim + 1))
        half, whole = steps.of(rows, level), steps.of(rows, level + 1)
        middle = half(v + size / 2 * grid.nonlinear(part, slopes, size))
        u[rows] = whole(v) + size * half(grid.nonlinear(part, grid.slopes(part, middle), size))
        ticks[rows] -= 2.0**level
    return u


class GasWaves:
    """L at wave vectors, moving with the mean velocity; other arguments as in `gas_steps`.

    Args:
        numbers: 2 pi n by axis, to be broadcast. drift: (B, d, 1...).
    """

    def __init__(
        self, numbers: tuple[Tensor, ...], shear: Tensor, bulk: Tensor, lengths: Tensor, drift: Tensor
    ) -> None:
        self.ndim = len(numbers)
        self.shear, self.along = self.spread(shear), self.spread(bulk + 4 / 3 * shear)
        self.waves = [k / self.spread(lengths[:, axis]) for axis, k in enumerate(numbers)]
        self.shift = sum((k * drift[:, axis] for axis, k in enumerate(self.waves[1:], 1)), self.waves[0] * drift[:, 0])
        self.matrix = self._coupling()

    def rows(self, index: Tensor) -> Self:
        """Some of the gases, without L."""
        part = copy(self)
        part.shear, part.along = self.shear[index], self.along[index]
        part.waves = [k[index] for k in self.waves]
        return part

    def _coupling(self) -> Tensor:
        """(B, K..., d + 1, d + 1) of the velocities and i P / gamma."""
        squares = [k.square() for k in self.waves]
        total, ndim = sum(squares[1:], squares[0]), self.ndim
        matrix = total.new_zeros(*total.shape, ndim + 1, ndim + 1)
        for axis, (k, square) in enumerate(zip(self.waves, squares, strict=True)):
            # Friction acts on each component by itself, more strongly along its own axis.
            matrix[..., axis, axis] = -(self.shear * (total - square) + self.along * square)
            matrix[..., axis, ndim], matrix[..., ndim, axis] = -k, k
        return matrix

    def turning(self, time: Tensor) -> Tensor:
        """(B, K...) factors of the mean velocity over (B,) times."""
        angle = -self.shift * self.spread(time)
        return torch.polar(torch.ones_like(angle), angle)

    def over(self, time: Tensor) -> "GasStep":
        """L over (B,) times."""
        return GasStep(exponential(self.matrix * self.spread(time)[..., None, None]), self.turning(time)[:, None])

    def spread(self, rows: Tensor) -> Tensor:
        """(B,) to be broadcast over wave vectors or points."""
        return rows.reshape(-1, *(1,) * self.ndim)


class Products:
    """Products of fields of so many waves an axis, at points where they do not alias."""

    def __init__(self, modes: tuple[int, ...]) -> None:
        self.modes, self.ndim = modes, len(modes)
        self.points = tuple(3 * m + 1 + (3 * m + 1) % 2 for m in modes)
        self.axes = tuple(range(2, 2 + self.ndim))
        self.padded = (*self.points[:-1], self.points[-1] // 2 + 1)

    def slopes(self, waves: GasWaves, spectra: Tensor) -> Tensor:
        """Fields and their gradients at the points, (B, (d + 1) (d + 2), X...)."""
        both = torch.cat([spectra, *(1j * k[:, None] * spectra for k in waves.waves)], dim=1)
        wide = with_low(both.new_zeros(*both.shape[:2], *self.padded), both, self.modes)
        values: Tensor = torch.fft.irfftn(wide, s=self.points, dim=self.axes, norm="forward")
        return values.clamp(-STEEPEST, STEEPEST)

    def longest(self, slopes: Tensor) -> Tensor:
        """(B,) of a step."""
        fields, *gradients = slopes.split(self.ndim + 2, dim=1)
        density, pressure = fields[:, -2:-1], fields[:, -1:]
        steepness = rms(torch.cat([gradient[:, : self.ndim] for gradient in gradients], dim=1))
        waves = rms(torch.cat([gradient[:, -1:] for gradient in gradients], dim=1))
        number = waves / rms(pressure - pressure.mean(self.axes, keepdim=True)).clamp_min(LEAST)
        contrast = rms(lightness(density, pressure) - 1).sqrt()
        rate = torch.maximum(steepness / TURNED, number * contrast / SOUNDED[self.ndim])
        return 1 / rate.clamp_min(1 / LONGEST)

    def nonlinear(self, waves: GasWaves, slopes: Tensor, size: Tensor) -> Tensor:
        """N of fields and gradients, bounded for a step of this size; its spectra."""
        ndim = self.ndim
        fields, *gradients = slopes.split(ndim + 2, dim=1)
        made = -fields[:, :1] * gradients[0]
        for axis, gradient in enumerate(gradients[1:], 1):
            made -= fields[:, axis, None] * gradient
        density, pressure = fields[:, ndim], fields[:, ndim + 1]
        light = lightness(density, pressure)
        heat = torch.zeros_like(density)
        for i, gradient in enumerate(gradients):
            made[:, i] -= (light - 1) * gradient[:, -1] / GAMMA
            for j, other in enumerate(gradients):
                friction = waves.along if i == j else waves.shear
                made[:, i] += friction * other[:, ndim] * other[:, i]
                heat += friction * other[:, i].square()
        made[:, -1] += (GAMMA - 1) * GAMMA * heat / light
        bounded = MOST / size * torch.tanh(made * size / MOST)
        return taken_low(torch.fft.rfftn(bounded, dim=self.axes, norm="forward"), self.modes)


def lightness(density: Tensor, pressure: Tensor) -> Tensor:
    """p / rho, over its level."""
    return (pressure - density).clamp(-LARGEST, LARGEST).exp()


def rms(values: Tensor) -> Tensor:
    """(B,) root mean square over the points of vectors (B, C, X...)."""
    return values.square().sum(1).flatten(1).mean(1).sqrt()


def taken_low(spectra: Tensor, modes: tuple[int, ...]) -> Tensor:
    """The waves up to so many an axis, of a real transform (B, C, K...)."""
    if len(modes) == 2:
        m = modes[0]
        spectra = torch.cat([spectra[:, :, : m + 1], spectra[:, :, -m:]], dim=2)
    return spectra[..., : modes[-1] + 1]


def with_low(spectra: Tensor, low: Tensor, modes: tuple[int, ...]) -> Tensor:
    """`spectra`, in place, with the lowest waves of another transform."""
    if len(modes) == 1:
        spectra[..., : modes[0] + 1] = low
        return spectra
    m, last = modes
    spectra[:, :, : m + 1, : last + 1], spectra[:, :, -m:, : last + 1] = low[:, :, : m + 1], low[:, :, m + 1 :]
    return spectra


class StepsOfL:
    """exp of L over half a tick, a tick, two ticks, ... of (B,) times; each row takes its own.

    Attributes:
        tick: (B,)
    """

    def __init__(self, waves: GasWaves, tick: Tensor, finest: int) -> None:
        self.tick = tick
        matrices = [exponential(waves.matrix * waves.spread(tick / 2)[..., None, None])]
        turns = [waves.turning(tick / 2)]
        for _ in range(finest + 1):
            matrices.append(matrices[-1] @ matrices[-1])
            turns.append(turns[-1].square())
        self.matrices, self.turns = torch.stack(matrices, dim=1), torch.stack(turns, dim=1)

    def of(self, rows: Tensor, level: Tensor) -> "GasStep":
        """Of these rows, over 2^level halves of a tick, level (R,)."""
        return GasStep(self.matrices[rows, level], self.turns[rows, level][:, None])


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
def wave_numbers(
    points: tuple[int, ...], device: torch.device, modes: tuple[int, ...] | None = None
) -> tuple[Tensor, ...]:
    """2 pi n of a real transform by axis, in a box of length one, to be broadcast: each (1, K...).

    Args: modes: of the lowest so many alone, see `taken_low`.
    """
    ndim, found = len(points), []
    for axis, n in enumerate(points):
        last = axis == ndim - 1
        k = (torch.fft.rfftfreq if last else torch.fft.fftfreq)(n, 1 / n, device=device) * 2 * math.pi
        if modes is not None:
            m = modes[axis]
            k = k[: m + 1] if last else torch.cat([k[: m + 1], k[-m:]])
        found.append(k.reshape(1, *(-1 if a == axis else 1 for a in range(ndim))))
    return tuple(found)
