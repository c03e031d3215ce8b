"""Characteristic scales: a state in units of its own, so that what an equation lets be rescaled is never learned.

Every family names one of these kinds. It measures a state of the superspace (slots: a scalar or the first velocity, the
second, density or particles, pressure); its fields, its coefficients and the lead time are then numbers without
dimension: a time is multiplied by a characteristic speed over the length of the box, which is one, family by family; a
coefficient that is a rate is divided by it. Amplitudes that the equation does not let be rescaled away are given as
numbers.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ups_server.model.lead_config import NUMBERS, ScalesCard
from ups_server.pde.gas import GAMMA

LEAST = 1e-4
"""Smallest amplitude, in characteristic units: a state at rest is not divided by zero."""
WAVES, DENSITY, FLOW = 2, 3, 4
STILL = 3e-3
"""Of the speed of sound: a gas that moves less than this is hardly changed by what was learned."""
LARGEST = 12.0
"""Of the logarithm of a density or pressure over its mean, in magnitude."""


@dataclass(frozen=True)
class Scaled:
    """States in characteristic units: ``fields = (own - level) / unit``, own being the state or, of a gas, logarithms.

    Attributes:
        fields: (B, X..., N). static: (B, X..., S).
        level, unit: (B, N). logarithmic: (B, N), one for the slots whose logarithm is measured.
        speed: (B,), characteristic speed over the length of the box.
        numbers: (B, len(NUMBERS)), zero where a kind of scales has none.
        moving: (B,) share of what is learned that a state can take: towards zero for a gas at rest, which stays so,
            whatever its density, but for a uniform stream.
    """

    fields: Tensor
    static: Tensor
    level: Tensor
    unit: Tensor
    logarithmic: Tensor
    speed: Tensor
    numbers: Tensor
    moving: Tensor

    def rows(self, index: Tensor) -> "Scaled":
        return Scaled(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def physical(self, fields: Tensor) -> Tensor:
        """Scaled fields (B, X..., N), in the units of the state that was measured -> physical ones."""
        own = fields * spread(self.unit, fields)
        gas = self.logarithmic.any(1)
        if not gas.any():
            return own + spread(self.level, fields)
        exponential = own.clamp(-LARGEST, LARGEST).exp() * spread(self.level, fields)
        return torch.where(
            spread(self.logarithmic, fields) > 0, exponential, own + spread(self.level * (1 - self.logarithmic), fields)
        )


def mean(values: Tensor) -> Tensor:
    """Over the points: (B, X..., C) -> (B, C)."""
    return values.flatten(1, -2).mean(1)


def spread(rows: Tensor, like: Tensor) -> Tensor:
    """(B, C) or (B,) to be broadcast over the points of `like`."""
    return rows.reshape(len(rows), *(1,) * (like.ndim - 2), -1)


class Scales(ABC):
    """One way of measuring states (B, X..., N) of the superspace."""

    @abstractmethod
    def scaled(self, state: Tensor, static: Tensor) -> Scaled:
        """Args: static (B, X..., S), zero where a family has none."""


class Gas(Scales):
    """Velocities, density and pressure of an ideal gas.

    Density and pressure in units of their means, velocities of the speed of sound there; then velocity, log density
    and log pressure in units of their root mean squares, of which velocity and pressure share one: in small waves they
    drive each other. Densities and pressures come back positive by construction.
    """

    def scaled(self, state: Tensor, static: Tensor) -> Scaled:
        levels = mean(state[..., 2:])
        speed = (GAMMA * levels[:, 1] / levels[:, 0]).sqrt()
        velocity = state[..., :2] / spread(speed, state)
        logarithm = (state[..., 2:] / spread(levels, state)).log()
        own = torch.cat([velocity, logarithm], dim=-1)
        squares = mean(own.square())
        waves = (squares[:, :2].sum(1) + squares[:, 3]).sqrt().clamp_min(LEAST)
        density = (squares[:, 2] + waves.square()).sqrt()
        unit = torch.stack([waves, waves, density, waves], dim=1)
        numbers = no_numbers(state)
        numbers[:, WAVES], numbers[:, DENSITY] = waves, density
        varying = squares - mean(own).square()
        motion = (varying[:, :2].sum(1) + varying[:, 3]) / STILL**2
        speeds = torch.stack([speed, speed], dim=1)
        return Scaled(
            fields=own / spread(unit, state),
            static=static,
            level=torch.cat([torch.zeros_like(speeds), levels], dim=1),
            unit=torch.cat([unit[:, :2] * speeds, unit[:, 2:]], dim=1),
            logarithmic=unit.new_tensor([0.0, 0.0, 1.0, 1.0]).expand_as(unit),
            speed=speed,
            numbers=numbers,
            moving=1 - torch.exp(-motion),
        )


class Velocity(Scales):
    """One velocity that carries itself: in units of its root mean square."""

    def scaled(self, state: Tensor, static: Tensor) -> Scaled:
        speed = mean(state.square()).sum(1).sqrt().clamp_min(LEAST)
        return linear(state, static, None, speed[:, None].expand(-1, state.shape[-1]), speed)


class Amplitude(Scales):
    """A linear equation: fields in units of their root mean square, times as they are."""

    def scaled(self, state: Tensor, static: Tensor) -> Scaled:
        size = mean(state.square()).sqrt().clamp_min(LEAST)
        return linear(state, static, None, size, torch.ones_like(size[:, 0]))


class Stirred(Scales):
    """Velocities, and particles on which a static force acts: (v, c) and f with v_t = ... + c f.

    The speed is that of the flow and of what the force can do over the length of the box.
    """

    def scaled(self, state: Tensor, static: Tensor) -> Scaled:
        flow = mean(state[..., :2].square()).sum(1).sqrt()
        particles = mean(state[..., 2:3].square())[:, 0].sqrt().clamp_min(LEAST)
        push = particles * mean(static.square()).sum(1).sqrt()
        speed = (flow.square() + push / 2).sqrt().clamp_min(LEAST)
        unit = torch.stack([speed, speed, particles, torch.ones_like(speed)], dim=1)
        found = linear(state, static * spread(particles / speed.square(), static), None, unit, speed)
        found.numbers[:, FLOW] = (flow / speed).clamp_min(LEAST)
        return found


class Level(Scales):
    """Fields about a level that does not change, in numbers that belong to the family."""

    def __init__(self, card: ScalesCard) -> None:
        self.card = card

    def scaled(self, state: Tensor, static: Tensor) -> Scaled:
        level, unit = (state.new_tensor(row).expand(len(state), -1) for row in (self.card.level, self.card.unit))
        return linear(state, static, level, unit, state.new_full((len(state),), self.card.speed))


def no_numbers(state: Tensor) -> Tensor:
    return state.new_zeros(len(state), len(NUMBERS))


def linear(state: Tensor, static: Tensor, level: Tensor | None, unit: Tensor, speed: Tensor) -> Scaled:
    """Scales without logarithms."""
    level = torch.zeros_like(unit) if level is None else level
    fields = (state - spread(level, state)) / spread(unit, state)
    return Scaled(fields, static, level, unit, torch.zeros_like(unit), speed, no_numbers(state), torch.ones_like(speed))


def scales_of(card: ScalesCard) -> Scales:
    """The scales that a card names."""
    plain: dict[str, Scales] = {
        "gas": Gas(), "velocity": Velocity(), "amplitude": Amplitude(), "stirred": Stirred(), "level": Level(card)
    }  # fmt: skip
    return plain[card.kind]
