"""A few large steps of an incompressible flow between walls that carries particles: what the operator starts from.

In units of the characteristic speed, times in units of a box over it,

    v_s = -v . grad v - grad p + nu lap v + c f,  div v = 0,  c_s = -v . grad c.

The equation is the one that the family's scheme solves (`pde.incompressible`): velocity lives on the faces of the cells
and what is given are means of two faces; walls hold the component through them at zero and the one along them half a
cell beyond; and its linear interpolation blurs like a viscosity |v_x| dx / 2 along x, likewise along y. In sine and
cosine waves all of that is exact but the transport.

A step is symmetric in time: half of friction, force and the pressure of the step before; transport from the place
upstream, by cubic splines, with the velocity of half a step later, and its blur; the other half; and the projection,
which gives the next pressure. A state that is not free of divergence is made so first, as the scheme's first step does.
It is stable for any size. (Of second order away from walls; where a force pulls along them, of first.) What such large
steps leave is for the operator to learn (`model.latent`).

Sources: Stam, Stable Fluids (1999); Kim & Moin, J. Comput. Phys. 59 (1985) 308, for the pressure of the step before;
Staniforth & Cote, Mon. Weather Rev. 119 (1991) 2206, for transport with a velocity extrapolated in time.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

STEP, STEPS = 0.06, 16
"""Of a lead time, in characteristic units; and how many there are at most."""
BLURS = 3
"""Parts that the blur of a step is done in."""
MOST_BLURRED = 0.25
"""Of the blur of a part, in squares of cells: more would not be stable."""
EDGE, FAR = 4, 16
"""Cells that fields are continued by beyond a wall: their splines, and the values these are made of."""
THROUGH, ALONG, LEVEL = range(3)
"""How a field goes on beyond a wall: odd about it, odd about half a cell beyond it, even."""
KINDS = ((THROUGH, ALONG, LEVEL), (ALONG, THROUGH, LEVEL))
"""By axis, of the two velocities and the particles."""


@torch.no_grad()
def flow_steps(own: Tensor, force: Tensor, time: Tensor, viscosity: Tensor) -> Tensor:
    """Velocities and particles (B, 3, X, Y) after `time` (B,), under a force (B, 2, X, Y); viscosity (B,)."""
    count = (time / STEP).ceil().clamp(1, STEPS)
    flow = FlowStep(tuple(own.shape[2:]), force, time / count, viscosity)
    u = torch.cat([flow.projected(own[:, :2]), own[:, 2:]], dim=1)
    pressure = before = torch.zeros_like(u[:, :2])
    for done in range(int(count.max())):
        velocity = u[:, :2]
        if done:
            middle = 1.5 * velocity - 0.5 * before
        else:  # The first step is made twice: the first time to learn the pressure, and where the velocity goes.
            ahead, pressure = flow(u, velocity, pressure)
            middle, pressure = (velocity + ahead[:, :2]) / 2, pressure / 2
        after, pressing = flow(u, middle, pressure)
        before = velocity
        goes_on = (count > done).reshape(-1, 1, 1, 1)
        u, pressure = torch.where(goes_on, after, u), torch.where(goes_on, pressing, pressure)
    return u


class FlowStep:
    """A step of given size (B,); other arguments as in `flow_steps`."""

    def __init__(self, points: tuple[int, ...], force: Tensor, size: Tensor, viscosity: Tensor) -> None:
        self.points, self.size = points, size.reshape(-1, 1, 1, 1)
        self.axes = [axis_of(n, force.device) for n in points]
        x, y = self.axes
        rate = -viscosity.reshape(-1, 1, 1) * self.size[:, 0] / 2
        self.fading = [
            (rate * (x.through_rates[:, None] + y.along_rates)).exp(),
            (rate * (x.along_rates[:, None] + y.through_rates)).exp(),
        ]
        self.force = [x.to_faces @ force[:, 0], force[:, 1] @ y.to_faces.T]
        # Of every field, (C, ..., n).
        self.second = [axis.second[list(kinds)] for axis, kinds in zip(self.axes, KINDS, strict=True)]
        self.splines = [axis.splines[list(kinds)] for axis, kinds in zip(self.axes, KINDS, strict=True)]

    def __call__(self, u: Tensor, middle: Tensor, pressure: Tensor) -> tuple[Tensor, Tensor]:
        """The state a step later, and the gradient of the pressure there.

        Args: middle (B, 2, X, Y): velocity of half a step later. pressure (B, 2, X, Y): its gradient.
        """
        velocity = self.damped(u[:, :2]) + self.size / 2 * (self.pushed(u[:, 2]) - pressure)
        moved = self.transported(torch.cat([velocity, u[:, 2:]], dim=1), middle)
        velocity = self.damped(moved[:, :2] + self.size / 2 * self.pushed(moved[:, 2]))
        free = self.projected(velocity)
        return torch.cat([free, moved[:, 2:]], dim=1), (velocity - free) * 2 / self.size

    def damped(self, v: Tensor) -> Tensor:
        """Velocities after half a step of friction."""
        x, y = self.axes
        u = x.through.T @ (self.fading[0] * (x.through @ v[:, 0] @ y.along.T)) @ y.along
        w = x.along.T @ (self.fading[1] * (x.along @ v[:, 1] @ y.through.T)) @ y.through
        return torch.stack([u, w], dim=1)

    def pushed(self, c: Tensor) -> Tensor:
        """c f (B, 2, X, Y) of particles c (B, X, Y), made on the faces."""
        x, y = self.axes
        across = x.faces.T @ ((x.faces @ c) * self.force[0])
        along = ((c @ y.faces.T) * self.force[1]) @ y.faces
        return torch.stack([across, along], dim=1)

    def projected(self, v: Tensor) -> Tensor:
        """The part of a velocity that is free of divergence on the faces, by the five-point Laplacian."""
        x, y = self.axes
        # The last sine has no gradient: it is none of the waves of a potential.
        a = F.pad((x.through[:-1] @ v[:, 0]) @ y.level.T, (0, 0, 1, 0))
        b = F.pad((x.level @ v[:, 1]) @ y.through[:-1].T, (1, 0))
        potential = x.divergence[:, None] * a + y.divergence * b
        rates = x.level_rates[:, None] + y.level_rates
        potential = potential / torch.where(rates > 0, rates, torch.ones_like(rates))
        across = x.through[:-1].T @ (x.gradient[:, None] * potential)[:, 1:] @ y.level
        along = x.level.T @ (y.gradient * potential)[:, :, 1:] @ y.through[:-1]
        return v - torch.stack([across, along], dim=1)

    def transported(self, u: Tensor, middle: Tensor) -> Tensor:
        """Fields from a step upstream, blurred on the way."""
        level = torch.zeros_like(u[:, 2:])
        here = splined(self.coefficients(torch.cat([middle, level], 1)), -self.size / 2 * middle, self.points)[:, :2]
        moved = splined(self.coefficients(u), -self.size * here, self.points)
        cells = here.new_tensor(self.points).reshape(1, 2, 1, 1)
        share = (self.size * here.abs() * cells / (2 * BLURS)).clamp_max(MOST_BLURRED)
        x, y = self.second
        for _ in range(BLURS):
            moved = moved + share[:, :1] * (x @ moved) + share[:, 1:] * (moved @ y.mT)
        return moved

    def coefficients(self, u: Tensor) -> Tensor:
        """Of the cubic B-splines through fields, and beyond the walls."""
        x, y = self.splines
        return x @ u @ y.mT


class Axis:
    """What n cells between two walls need, for a box of length one: matrices, and rates of waves.

    Attributes:
        through, along, level: (n, n) orthonormal waves, sin(k pi x) at the centres, sin(k pi (i + 1) / (n + 1)), and
            cos(k pi x); their `_rates` are those of second differences.
        divergence, gradient: (n,) of waves of a potential, on the faces and back in the cells.
        faces: (n - 1, n) means of two cells; its transpose leads from faces to cells. to_faces: its inverse.
        second: (3, n, n) by kind, second differences. splines: (3, n + 2 EDGE, n), see `FlowStep.coefficients`.
    """

    def __init__(self, n: int, device: torch.device) -> None:
        k, cell = torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64) + 0.5
        angle = math.pi * k / n
        level = torch.cos(torch.outer(angle, cell)) * math.sqrt(2 / n)
        level[0] /= math.sqrt(2)
        through = torch.sin(torch.outer(math.pi * (k + 1) / n, cell)) * math.sqrt(2 / n)
        through[-1] /= math.sqrt(2)
        one = torch.eye(n, dtype=torch.float64)
        faces = (one[:-1] + one[1:]) / 2
        # As if fields were continued without an end: coefficients feel what is far away by 0.27 a cell.
        inverse = spline_inverse(n + 2 * FAR)[FAR - EDGE : FAR + n + EDGE]
        near = torch.stack([continued(n, kind, 1) for kind in (THROUGH, ALONG, LEVEL)])
        far = torch.stack([continued(n, kind, FAR) for kind in (THROUGH, ALONG, LEVEL)])

        def placed(values: Tensor) -> Tensor:
            return values.to(device, torch.float32)

        self.level, self.level_rates = placed(level), placed(rates(angle, n))
        self.through, self.through_rates = placed(through), placed(rates(math.pi * (k + 1) / n, n))
        self.along = placed(torch.sin(torch.outer(k + 1, k + 1) * math.pi / (n + 1)) * math.sqrt(2 / (n + 1)))
        self.along_rates = placed(rates(math.pi * (k + 1) / (n + 1), n))
        self.divergence, self.gradient = placed(2 * n * torch.tan(angle / 2)), placed(n * torch.sin(angle))
        self.faces, self.to_faces = placed(faces), placed(torch.linalg.pinv(faces.T))
        self.second = placed(near[:, 2:] + near[:, :-2] - 2 * near[:, 1:-1])
        self.splines = placed(inverse @ far)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def axis_of(n: int, device: torch.device) -> Axis:
    return Axis(n, device)


def rates(angle: Tensor, n: int) -> Tensor:
    """Of waves that turn by these angles from cell to cell, under second differences."""
    return 4 * n**2 * torch.sin(angle / 2) ** 2


def continued(n: int, kind: int, edge: int) -> Tensor:
    """(n + 2 edge, n): values in cells -> the same with those beyond both walls."""
    rows = torch.zeros(n + 2 * edge, n, dtype=torch.float64)
    rows[edge : edge + n] = torch.eye(n)
    for step in range(min(edge, n)):
        if kind == LEVEL:
            rows[edge - 1 - step, step] = rows[edge + n + step, n - 1 - step] = 1
        elif kind == THROUGH:
            rows[edge - 1 - step, step] = rows[edge + n + step, n - 1 - step] = -1
        elif step:  # The cell next to the wall, where step is zero, stays at zero.
            rows[edge - 1 - step, step - 1] = rows[edge + n + step, n - step] = -1
    return rows


def spline_inverse(n: int) -> Tensor:
    """(n, n): values -> coefficients of the cubic B-splines through them, mirrored at the ends."""
    matrix = torch.eye(n, dtype=torch.float64) * 4
    matrix[0, 0] = matrix[-1, -1] = 5
    index = torch.arange(n - 1)
    matrix[index, index + 1] = matrix[index + 1, index] = 1
    inverse: Tensor = torch.linalg.inv(matrix / 6)
    return inverse


def splined(coefficients: Tensor, displacement: Tensor, points: tuple[int, ...]) -> Tensor:
    """``u(x + d(x))`` by cubic B-splines, of fourth order.

    The sum over 4 x 4 splines is one of four linear interpolations of their coefficients (Sigg & Hadwiger, GPU Gems 2,
    chapter 20).

    Shapes:
        coefficients: (B, C, X + 2 EDGE, Y + 2 EDGE); displacement: (B, 2, X, Y) in box lengths.
    """
    places, shares = [], []
    for axis, n in enumerate(points):
        start = EDGE + torch.arange(n, device=displacement.device, dtype=displacement.dtype)
        place = displacement[:, axis] * n + start.reshape([-1, 1] if axis == 0 else [1, -1])
        cell = place.floor()
        f = place - cell
        g = 1 - f
        ends, second, third = (g**3 / 6, f**3 / 6), (4 - 6 * f**2 + 3 * f**3) / 6, (4 - 6 * g**2 + 3 * g**3) / 6
        left, right = ends[0] + second, ends[1] + third
        # In units of half of all cells about their centre, as `grid_sample` counts.
        whole = n + 2 * EDGE
        places.append([(at + 0.5) * 2 / whole - 1 for at in (cell - 1 + second / left, cell + 1 + ends[1] / right)])
        shares.append([left, right])
    total = coefficients.new_zeros(*coefficients.shape[:2], *points)
    for x, share in zip(places[0], shares[0], strict=True):
        for y, other in zip(places[1], shares[1], strict=True):
            taken = F.grid_sample(coefficients, torch.stack([y, x], -1), padding_mode="border", align_corners=False)
            total += (share * other)[:, None] * taken
    return total
