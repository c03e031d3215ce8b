"""A model of lead times: any state of any of its families -> the state a lead time later, in physical units."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_server.model.conditioning import KINDS, VALUE_FEATURES, value_features
from ups_server.model.conservation import CONSERVED
from ups_server.model.latent import LatentConfig, LatentOperator
from ups_server.model.lattice import check_points
from ups_server.model.projection import gradient_part
from ups_server.model.scales import SCALES, Scaled
from ups_server.pde import BoundaryCondition, Family

SYMBOL = 32
NUMBERS = ("lead time", "points", "amplitude of waves", "amplitude of density", "share of the flow")
"""What is told beside the terms, by name."""
FULL = 0.1
"""Characteristic times after which the scale of an increment has mostly grown to its whole; none at zero."""


@dataclass(frozen=True)
class Equations:
    """What is known of B problems of one family on one grid.

    Attributes:
        rates: coefficient (B,) of each term of the equation, by the text that says what the term does: one over a time.
        ratios: the same of the terms whose coefficient has no dimension.
        static: (B, X..., S), or None.
        offset: of the points in their cells, per axis.
    """

    family: Family
    rates: Mapping[str, Tensor]
    ratios: Mapping[str, Tensor]
    boundary: BoundaryCondition
    offset: tuple[float, ...]
    static: Tensor | None = None


TERMS: dict[str, dict[str, tuple[str | None, float]]] = {
    "advection": {"transport to the right at constant speed": ("beta", 1.0)},
    "burgers": {"transport of the quantity by itself": (None, 1.0), "diffusion": ("nu", 1 / math.pi)},
    "diffusion_sorption": {"diffusion, held back by sorption to the ground": (None, 5e-4)},
    "compressible_ns_1d": {
        "compressible flow of an ideal gas": (None, 1.0),
        "shear viscosity": ("eta", 1.0),
        "bulk viscosity": ("zeta", 1.0),
    },
    "compressible_ns_2d": {
        "compressible flow of an ideal gas": (None, 1.0),
        "shear viscosity": ("eta", 1.0),
        "bulk viscosity": ("zeta", 1.0),
    },
    "shallow_water": {"shallow water over a flat bed, driven by gravity": (None, 0.2)},
    "incompressible_ns_2d": {
        "incompressible flow that carries particles": (None, 1.0),
        "shear viscosity": ("nu", 1.0),
        "a force on the particles": (None, 1.0),
    },
}
"""Terms of the families' equations: what the term does, the coefficient it has (or none), and a factor of it."""


def equations(
    family: Family,
    coefficients: Mapping[str, Tensor],
    boundary: BoundaryCondition,
    offset: tuple[float, ...],
    like: Tensor,
    static: Tensor | None = None,
) -> Equations:
    """B problems of a family with coefficients (B,) by name; `like` (B, ...) has their number and type."""
    count, terms = len(like), TERMS[family.id].items()
    rates = {text: coefficients[name].to(like) * factor for text, (name, factor) in terms if name is not None}
    ratios = {text: like.new_full((count,), factor) for text, (name, factor) in terms if name is None}
    return Equations(family, rates, ratios, boundary, offset, static)


class TermSet(nn.Module):
    """A set of named numbers -> one vector, whatever their order: attention of a few learned questions, and the sum.

    A name enters by a frozen feature of its text, a number by features of its sign and logarithm.
    """

    def __init__(self, text_size: int, size: int, heads: int = 4) -> None:
        super().__init__()
        self.name = nn.Linear(text_size, SYMBOL)
        self.each = nn.Sequential(nn.Linear(SYMBOL + VALUE_FEATURES, size), nn.GELU(), nn.Linear(size, size))
        self.questions = nn.Linear(size, heads)
        self.answers = nn.Linear(heads * size + size, size)

    def forward(self, names: Tensor, numbers: Tensor) -> Tensor:
        """Args: names (K, E); numbers (B, K)."""
        named = self.name(names).expand(len(numbers), -1, -1)
        each = F.gelu(self.each(torch.cat([named, value_features(numbers)], dim=-1)))
        heard = torch.einsum("bkh,bkc->bhc", self.questions(each).softmax(1), each)
        pooled: Tensor = self.answers(torch.cat([heard.flatten(1), each.sum(1)], dim=-1))
        return pooled


class Conditioner(nn.Module):
    """Terms, numbers, boundary and slots -> the condition vector (B, size)."""

    def __init__(self, config: LatentConfig, text_size: int) -> None:
        super().__init__()
        size = config.condition
        self.terms, self.numbers = TermSet(text_size, size), TermSet(text_size, size)
        flags = config.ndim * 2 * len(KINDS) + config.fields + config.static
        self.vector = nn.Sequential(
            nn.Linear(2 * size + flags, 2 * size), nn.GELU(), nn.Linear(2 * size, 2 * size), nn.GELU(),
            nn.Linear(2 * size, size), nn.GELU(),
        )  # fmt: skip

    def forward(self, terms: tuple[Tensor, Tensor], numbers: tuple[Tensor, Tensor], flags: Tensor) -> Tensor:
        """Args: terms, numbers: features of names (K, E) and values (B, K) of each; flags (F,)."""
        row = [self.terms(*terms), self.numbers(*numbers), flags.expand(len(terms[1]), -1)]
        vector: Tensor = self.vector(torch.cat(row, dim=-1))
        return vector


class LeadModel(nn.Module):
    """``u(t + tau) = G_tau(u(t))`` for all families of one dimension count."""

    def __init__(self, config: LatentConfig, texts: Mapping[str, Tensor]) -> None:
        """Args: texts: a feature (E,) of every text that is read: those of terms, and names of numbers."""
        super().__init__()
        self.config = config
        self.texts = {text: feature.clone() for text, feature in texts.items()}
        self.conditioner = Conditioner(config, len(next(iter(texts.values()))))
        self.operator = LatentOperator(config)

    def forward(self, state: Tensor, lead: Tensor, given: Equations) -> Tensor:
        """States (B, X..., C) -> those `lead` (B,) later, physical units.

        Raises:
            UserError: ``resolution_not_supported``.
        """
        family, config = given.family, self.config
        points = tuple(state.shape[1:-1])
        check_points(points, config.patches)
        scales = SCALES[family.id]
        scaled = scales.scaled(state, given.static)
        slots = [field.slot for field in family.fields]
        u = state.new_zeros(*state.shape[:-1], config.fields)
        u[..., slots] = scaled.fields
        static = state.new_zeros(*state.shape[:-1], config.static)
        if scaled.static is not None:
            static[..., : scaled.static.shape[-1]] = scaled.static
        condition = self.condition(scaled, lead, given, points)
        moved, increment = self.operator(
            u,
            static,
            self.place(points, given, state),
            condition,
            1 - torch.exp(-lead * scaled.speed / FULL),
            given.boundary.periodic,
            given.offset,
        )
        after = scales.physical((moved + increment)[..., slots], scaled)
        if family.solenoidal:
            axes = family.ndim
            velocity = after[..., :axes].movedim(-1, 1)
            after = torch.cat(
                [(velocity - gradient_part(velocity, given.boundary.periodic)).movedim(1, -1), after[..., axes:]], -1
            )
        if family.id in CONSERVED and all(given.boundary.periodic):
            after = CONSERVED[family.id](after, state)
        return after

    def condition(self, scaled: Scaled, lead: Tensor, given: Equations, points: Sequence[int]) -> Tensor:
        """(B, size); everything without dimension."""
        terms = {**given.ratios, **{text: value / scaled.speed for text, value in given.rates.items()}}
        numbers = {"lead time": lead * scaled.speed, **scaled.numbers, "points": torch.full_like(lead, points[0] / 64)}
        vector: Tensor = self.conditioner(self.named(terms), self.named(numbers), self.flags(given).to(lead))
        return vector

    def named(self, numbers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features of the names (K, E), and the numbers (B, K)."""
        rows = torch.stack(list(numbers.values()), dim=1)
        return torch.stack([self.texts[name] for name in numbers]).to(rows), rows

    def flags(self, given: Equations) -> Tensor:
        """(F,) one-hot kinds of the boundary a side, and which slots there are."""
        sides = torch.zeros(self.config.ndim, 2, len(KINDS))
        for axis, pair in enumerate(given.boundary.sides):
            for side, kind in enumerate(pair):
                sides[axis, side, KINDS.index(kind)] = 1
        present = torch.zeros(self.config.fields + self.config.static)
        present[[field.slot for field in given.family.fields]] = 1
        if given.static is not None:
            present[self.config.fields : self.config.fields + given.static.shape[-1]] = 1
        return torch.cat([sides.flatten(), present])

    def place(self, points: Sequence[int], given: Equations, like: Tensor) -> Tensor:
        """(X..., d) coordinates in [-1, 1] along axes with walls, zero along periodic ones."""
        channels = like.new_zeros(*points, self.config.ndim)
        for axis, (n, wraps) in enumerate(zip(points, given.boundary.periodic, strict=True)):
            if not wraps:
                x = (torch.arange(n, device=like.device, dtype=like.dtype) + given.offset[axis]) / n * 2 - 1
                channels[..., axis] = x.reshape([-1 if a == axis else 1 for a in range(len(points))])
        return channels
