"""Characteristic scales: a state in units of its own, so that what an equation lets be rescaled is never learned.

Every family names one of these. `Scales.of` measures a state; fields, coefficients and the lead time then become
numbers without dimension: a time is multiplied by a characteristic speed over the length of the box (which is one,
family by family), a coefficient, all of which are rates, divided by it. Amplitudes that the equation does not let be
rescaled away are told as numbers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ups_server.pde.euler import GAMMA

LEAST = 1e-4
"""Smallest amplitude, in characteristic units: a state at rest is not divided by zero."""


@dataclass(frozen=True)
class Scaled:
    """A state in characteristic units.

    Attributes:
        fields: (B, X..., F). static: (B, X..., S), or None.
        speed: (B,), characteristic speed over the length of the box: one over a time.
        numbers: what else the model is told, each (B,), by name; positive.
        unit: (B, F) of the scaled fields, and whatever `physical` needs.
    """

    fields: Tensor
    static: Tensor | None
    speed: Tensor
    numbers: Mapping[str, Tensor]
    unit: Mapping[str, Tensor]


class Scales(ABC):
    """How states (B, X..., F) of a family are measured, and given back after a step."""

    @abstractmethod
    def scaled(self, state: Tensor, static: Tensor | None) -> Scaled: ...

    @abstractmethod
    def physical(self, fields: Tensor, of: Scaled) -> Tensor:
        """Scaled fields, in the units of the state that was measured -> physical ones."""


def mean(values: Tensor) -> Tensor:
    """Over the points: (B, X..., C) -> (B, C)."""
    return values.flatten(1, -2).mean(1)


def spread(rows: Tensor, like: Tensor) -> Tensor:
    """(B, C) or (B,) to be broadcast over the points of `like`."""
    return rows.reshape(len(rows), *(1,) * (like.ndim - 2), -1)


class Gas(Scales):
    """Velocities, density and pressure of an ideal gas.

    Density and pressure in units of their means, velocities of the speed of sound there; then velocity, log density
    and log pressure in units of their root mean squares, of which velocity and pressure share one: in small waves they
    drive each other. Densities and pressures come back positive by construction.
    """

    def scaled(self, state: Tensor, static: Tensor | None) -> Scaled:
        levels = mean(state[..., -2:])
        speed = (GAMMA * levels[:, 1] / levels[:, 0]).sqrt()
        velocity = state[..., :-2] / spread(speed, state)
        logarithm = (state[..., -2:] / spread(levels, state)).log()
        squares = mean(torch.cat([velocity, logarithm], dim=-1).square())
        waves = (squares[:, :-2].sum(1) + squares[:, -1]).sqrt().clamp_min(LEAST)
        density = (squares[:, -2] + waves.square()).sqrt()
        unit = torch.stack([waves] * (state.shape[-1] - 2) + [density, waves], dim=1)
        fields = torch.cat([velocity, logarithm], dim=-1) / spread(unit, state)
        numbers = {"amplitude of waves": waves, "amplitude of density": density}
        return Scaled(fields, static, speed, numbers, {"levels": levels, "amplitude": unit})

    def physical(self, fields: Tensor, of: Scaled) -> Tensor:
        own = fields * spread(of.unit["amplitude"], fields)
        velocity = own[..., :-2] * spread(of.speed, fields)
        return torch.cat([velocity, own[..., -2:].clamp(-12, 12).exp() * spread(of.unit["levels"], fields)], dim=-1)


class Velocity(Scales):
    """One velocity that carries itself: in units of its root mean square."""

    def scaled(self, state: Tensor, static: Tensor | None) -> Scaled:
        speed = mean(state.square()).sum(1).sqrt().clamp_min(LEAST)
        return Scaled(state / spread(speed, state), static, speed, {}, {})

    def physical(self, fields: Tensor, of: Scaled) -> Tensor:
        return fields * spread(of.speed, fields)


class Amplitude(Scales):
    """A linear equation: fields in units of their root mean square, times as they are."""

    def scaled(self, state: Tensor, static: Tensor | None) -> Scaled:
        size = mean(state.square()).sqrt().clamp_min(LEAST)
        return Scaled(state / spread(size, state), static, torch.ones_like(size[:, 0]), {}, {"amplitude": size})

    def physical(self, fields: Tensor, of: Scaled) -> Tensor:
        return fields * spread(of.unit["amplitude"], fields)


class Stirred(Scales):
    """Velocities, and particles on which a static force acts: (v, c) and f with v_t = ... + c f.

    The speed is that of the flow and of what the force can do over the length of the box.
    """

    def scaled(self, state: Tensor, static: Tensor | None) -> Scaled:
        flow = mean(state[..., :-1].square()).sum(1).sqrt()
        particles = mean(state[..., -1:].square())[:, 0].sqrt().clamp_min(LEAST)
        push = flow.new_zeros(len(flow)) if static is None else particles * mean(static.square()).sum(1).sqrt()
        speed = (flow.square() + push / 2).sqrt().clamp_min(LEAST)
        unit = torch.stack([speed] * (state.shape[-1] - 1) + [particles], dim=1)
        force = None if static is None else static * spread(particles / speed.square(), static)
        numbers = {"share of the flow": (flow / speed).clamp_min(LEAST)}
        return Scaled(state / spread(unit, state), force, speed, numbers, {"amplitude": unit})

    def physical(self, fields: Tensor, of: Scaled) -> Tensor:
        return fields * spread(of.unit["amplitude"], fields)


class Level(Scales):
    """Fields about a level that does not change: (u - level) / unit, in numbers that belong to the family."""

    def __init__(self, level: float, unit: float, speed: float) -> None:
        self.level, self.unit, self.speed = level, unit, speed

    def scaled(self, state: Tensor, static: Tensor | None) -> Scaled:
        speed = state.new_full((len(state),), self.speed)
        return Scaled((state - self.level) / self.unit, static, speed, {}, {})

    def physical(self, fields: Tensor, of: Scaled) -> Tensor:
        return fields * self.unit + self.level


SCALES: dict[str, Scales] = {
    "advection": Amplitude(),
    "burgers": Velocity(),
    "diffusion_sorption": Level(0.25, 0.25, 0.002),
    "compressible_ns_1d": Gas(),
    "shallow_water": Level(1.0, 0.15, 1.0),
    "compressible_ns_2d": Gas(),
    "incompressible_ns_2d": Stirred(),
}
"""By family."""
