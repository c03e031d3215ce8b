"""A model of lead times: states of many families on one grid -> those a lead time later, in physical units.

What is known of an equation enters as a set: every term by a feature of the text that says what it does, with its
coefficient as a number. No family has a name or weights of its own here. A system has an operator for each number of
dimensions, and the features of the texts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_server.model import constraints
from ups_server.model.conditioning import KINDS, VALUE_FEATURES, value_features
from ups_server.model.constraints import gradient_part
from ups_server.model.flow_steps import flow_steps
from ups_server.model.gas_steps import gas_steps
from ups_server.model.latent import LatentOperator, check_points, exact
from ups_server.model.lead_config import NUMBERS, EquationCard, LatentConfig, LeadConfig
from ups_server.model.scales import Scaled, scales_of, spread
from ups_server.model.wave_steps import wave_steps
from ups_server.pde import BoundaryCondition, Grid

SYMBOL = 32
GAS_SLOTS = (2, 3)
"""Density and pressure."""
FULL = 0.1
"""Characteristic times after which the scale of an increment has mostly grown to its whole; none at zero."""
SPACING = 64
"""Points per axis that count as one."""


@dataclass(frozen=True)
class Problems:
    """What is known of B problems on one grid.

    Attributes:
        equations: the different ones among them.
        which: (B,) index of each problem's.
        names: (B, K, E) features of the texts of terms; values, rate, present: (B, K).
        slots: (B, N) one for the slots that each has.
        static: (B, X..., S), zero where there is none; static_slots: (B, S) one for those there are.
        sides: (B, F) one-hot kinds of the boundary a side. lengths: (B, d) of the box.
        periodic: per axis, the same for all. offset: of the points in their cells, per axis, the same for all.
    """

    equations: tuple[EquationCard, ...]
    which: Tensor
    names: Tensor
    values: Tensor
    rate: Tensor
    present: Tensor
    slots: Tensor
    static: Tensor
    static_slots: Tensor
    sides: Tensor
    lengths: Tensor
    periodic: tuple[bool, ...]
    offset: tuple[float, ...]

    def rows(self, index: Tensor) -> Self:
        """Some of the problems."""
        chosen: dict[str, Any] = {
            f.name: value[index] for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **chosen)

    def to(self, device: torch.device) -> Self:
        moved: dict[str, Any] = {
            f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def repeat(self, times: int) -> Self:
        """Each problem `times` times in succession."""
        return self.rows(torch.arange(len(self.which), device=self.which.device).repeat_interleave(times))

    @classmethod
    def joined(cls, parts: "Sequence[Self]") -> Self:
        """The problems of several, on one grid, one after another; missing terms are marked as absent."""
        equations = tuple(dict.fromkeys(equation for part in parts for equation in part.equations))
        most = max(part.values.shape[1] for part in parts)
        tensors: dict[str, list[Tensor]] = {}
        for part in parts:
            number = torch.tensor([equations.index(own) for own in part.equations], device=part.which.device)
            for f in fields(part):
                value = getattr(part, f.name)
                if f.name == "which":
                    value = number[value]
                elif f.name in ("names", "values", "rate", "present"):
                    missing = most - value.shape[1]
                    value = F.pad(value, (0, 0, 0, missing) if f.name == "names" else (0, missing))
                if isinstance(value, Tensor):
                    tensors.setdefault(f.name, []).append(value)
        whole: dict[str, Any] = {name: torch.cat(values) for name, values in tensors.items()}
        return replace(parts[0], equations=equations, **whole)


def problems(
    equation: EquationCard,
    features: Mapping[str, Tensor],
    coefficients: Mapping[str, Tensor],
    slots: Sequence[int],
    boundary: BoundaryCondition,
    grid: Grid,
    state: Tensor,
    static: Tensor | None = None,
    static_slots: int = 2,
) -> Problems:
    """B problems of one equation.

    Args:
        features: (E,) of every text of a term.
        coefficients: (B,) each, by name.
        state: (B, X..., N), for its shape and type. static: (B, X..., S'), S' <= static_slots.
    """
    count = len(state)
    values = [
        state.new_full((count,), term.factor)
        if term.coefficient is None
        else coefficients[term.coefficient].to(state) * term.factor
        for term in equation.terms
    ]
    mask = state.new_zeros(state.shape[-1])
    mask[list(slots)] = 1
    fixed, fixed_mask = state.new_zeros(*state.shape[:-1], static_slots), state.new_zeros(static_slots)
    if static is not None:
        fixed[..., : static.shape[-1]], fixed_mask[: static.shape[-1]] = static, 1
    return Problems(
        equations=(equation,),
        which=torch.zeros(count, dtype=torch.long, device=state.device),
        names=torch.stack([features[term.text] for term in equation.terms]).to(state).expand(count, -1, -1),
        values=torch.stack(values, dim=1),
        rate=state.new_tensor([float(term.rate) for term in equation.terms]).expand(count, -1),
        present=torch.stack(
            [
                (value != 0 if term.optional else torch.ones_like(value, dtype=torch.bool)).to(state)
                for term, value in zip(equation.terms, values, strict=True)
            ],
            dim=1,
        ),
        slots=mask.expand(count, -1),
        static=fixed,
        static_slots=fixed_mask.expand(count, -1),
        sides=kinds_of(boundary).to(state).expand(count, -1),
        lengths=state.new_tensor([high - low for low, high in grid.extent]).expand(count, -1),
        periodic=boundary.periodic,
        offset=grid.offset,
    )


def kinds_of(boundary: BoundaryCondition) -> Tensor:
    """(F,) one-hot kinds of the boundary a side."""
    sides = torch.zeros(len(boundary.sides), 2, len(KINDS))
    for axis, pair in enumerate(boundary.sides):
        for side, kind in enumerate(pair):
            sides[axis, side, KINDS.index(kind)] = 1
    return sides.flatten()


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

    def forward(self, names: Tensor, numbers: Tensor, present: Tensor) -> Tensor:
        """Args: names (B, K, E); numbers, present (B, K)."""
        each = F.gelu(self.each(torch.cat([self.name(names), value_features(numbers)], dim=-1)))
        absent = present[..., None] == 0
        shares = self.questions(each).masked_fill(absent, torch.finfo(each.dtype).min).softmax(1)
        each = each * present[..., None]  # of a set without any, all are zero
        attended = torch.einsum("bkh,bkc->bhc", shares, each)
        total = each.sum(1)
        pooled: Tensor = self.answers(torch.cat([attended.flatten(1), total], dim=-1))
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

    def forward(self, terms: tuple[Tensor, ...], numbers: tuple[Tensor, ...], flags: Tensor) -> Tensor:
        """Args: terms, numbers: features of names, values and presence of each; flags (B, F)."""
        vector: Tensor = self.vector(torch.cat([self.terms(*terms), self.numbers(*numbers), flags], dim=-1))
        return vector


class LeadModel(nn.Module):
    """``u(t + tau) = G_tau(u(t))`` for all families of one dimension count."""

    def __init__(self, config: LatentConfig, text_size: int) -> None:
        super().__init__()
        self.config = config
        self.conditioner = Conditioner(config, text_size)
        self.operator = LatentOperator(config)
        self.number_names: Tensor
        self.register_buffer("number_names", torch.zeros(len(NUMBERS), text_size))

    def forward(self, state: Tensor, lead: Tensor, given: Problems) -> Tensor:
        """States (B, X..., N) -> those `lead` (B,) later, physical units.

        Raises:
            UserError: ``resolution_not_supported``.
        """
        points = tuple(state.shape[1:-1])
        check_points(points, self.config.patches)
        scaled = self._scaled(state, given)
        periodic = given.periodic
        moved, increment = self.operator(
            scaled.fields,
            self._known(scaled, lead, given),
            scaled.static,
            self._place(points, given, state),
            self._condition(scaled, lead, given, points),
            scaled.moving * (1 - torch.exp(-lead * scaled.speed / FULL)),
            lead * scaled.speed,
            periodic,
            given.offset,
            self._carried(given, state),
        )
        mask = given.slots.reshape(len(state), *(1,) * len(points), -1)
        after = scaled.physical((moved + increment) * mask) * mask
        return self._kept(after, state, given)

    def _carried(self, given: Problems, like: Tensor) -> Tensor | None:
        """(B,) one for those whose equation is a flow that carries the fields; None where no one's is."""
        flags = [equation.carried for equation in given.equations]
        return like.new_tensor([float(flag) for flag in flags])[given.which] if any(flags) else None

    def _scaled(self, state: Tensor, given: Problems) -> Scaled:
        scales = [scales_of(equation.scales) for equation in given.equations]
        if len(scales) == 1:
            return scales[0].scaled(state, given.static)
        parts = [(index := (given.which == which).nonzero()[:, 0], each.scaled(state[index], given.static[index]))
                 for which, each in enumerate(scales)]  # fmt: skip
        order = torch.cat([index for index, _ in parts]).argsort()
        whole = {f.name: torch.cat([getattr(part, f.name) for _, part in parts])[order] for f in fields(Scaled)}
        return Scaled(**whole)

    def _known(self, scaled: Scaled, lead: Tensor, given: Problems) -> Tensor:
        """What a few large steps of each equation make of the fields, where it is known; else the fields."""
        found = scaled.fields
        for which, equation in enumerate(given.equations):
            if equation.known == "gas" and all(given.periodic):
                steps: Callable[[Scaled, Tensor, Problems], Tensor] = self._gas
            elif equation.known == "flow" and not any(given.periodic):
                steps = self._flow
            elif equation.known == "waves" and all(given.periodic):
                steps = partial(self._waves, equation)
            else:
                continue
            rows = (given.which == which).nonzero()[:, 0]
            with exact(found):
                found = found.index_put((rows,), steps(scaled.rows(rows), lead[rows], given.rows(rows)))
        return found

    @staticmethod
    def _waves(equation: EquationCard, scaled: Scaled, lead: Tensor, given: Problems) -> Tensor:
        linear = [
            (number, term.order, term.sign) for number, term in enumerate(equation.terms) if term.order is not None
        ]
        numbers, orders, signs = zip(*linear, strict=True)
        shares = given.values[:, list(numbers)] * given.values.new_tensor(signs)
        sources = [number for number, term in enumerate(equation.terms) if term.source]
        source = given.values[:, sources[0], None] * scaled.static[..., 0] if sources else None
        carrying = [number for number, term in enumerate(equation.terms) if term.carries]
        own = given.values[:, carrying[0]] if carrying else None
        after = wave_steps(scaled.fields[..., 0], lead, shares, orders, given.lengths[:, 0], source, own)
        return torch.cat([after[..., None], scaled.fields[..., 1:]], dim=-1)

    def _flow(self, scaled: Scaled, lead: Tensor, given: Problems) -> Tensor:
        own, force = scaled.fields[..., :3].movedim(-1, 1), scaled.static[..., :2].movedim(-1, 1)
        after = flow_steps(own, force, lead * scaled.speed, given.values[:, 1] / scaled.speed)
        return torch.cat([after.movedim(1, -1), scaled.fields[..., 3:]], dim=-1)

    def _gas(self, scaled: Scaled, lead: Tensor, given: Problems) -> Tensor:
        ndim, speed = self.config.ndim, scaled.speed
        slots = [*range(ndim), *GAS_SLOTS]
        unit = torch.cat([scaled.unit[:, :ndim] / speed[:, None], scaled.unit[:, list(GAS_SLOTS)]], dim=1)
        own = (scaled.fields[..., slots] * spread(unit, scaled.fields)).movedim(-1, 1)
        after = gas_steps(own, lead * speed, given.values[:, 1] / speed, given.values[:, 2] / speed, given.lengths)
        out = torch.zeros_like(scaled.fields)
        out[..., slots] = after.movedim(1, -1) / spread(unit, scaled.fields)
        return out

    def _condition(self, scaled: Scaled, lead: Tensor, given: Problems, points: Sequence[int]) -> Tensor:
        """(B, size); everything without dimension."""
        values = torch.where(given.rate > 0, given.values / scaled.speed[:, None], given.values)
        given_numbers = scaled.numbers.clone()
        given_numbers[:, 0], given_numbers[:, 1] = lead * scaled.speed, points[0] / SPACING
        numbers = (self.number_names.expand(len(lead), -1, -1), given_numbers, (given_numbers != 0).to(lead))
        flags = torch.cat([given.sides, given.slots, given.static_slots], dim=1)
        vector: Tensor = self.conditioner((given.names, values, given.present), numbers, flags)
        return vector

    def _kept(self, after: Tensor, before: Tensor, given: Problems) -> Tensor:
        """With what each equation conserves."""
        periodic = given.periodic
        for which, equation in enumerate(given.equations):
            conserved = equation.conserved != "nothing" and all(periodic)
            if not (equation.solenoidal or conserved or equation.extremes):
                continue
            rows = given.which == which
            whole = bool(rows.all())
            part, was = (after, before) if whole else (after[rows], before[rows])
            if equation.solenoidal:
                velocity = part[..., : self.config.ndim].movedim(-1, 1)
                free = (velocity - gradient_part(velocity, periodic)).movedim(1, -1)
                part = torch.cat([free, part[..., self.config.ndim :]], dim=-1)
            if conserved:
                restore = constraints.gas if equation.conserved == "gas" else constraints.means
                part = restore(part, was)
            if equation.extremes:
                part = constraints.between_extremes(part, was, equation.extremes)
            after = part if whole else after.index_put((rows.nonzero()[:, 0],), part)
        return after

    def _place(self, points: Sequence[int], given: Problems, like: Tensor) -> Tensor:
        """(X..., d) coordinates in [-1, 1] along axes with walls, zero along periodic ones."""
        channels = like.new_zeros(*points, self.config.ndim)
        for axis, (n, wraps) in enumerate(zip(points, given.periodic, strict=True)):
            if not wraps:
                x = (torch.arange(n, device=like.device, dtype=like.dtype) + given.offset[axis]) / n * 2 - 1
                channels[..., axis] = x.reshape([-1 if a == axis else 1 for a in range(len(points))])
        return channels


class LeadSystem:
    """The operators of a model by dimension, and what the language model made of the texts that they are told.

    The language model is frozen and the texts are known, so its features are kept in its place.
    """

    def __init__(self, config: LeadConfig, operators: Mapping[int, LeadModel], texts: Mapping[str, Tensor]) -> None:
        """Args: texts: the feature (E,) of every text of `config.texts`."""
        self.config, self.operators = config, dict(operators)
        self.features = {text: texts[text] for text in config.texts}
        for operator in self.operators.values():
            operator.number_names.copy_(torch.stack([texts[name] for name in NUMBERS]))

    def to(self, device: str | torch.device) -> "LeadSystem":
        for operator in self.operators.values():
            operator.to(device)
        self.features = {text: feature.to(device) for text, feature in self.features.items()}
        return self
