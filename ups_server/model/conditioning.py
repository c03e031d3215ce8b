"""What a model knows of the equation besides the state: its text, its coefficients as numbers, its boundary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ups_server.errors import UserError
from ups_server.model.config import ConditionerConfig, KnownFamily, SuperspaceConfig, UPSConfig
from ups_server.model.context import BatchRows, Context, Symmetry, symmetry_of, turning
from ups_server.pde.family import metadata_text
from ups_server.pde.grid import BoundaryCondition, BoundaryKind

FREQUENCIES = (0.25, 0.5, 1.0, 2.0)
"""Cycles per four decades of a coefficient: low enough to interpolate."""

VALUE_FEATURES = 3 + 2 * len(FREQUENCIES)
KINDS = tuple(BoundaryKind)
NEUTRAL_NAME = "partial differential equation"
"""What every equation is called where its name is withheld."""

MAX_VALUE = 10.0
SYMBOL = 32
"""Width of the symbol of a coefficient."""


@dataclass(frozen=True)
class Conditions(BatchRows):
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
        symmetry: that steps are averaged over; None where there is none.
        solenoidal: is the velocity free of divergence from the first step on? The same for the batch.
    """

    listed = ("texts", "names")

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
    symmetry: Symmetry | None
    periodic: tuple[bool, ...]
    offset: tuple[float, ...]
    trained: int
    solenoidal: bool

    def context(self) -> Context:
        """What the steps of any operator are told of it."""
        return Context(self.mask, self.periodic, self.offset, self.trained, self.increment, self.static)


def with_metadata(given: Conditions, metadata: Literal["both", "text", "numbers", "none"]) -> Conditions:
    """The conditions as far as an operator is to know them.

    "text": name and coefficients in words alone. "numbers": the name in words, the coefficients as numbers alone.
    "none": neither, every equation is called the same. Boundary, slots, statistics and static fields are always given.
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
    card: KnownFamily,
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
    sides = torch.zeros(config.superspace.max_dimensions, 2, len(KINDS))
    for axis, pair in enumerate(boundary.sides):
        for side, kind in enumerate(pair):
            sides[axis, side, KINDS.index(kind)] = 1
    slots = torch.tensor(card.slots)

    def scattered(entries: Sequence[float], absent: float) -> Tensor:
        out = torch.full((config.superspace.slots,), absent)
        out[slots] = torch.tensor(entries, dtype=torch.float32)
        return out.expand(count, -1)

    statistics = card.statistics
    levels = levels_of(config, card, initial)
    mean, std = scattered(statistics.mean, 0.0), scattered(statistics.std, 1.0)
    symmetry = None
    found = symmetry_of(card, boundary, offset) if config.step.averaged else None
    if found is not None:
        signs, mirrors = found
        static_turn = None
        if static is not None:
            fixed = (card.static_parity, statistics.static_mean, statistics.static_std)
            static_turn = turning(*(torch.tensor(row, dtype=torch.float32) for row in fixed)).expand(count, -1, -1)
        symmetry = Symmetry(turning(scattered(signs, 1.0), mean, std), static_turn, mirrors)
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
        symmetry=symmetry,
        periodic=boundary.periodic,
        offset=offset,
        trained=card.points or statistics.n,
        solenoidal=card.solenoidal,
    )


def levels_of(config: UPSConfig, card: KnownFamily, initial: Tensor) -> Tensor:
    """(B, N) means of the initial states (B, X..., C) of the fields that are relative to them, one elsewhere."""
    levels = torch.ones(len(initial), config.superspace.slots)
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


@dataclass(frozen=True)
class Description(BatchRows):
    """Problems as the layers of an operator read them.

    Attributes:
        vector: (B, size) that conditions every layer.
        family: (B, size) of the name alone.
        symbols: (B, K, SYMBOL) of the coefficients; values: (B, K), their numbers. Both None without coefficients.
    """

    vector: Tensor
    family: Tensor
    symbols: Tensor | None
    values: Tensor | None


class OperatorConditioner(nn.Module):
    """Name, numbers, boundary and slots -> one vector per sample.

    The name enters as the mean of its frozen word embeddings, each coefficient as its symbol's embedding with features
    of its value.
    """

    def __init__(self, config: ConditionerConfig, space: SuperspaceConfig, text_size: int) -> None:
        super().__init__()
        size = config.size
        self.name = nn.Linear(text_size, size)
        self.symbol = nn.Linear(text_size, SYMBOL)
        self.coefficient = nn.Sequential(nn.Linear(SYMBOL + VALUE_FEATURES, size), nn.GELU(), nn.Linear(size, size))
        self.level: nn.Sequential | None = None
        if config.levels:
            self.level = nn.Sequential(nn.Linear(space.slots, size), nn.GELU(), zero(nn.Linear(size, size)))
        flags = space.max_dimensions * 2 * len(KINDS) + space.slots
        self.vector = nn.Sequential(nn.Linear(2 * size + flags, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, names: Tensor, symbols: Tensor, given: Conditions) -> Description:
        """Args: names (B, E), symbols (K, E) mean word embeddings."""
        family = self.name(names)
        total = torch.zeros_like(family) if self.level is None else self.level(given.levels)
        named = values = None
        if given.coefficients.shape[1]:
            values = given.coefficients
            named = self.symbol(symbols).expand(len(values), -1, -1)
            total = total + self.coefficient(torch.cat([named, value_features(values)], dim=-1)).sum(1)
        vector = self.vector(torch.cat([family, total, given.boundary, given.mask], dim=-1))
        return Description(vector, family, named, values)


def zero(layer: nn.Linear) -> nn.Linear:
    """The layer with weights of zero: what it adds is nothing at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
