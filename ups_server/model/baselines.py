"""What our operator is compared with, behind the same interface: FNO and U-Net, which have no language model.

Everything they know enters as input channels, the same information that the conditioned operator reads. After the N
fields, the static fields and the coordinates come constant channels:

* per coefficient symbol of any family of the config, `value_features` of its value (11 channels; zero where a family
  has no such coefficient),
* one-hot the family, by its place in the config; one-hot the boundary kind of each side; the mask of the slots.

A network serves all families of one number of dimensions; families of another number have their own. Output is the
absolute next state, as in PDEBench, or with `increment` the change in units of the family's increment.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_server.model.conditioning import KINDS, VALUE_FEATURES, Conditions, value_features, with_metadata
from ups_server.model.config import UPSConfig
from ups_server.model.context import Coefficients, Context
from ups_server.model.operator import Operator
from ups_server.model.superspace import given_channels

GROUP = 8
"""Channels that are normalised together: several, so that channels constant in space are not normalised away."""


@dataclass(frozen=True)
class Constants(Coefficients):
    """Values (B, K) of the constant channels."""

    values: Tensor


class ChannelOperator(Operator):
    """An operator that is given its conditions as constant input channels."""

    def __init__(self, config: UPSConfig) -> None:
        super().__init__(config)
        cards = config.families.values()
        self.symbols = tuple(dict.fromkeys(symbol for card in cards for symbol in card.symbols.values()))
        self.names = tuple(card.name for card in cards)
        constants = len(self.symbols) * VALUE_FEATURES + len(self.names)
        space = config.superspace
        constants += space.max_dimensions * 2 * len(KINDS) + space.slots
        inputs = space.slots + space.static_slots + space.max_dimensions + constants
        self.networks = nn.ModuleDict(
            {str(ndim): self._network(inputs, ndim) for ndim in sorted({ndim for _, ndim in config.grids})}
        )

    @abstractmethod
    def _network(self, inputs: int, ndim: int) -> nn.Module:
        """(B, inputs, X...) -> (B, slots, X...)."""

    @abstractmethod
    def _predict(self, network: nn.Module, inputs: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        """The network's answer on a box with these boundaries."""

    @final
    def read(self, initial: Tensor, given: Conditions) -> Context:
        """The state is not read: a baseline sees one frame at a time."""
        given = with_metadata(given, self.config.conditioner.metadata)
        return replace(given.context(), coefficients=Constants(self._constants(given)))

    def _constants(self, given: Conditions) -> Tensor:
        batch = len(given.mask)
        numbers = given.mask.new_zeros(batch, len(self.symbols), VALUE_FEATURES)
        for column, symbol in enumerate(given.coefficient_names):
            numbers[:, self.symbols.index(symbol)] = value_features(given.coefficients[:, column])
        flags = [[float(name == known) for known in self.names] for name in given.names]
        family = given.mask.new_tensor(flags).reshape(batch, len(self.names))
        return torch.cat([numbers.flatten(1), family, given.boundary, given.mask], dim=1)

    def forward(self, u: Tensor, context: Context) -> Tensor:
        if not isinstance(context.coefficients, Constants) or context.increment is None:
            raise TypeError("the context was read by another operator")
        points = tuple(u.shape[2:])
        spread = (..., *(None,) * len(points))
        constants = context.coefficients.values[spread].expand(-1, -1, *points)
        inputs = torch.cat([*given_channels(u, context, self.config.superspace), constants], dim=1)
        step = self._predict(self.networks[str(len(points))], inputs, context.periodic)
        if self.config.step.increment:
            step = u + step * context.increment[spread]
        return step * context.mask[spread]


@final
class FNOBaseline(ChannelOperator):
    """neuraloperator's FNO (Li et al. 2021). Along an axis that is not periodic the input is padded with zeros."""

    def _network(self, inputs: int, ndim: int) -> nn.Module:
        from neuralop.models import FNO

        class PlainFNO(FNO):  # type: ignore[misc]
            """Without neuralop's own metadata among the weights, of which a model may hold only one set."""

            def state_dict(self, *positional: Any, **named: Any) -> dict[str, Any]:
                weights: dict[str, Any] = nn.Module.state_dict(self, *positional, **named)
                return weights

        network: nn.Module = PlainFNO(
            n_modes=(2 * self.config.embedder.n_modes,) * ndim,
            in_channels=inputs,
            out_channels=self.config.superspace.slots,
            hidden_channels=self.config.embedder.hidden_channels,
            n_layers=self.config.embedder.n_layers,
            positional_embedding=None,
        )
        return network

    def _predict(self, network: nn.Module, inputs: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        points = inputs.shape[2:]
        share = self.config.embedder.padding
        extra = [0 if wraps else round(n * share) for n, wraps in zip(points, periodic, strict=True)]
        padding = [cells for high in reversed(extra) for cells in (0, high)]
        step: Tensor = network(F.pad(inputs, padding))[(..., *(slice(n) for n in points))]
        return step


@final
class UNetBaseline(ChannelOperator):
    """A plain U-Net of `n_layers` levels, convolutions padded by the boundary: circular or by the edge's value."""

    def _network(self, inputs: int, ndim: int) -> nn.Module:
        layers = self.config.embedder
        return UNet(inputs, self.config.superspace.slots, layers.hidden_channels, layers.n_layers, ndim)

    def _predict(self, network: nn.Module, inputs: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        step: Tensor = network(inputs, periodic)
        return step


@final
class UNet(nn.Module):
    """`levels` resolutions, halved by averaging on the way down, skips on the way up; channels double per level.

    Any grid: an odd axis is halved downwards, and interpolated to the size of its skip on the way up.

    Shapes:
        x: (B, I, X...) -> (B, O, X...), with at least ``2 ** (levels - 1)`` points an axis.
    """

    def __init__(self, inputs: int, outputs: int, channels: int, levels: int, ndim: int) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            Block(i, o, ndim) for i, o in zip([inputs, *widths[:-1]], widths, strict=True)
        )  # fmt: skip
        self.up = nn.ModuleList(Block(deep + skip, skip, ndim) for skip, deep in pairwise(widths))
        self.head = (nn.Conv1d if ndim == 1 else nn.Conv2d)(channels, outputs, 1)
        self._halve = F.avg_pool1d if ndim == 1 else F.avg_pool2d

    def forward(self, x: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        """Args: periodic: per axis, which decides how the convolutions continue the field beyond the box."""
        skips: list[Tensor] = []
        for block in self.down:
            x = block(self._halve(x, 2) if skips else x, periodic)
            skips.append(x)
        for block, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            x = block(torch.cat([F.interpolate(x, skip.shape[2:]), skip], dim=1), periodic)
        out: Tensor = self.head(x)
        return out


@final
class Block(nn.Module):
    """Two 3-point convolutions, each with group normalisation and GELU: (B, I, X...) -> (B, O, X...).

    A linear shortcut around them carries the amplitude of the input, which the normalisation takes away.
    """

    def __init__(self, inputs: int, outputs: int, ndim: int) -> None:
        super().__init__()
        convolution = nn.Conv1d if ndim == 1 else nn.Conv2d
        self.first = convolution(inputs, outputs, 3)
        self.second = convolution(outputs, outputs, 3)
        self.shortcut = convolution(inputs, outputs, 1)
        groups = max(1, outputs // GROUP)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, outputs) for _ in range(2))

    def forward(self, x: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        around: Tensor = self.shortcut(x)
        for convolution, norm in zip((self.first, self.second), self.norms, strict=True):
            x = F.gelu(norm(convolution(padded(x, periodic))))
        return around + x


def padded(x: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """One cell on both sides of every axis: the other side's where it is periodic, else the edge's own."""
    for axis, wraps in enumerate(periodic, start=2):
        n = x.shape[axis]
        low, high = (n - 1, 0) if wraps else (0, n - 1)
        x = torch.cat([x.narrow(axis, low, 1), x, x.narrow(axis, high, 1)], dim=axis)
    return x


BASELINES: dict[str, Callable[[UPSConfig], Operator]] = {"fno": FNOBaseline, "unet": UNetBaseline}
"""The operators without a language model, by the config's `operator`."""
