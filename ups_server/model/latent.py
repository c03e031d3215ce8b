"""The latent operator: a state on a lattice of patches, advanced by a lead time.

    u(t + tau) = carried(u(t), d) + s,    d, s = head(u, values(blocks(fitted(u)))),

with a condition vector that knows equation, coefficients, boundary and lead time tau. What costs is done on the
lattice, which is coarse and belongs to the box; at the points themselves only a small convolution, and the transport
along the displacements d, which keeps fronts as sharp as they came.

Each axis of the box is cut into equal patches. Within a patch, at xi in [-1, 1], a field is described by its fit with
the first K Legendre polynomials, phi_j(xi) = sqrt(2 j + 1) P_j(xi), in the least-squares sense; a patch of p < K points
has p polynomials. Points are where the grid's offset says: cell centres and strided points of one smooth field have the
same coefficients. The weights behind never see the number of points: any resolution that is a multiple of the patches
works, with the same lattice and the same cost there.

A block is ``h + W2 gelu(W1 (spectral(h) + depthwise(h)))`` under scale and shift by the condition (FiLM, Perez et al.
2018). Its spectral part multiplies the lowest wave vectors by matrices over channels (FNO, Li et al. 2021) and, before,
each wave vector of a group of channels by a complex gain that follows from the condition: waves turn by an angle
that depends on the lead time, which no fixed matrix can do.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ups_server.errors import UserError
from ups_server.model.lead_config import LatentConfig
from ups_server.model.transport import carried

PERIOD = 1.25
"""Lengths of the box after which the waves of an axis with walls repeat: its ends are no neighbours."""


class LatentOperator(nn.Module):
    """See above; inputs and outputs are scaled fields (`model.scales`) with the points along the inner axes.

    Shapes:
        u, known: (B, X..., F), the latter advanced as far as is known (`model.gas_steps`).
        static: (B, X..., S), zeros where a family has none; condition: (B, size).
        place: (X..., d) coordinates along axes with walls, zero along periodic ones.
    """

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        terms, c = config.degree**config.ndim, config.channels
        given = 2 * config.fields + config.static + config.ndim
        self.stem = nn.Linear(given * terms, c)
        self.stem_film = nn.Linear(config.condition, 2 * c)
        self.blocks = nn.ModuleList(LatentBlock(config) for _ in range(config.blocks))
        # Of the polynomials of a patch: features for the head, and increments directly.
        self.unfold = nn.Linear(c, (config.local + config.fields) * terms)
        conv = nn.Conv1d if config.ndim == 1 else nn.Conv2d
        self.first = conv(config.local + given, 2 * config.local, config.width)
        self.head_film = nn.Linear(config.condition, 2 * config.local)
        shifts = config.ndim if config.transport else 0
        self.last = conv(config.local, config.fields + shifts, config.width)
        self.velocity = nn.Linear(config.condition, config.ndim * config.fields + config.ndim) if shifts else None
        # Start near no change, whatever the condition.
        starts = [(self.unfold, 0.05), (self.last, 0.05), (self.stem_film, 0.0), (self.head_film, 0.0)]
        if self.velocity is not None:
            starts.append((self.velocity, 0.0))
        with torch.no_grad():
            for layer, share in starts:
                layer.weight.mul_(share)
                if layer.bias is not None:
                    layer.bias.zero_()
            if self.velocity is not None:
                # What is carried comes from upstream: the first slots are the velocity.
                slopes = self.velocity.bias[: config.ndim * config.fields].view(config.ndim, config.fields)
                slopes.diagonal().fill_(-1)

    def forward(
        self,
        u: Tensor,
        known: Tensor,
        static: Tensor,
        place: Tensor,
        condition: Tensor,
        lead: Tensor,
        time: Tensor,
        periodic: tuple[bool, ...],
        offset: tuple[float, ...],
        carry: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """(transported state, increment), each (B, X..., F); lead (B,): the share of a full increment; time (B,): the
        lead time in characteristic units, see `scales`.

        carry: (B,) one for the rows that are transported; None where none is.
        """
        config = self.config
        ndim, points = config.ndim, tuple(u.shape[1:-1])
        spread = (slice(None), *(None,) * ndim)
        inputs = torch.cat([u, known, static, place.expand(len(u), *place.shape)], dim=-1)
        h = self.stem(fitted(inputs, config.patches, config.degree, offset))
        scale, shift = self.stem_film(condition)[spread].chunk(2, dim=-1)
        h = torch.addcmul(shift, h, 1 + scale)
        for block in self.blocks:
            h = block(h, condition, periodic)
        fine = values(self.unfold(h), points, config.degree, offset)
        features, direct = fine.split([config.local, config.fields], dim=-1)
        local = convolved(self.first, torch.cat([features, inputs], dim=-1), periodic)
        scale, shift = self.head_film(condition)[spread].chunk(2, dim=-1)
        left, right = local.chunk(2, dim=-1)
        local = convolved(self.last, F.gelu(torch.addcmul(shift, left, 1 + scale)) * right, periodic)
        increment = (direct + local[..., : config.fields]) * lead[spread][..., None]
        if self.velocity is None or carry is None:
            return known, increment
        drift = self.velocity(condition)[spread]
        slope, constant = drift.split([config.ndim * config.fields, config.ndim], dim=-1)
        shifts = (slope.unflatten(-1, (config.ndim, config.fields)) * u[..., None, :]).sum(-1) + constant
        shifts = shifts + 0.1 * local[..., config.fields :]
        displacement = 0.5 * torch.tanh(2 * shifts * (time * carry)[spread][..., None]).movedim(-1, 1)
        with exact(u):
            moved = carried(known.movedim(-1, 1), whole(displacement), periodic).movedim(1, -1)
        return moved, increment


class LatentBlock(nn.Module):
    """One block, see above. The second pointwise layer starts small: the whole starts near the identity."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        c, wide = config.channels, config.channels * config.expansion
        self.ndim = config.ndim
        self.spectral = GainedSpectral(config)
        conv = nn.Conv1d if config.ndim == 1 else nn.Conv2d
        self.depthwise = conv(c, c, 3, groups=c)
        self.norm = nn.LayerNorm(c, elementwise_affine=False)
        self.inner = nn.Linear(c, 2 * wide)
        self.outer = nn.Linear(wide, c)
        self.film = nn.Linear(config.condition, 2 * c + wide)
        nn.init.normal_(self.outer.weight, std=0.3 / math.sqrt(wide))
        nn.init.zeros_(self.outer.bias)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, h: Tensor, condition: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        """Args: h (B, P..., C); condition (B, size)."""
        c = h.shape[-1]
        spread = (slice(None), *(None,) * self.ndim)
        scale, shift, gate = self.film(condition)[spread].split([c, c, self.outer.in_features], dim=-1)
        mixed = self.spectral(h, self.spectral.gains(condition), periodic)
        mixed = mixed + convolved(self.depthwise, h, periodic)
        mixed = torch.addcmul(shift, mixed, 1 + scale)
        left, right = self.inner(mixed).chunk(2, dim=-1)
        step: Tensor = self.outer(F.gelu(left) * right * (1 + gate))
        return h + step


class GainedSpectral(nn.Module):
    """``F^-1 [ R(k) g(k) F h ]``: matrices over channels R for every wave vector, after gains g of the condition."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        m, c = config.modes, config.channels
        self.count = m if config.ndim == 1 else m * (2 * m - 1)
        # (wave vector, input real and imaginary, output real and imaginary)
        self.weight = nn.Parameter(torch.randn(self.count, c, 2, c) * (0.5 / math.sqrt(c)))
        self.gain = nn.Linear(config.condition, self.count * config.groups * 2)
        nn.init.normal_(self.gain.weight, std=0.02 / math.sqrt(config.condition))
        nn.init.zeros_(self.gain.bias)

    def gains(self, condition: Tensor) -> Tensor:
        """(B, wave vectors, groups, 2): real part about one, and imaginary part."""
        gain: Tensor = self.gain(condition).unflatten(-1, (self.count, self.config.groups, 2))
        return gain + gain.new_tensor([1.0, 0.0])

    def forward(self, h: Tensor, gains: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        """Args: h (B, P..., C)."""
        transform = self._line if self.config.ndim == 1 else self._plane
        with exact(h):
            return transform(whole(h), whole(gains), periodic)

    def _mixed(self, real: Tensor, imaginary: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitudes (B, wave vectors, C), both parts -> the same after gains and matrices."""
        per_group = self.config.channels // self.config.groups
        g, i = (part.repeat_interleave(per_group, -1) for part in gains.unbind(-1))
        re, im = real * g - imaginary * i, real * i + imaginary * g
        batch = len(re)
        both = torch.cat([re, im]).transpose(0, 1)  # (wave vectors, 2 B, C)
        products = torch.bmm(both, self.weight.flatten(2)).unflatten(-1, (2, -1))
        (rr, ri), (ir, ii) = (part.unbind(-2) for part in products.split(batch, dim=1))
        return (rr - ii).transpose(0, 1), (ri + ir).transpose(0, 1)

    def _line(self, h: Tensor, gains: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        modes, points = self.config.modes, h.shape[1]
        rows = waves(points, modes, periodic[0], h.device, h.dtype)
        real, imaginary = (rows @ h).split(modes, dim=1)
        real, imaginary = self._mixed(real, imaginary, gains)
        return rows.T @ torch.cat([real, imaginary], dim=1) * (2 / points)

    def _plane(self, h: Tensor, gains: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        m = self.config.modes
        batch, x, y, c = h.shape
        rows_x = waves(x, m, periodic[0], h.device, h.dtype)
        rows_y = waves(y, m, periodic[1], h.device, h.dtype)
        # Along y: (B, x, 2 m, C), then along x: (B, 2 m, 2 m C).
        along = rows_y @ h
        parts = (rows_x @ along.flatten(2)).unflatten(1, (2, m)).unflatten(-1, (2, m, c))
        (cc, cs), (sc, ss) = (part.unbind(2) for part in parts.unbind(1))
        # Amplitudes at (k_x, k_y) and at (-k_x, k_y), the latter without k_x = 0.
        real = torch.cat([(cc - ss).flatten(1, 2), (cc + ss)[:, 1:].flatten(1, 2)], dim=1)
        imaginary = torch.cat([(sc + cs).flatten(1, 2), (cs - sc)[:, 1:].flatten(1, 2)], dim=1)
        real, imaginary = self._mixed(real, imaginary, gains)
        (r1, r2), (i1, i2) = (
            (
                part[:, : m * m].unflatten(1, (m, m)),
                F.pad(part[:, m * m :].unflatten(1, (m - 1, m)), (0, 0, 0, 0, 1, 0)),
            )
            for part in (real, imaginary)
        )
        # Back: Re[(r + i j) e^{j(ax + by)}], with rows cos and -sin.
        top = torch.stack([r1 + r2, i1 + i2], dim=2)  # with cos(ax): cos(by), -sin(by)
        bottom = torch.stack([i1 - i2, r2 - r1], dim=2)  # with -sin(ax)
        columns = torch.cat([top, bottom], dim=1).flatten(2)
        along = (rows_x.T @ columns).reshape(batch, x, 2 * m, c)
        return rows_y.T @ along * (2 / (x * y))


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def waves(points: int, modes: int, periodic: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Rows cos, -sin of the wave numbers 0 … modes - 1 at the lattice points: (2 modes, points)."""
    length = points if periodic else points * PERIOD
    angle = 2 * math.pi * torch.outer(torch.arange(modes), torch.arange(points)).double() / length
    return torch.cat([angle.cos(), -angle.sin()]).to(device, dtype)


def exact(like: Tensor) -> torch.autocast:
    """What must not be rounded to bfloat16 where the rest is: sums over many waves, and the transport of the state."""
    return torch.autocast(like.device.type, enabled=False)


def whole(x: Tensor) -> Tensor:
    """In single precision where it came in half of it."""
    return x.float() if x.dtype is torch.bfloat16 else x


def convolved(conv: nn.Conv1d | nn.Conv2d, h: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """A convolution of values (B, X..., C), continued around a periodic axis and by the last value elsewhere."""
    x = h.movedim(-1, 1)
    reach = conv.kernel_size[0] // 2
    for axis, wraps in enumerate(periodic):
        pad = [0, 0] * len(periodic)
        place = 2 * (len(periodic) - 1 - axis)
        pad[place] = pad[place + 1] = reach
        x = F.pad(x, pad, mode="circular" if wraps else "replicate")
    out: Tensor = conv(x).movedim(1, -1)
    return out


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
