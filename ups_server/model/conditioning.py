"""What a model knows of the equation besides the state: its text, its coefficients as numbers, its boundary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ups_server.errors import UserError
from ups_server.model.config import FamilyCard, UPSConfig
from ups_server.model.symmetry import symmetry_of, turning
from ups_server.pde.family import metadata_text
from ups_server.pde.grid import BoundaryCondition, BoundaryKind

FREQUENCIES = (0.25, 0.5, 1.0, 2.0)
"""Cycles per four decades of a coefficient: low enough to interpolate."""

VALUE_FEATURES = 3 + 2 * len(FREQUENCIES)
KINDS = tuple(BoundaryKind)
NEUTRAL_NAME = "partial differential equation"
"""What every equation is called where its name is withheld."""

MAX_VALUE = 10.0
RATE_SCALE = 0.01
"""Boxes per step: the unit of the propagator's rates. Small, because a shift by whole boxes is invisible to the loss
and a large step of the optimiser would land there."""
MAX_SHIFT = 0.5
"""Boxes per step; beyond half a box a shift cannot be told from its complement."""


@dataclass(frozen=True)
class Conditions:
    """Per sample: how the equation is named and what its numbers are.

    Attributes:
        texts: B metadata texts "[family][coefficients]".
        names: B family names.
        coefficient_names: the coefficients' symbols, the same for the batch.
        coefficients: (B, K) values.
        boundary: (B, d_max * 2 * kinds) one-hot kinds per side, zero for absent axes.
        mask: (B, N) one for the slots the family has.
        mean, std, increment: (B, N) statistics of the family, zero / one / one in slots it lacks; for fields that
            are measured relative to their level, times that level.
        levels: (B, N) natural logarithm of the level of such fields, the mean of their initial state; zero elsewhere.
        static: (B, S, X...) static fields, normalised, zero where absent; None where the family has none.
        periodic: per axis, the same for the batch.
        offset: per axis, where the points lie in their cells (`Grid.offset`), the same for the batch.
        trained: points per axis of the grid the family was trained on, the same for the batch.
        turn: (B, N, 2) sign and shift of each normalised slot under the symmetry that steps are averaged over
            (`model.symmetry`); None where there is none.
        static_turn: (B, S, 2), the same of the static fields.
        solenoidal: is the velocity free of divergence from the first step on? The same for the batch.
        mirrors: does that symmetry mirror the axes? The same for the batch.
    """

    texts: tuple[str, ...]
    names: tuple[str, ...]
    coefficient_names: tuple[str, ...]
    coefficients: Tensor
    boundary: Tensor
    mask: Tensor
    mean: Tensor
    std: Tensor
    increment: Tensor
    levels: Tensor
    static: Tensor | None
    turn: Tensor | None
    static_turn: Tensor | None
    periodic: tuple[bool, ...]
    offset: tuple[float, ...]
    trained: int
    solenoidal: bool
    mirrors: bool

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}

    def to(self, device: torch.device) -> Self:
        moved: dict[str, Any] = {name: value.to(device) for name, value in self._tensors().items()}
        return replace(self, **moved)

    def repeat(self, times: int) -> Self:
        """Each sample `times` times in succession: one trajectory's conditions for many of its states."""
        repeated: dict[str, Any] = {name: value.repeat_interleave(times, 0) for name, value in self._tensors().items()}
        for name in ("texts", "names"):
            repeated[name] = tuple(text for text in getattr(self, name) for _ in range(times))
        return replace(self, **repeated)

    def part(self, rows: slice) -> Self:
        """The conditions of some of the samples."""
        own: dict[str, Any] = {name: getattr(self, name)[rows] for name in ("texts", "names", *self._tensors())}
        return replace(self, **own)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The samples of several, one after another: all of one family, grid and boundary."""
        tensors = [part._tensors() for part in parts]
        joined: dict[str, Any] = {name: torch.cat([found[name] for found in tensors]) for name in tensors[0]}
        for name in ("texts", "names"):
            joined[name] = tuple(text for part in parts for text in getattr(part, name))
        return replace(parts[0], **joined)


def shown(given: Conditions, metadata: Literal["both", "text", "numbers", "none"]) -> Conditions:
    """What an operator is told of its equation.

    "text": name and coefficients in words alone. "numbers": the name in words, the coefficients as numbers alone.
    "none": neither, every equation is called the same. Boundary, slots, statistics and static fields are always told.
    """
    texts, names = given.texts, given.names
    if metadata == "numbers":
        texts = names
    elif metadata == "none":
        texts = names = (NEUTRAL_NAME,) * len(names)
    if metadata in ("both", "numbers"):
        return replace(given, texts=texts, names=names)
    nothing = given.coefficients[:, :0]
    return replace(given, texts=texts, names=names, coefficient_names=(), coefficients=nothing)


def conditions(
    config: UPSConfig,
    card: FamilyCard,
    coefficients: Mapping[str, Sequence[float]],
    boundary: BoundaryCondition,
    offset: tuple[float, ...],
    initial: Tensor,
    static: Tensor | None = None,
) -> Conditions:
    """The conditions of trajectories of one family.

    Args:
        coefficients: one value a trajectory each.
        offset: of the grid's points in their cells, per axis.
        initial: (B, X..., C) initial states in physical units, from which levels are taken.
        static: (B, S, X...) static fields, normalised.

    Raises:
        UserError: ``level_not_positive`` where a field that is measured relative to its mean has none.
    """
    count = len(initial)
    symbols = [card.symbols[name] for name in coefficients]
    values = torch.tensor([list(coefficients[name]) for name in coefficients], dtype=torch.float64).reshape(-1, count).T
    texts = tuple(metadata_text(card.name, dict(zip(symbols, row, strict=True))) for row in values.tolist())
    sides = torch.zeros(config.max_dimensions, 2, len(KINDS))
    for axis, pair in enumerate(boundary.sides):
        for side, kind in enumerate(pair):
            sides[axis, side, KINDS.index(kind)] = 1
    slots = torch.tensor(card.slots)

    def scattered(entries: Sequence[float], absent: float) -> Tensor:
        out = torch.full((config.slots,), absent)
        out[slots] = torch.tensor(entries, dtype=torch.float32)
        return out.expand(count, -1)

    statistics = card.statistics
    levels = levels_of(config, card, initial)
    mean, std = scattered(statistics.mean, 0.0), scattered(statistics.std, 1.0)
    turn, static_turn, mirrors = None, None, False
    symmetry = symmetry_of(config, card, boundary, offset)
    if symmetry is not None:
        signs, mirrors = symmetry
        turn = turning(scattered(signs, 1.0), mean, std)
        if static is not None:
            fixed = (card.static_parity, statistics.static_mean, statistics.static_std)
            static_turn = turning(*(torch.tensor(row, dtype=torch.float32) for row in fixed)).expand(count, -1, -1)
    return Conditions(
        texts=texts,
        names=(card.name,) * count,
        coefficient_names=tuple(symbols),
        coefficients=values.float(),
        boundary=sides.flatten().expand(count, -1),
        mask=scattered([1.0] * len(card.slots), 0.0),
        mean=mean * levels,
        std=std * levels,
        increment=scattered(statistics.increment_std, 1.0) / std,
        levels=levels.log(),
        static=static,
        turn=turn,
        static_turn=static_turn,
        periodic=boundary.periodic,
        offset=offset,
        trained=card.points or statistics.n,
        solenoidal=card.solenoidal,
        mirrors=mirrors,
    )


def levels_of(config: UPSConfig, card: FamilyCard, initial: Tensor) -> Tensor:
    """(B, N) means of the initial states (B, X..., C) of the fields that are relative to them, one elsewhere."""
    levels = torch.ones(len(initial), config.slots)
    means = initial.float().mean(tuple(range(1, initial.ndim - 1))).cpu()
    for index, (name, slot) in enumerate(zip(card.fields, card.slots, strict=True)):
        if name in card.statistics.relative:
            levels[:, slot] = means[:, index]
    if not (levels > 0).all():
        raise UserError(
            "level_not_positive",
            "fields that are measured relative to their mean need a positive one",
            got=float(levels.min()),
            expected=f"positive means of {', '.join(card.statistics.relative)}",
        )
    return levels


def value_features(values: Tensor) -> Tensor:
    """(...,) -> (..., F): the clipped value, its sign, a flag for zero, smooth features of log10 |value|."""
    zero = values == 0
    logarithm = torch.log10(torch.where(zero, torch.ones_like(values), values.abs()))
    angles = logarithm[..., None] * torch.tensor(FREQUENCIES, device=values.device) * (2 * math.pi / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1) * (~zero)[..., None]
    plain = torch.stack([values.clamp(-MAX_VALUE, MAX_VALUE), values.sign(), zero.to(values.dtype)], dim=-1)
    return torch.cat([plain, waves], dim=-1)


class Conditioner(nn.Module):
    """Name, numbers, boundary and slots -> one vector per sample; and the coefficients of the linear propagator.

    The name enters as the mean of its frozen word embeddings, each coefficient as its symbol's embedding with features
    of its value. The propagator's velocity and diffusivity are linear in the values (a transport speed is), with a
    factor learned per coefficient name and family, plus a part from the conditioning vector; the velocity also follows
    the mean of the state (Galilean shift).
    """

    def __init__(self, config: UPSConfig, text_size: int) -> None:
        super().__init__()
        size, slots, ndim = config.condition_size, config.slots, config.max_dimensions
        self.slots, self.ndim = slots, ndim
        self.name = nn.Linear(text_size, size)
        self.symbol = nn.Linear(text_size, 32)
        self.coefficient = nn.Sequential(nn.Linear(32 + VALUE_FEATURES, size), nn.GELU(), nn.Linear(size, size))
        heard = nn.Linear(size, size)
        self.level = nn.Sequential(nn.Linear(slots, size), nn.GELU(), heard) if config.levels else None
        flags = ndim * 2 * len(KINDS) + slots
        self.vector = nn.Sequential(nn.Linear(2 * size + flags, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
        rates = slots * ndim * 2
        self.rate_of_value = nn.Linear(32 + size, rates)
        self.rate = nn.Linear(size, rates)
        self.drift = nn.Linear(size, slots * ndim * slots)
        self.carry = nn.Linear(size, 2 * ndim * slots) if config.transport else None
        self.retain = nn.Linear(size, slots) if config.retention else None
        for layer in filter(None, (self.rate_of_value, self.rate, self.drift, self.carry, self.retain, heard)):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, names: Tensor, symbols: Tensor, given: Conditions) -> Tensor:
        """Args: names (B, E), symbols (K, E) mean word embeddings. Returns the vector (B, size)."""
        name = self.name(names)
        total = torch.zeros_like(name) if self.level is None else self.level(given.levels)
        if given.coefficients.shape[1]:
            total = total + self.coefficient(self._coefficient_inputs(symbols, given)).sum(1)
        vector: Tensor = self.vector(torch.cat([name, total, given.boundary, given.mask], dim=-1))
        return vector

    def _coefficient_inputs(self, symbols: Tensor, given: Conditions) -> Tensor:
        batch = given.coefficients.shape[0]
        named = self.symbol(symbols).expand(batch, -1, -1)
        return torch.cat([named, value_features(given.coefficients)], dim=-1)

    def rates(self, vector: Tensor, names: Tensor, symbols: Tensor, given: Conditions) -> tuple[Tensor, Tensor, Tensor]:
        """Velocity (B, N, d), diffusivity (B, N, d) >= 0, drift (B, N, d, N) per unit mean of each slot."""
        shape = (-1, self.slots, self.ndim)
        total = self.rate(vector)
        if given.coefficients.shape[1]:
            named = self.symbol(symbols).expand(vector.shape[0], -1, -1)
            family = self.name(names)[:, None].expand(-1, named.shape[1], -1)
            factors = self.rate_of_value(torch.cat([named, family], dim=-1))
            total = total + (given.coefficients.clamp(-MAX_VALUE, MAX_VALUE)[..., None] * factors).sum(1)
        velocity, diffusivity = (RATE_SCALE * total).chunk(2, dim=-1)
        drift = RATE_SCALE * self.drift(vector).reshape(*shape, self.slots)
        return velocity.reshape(shape), diffusivity.reshape(shape).abs(), drift

    def carriers(self, vector: Tensor) -> Tensor | None:
        """Box lengths a step that a unit of each slot carries the state (B, 2, d, N): before the step, and after."""
        if self.carry is None:
            return None
        rates: Tensor = RATE_SCALE * self.carry(vector)
        return rates.reshape(-1, 2, self.ndim, self.slots)
