"""Baselines without a language model, behind the interface of the models: FNO and U-Net.

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
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_server.model.conditioning import KINDS, VALUE_FEATURES, Conditions, shown, value_features
from ups_server.model.config import UPSConfig
from ups_server.model.context import Context
from ups_server.model.superspace import coordinates
from ups_server.model.unet import UNet
from ups_server.model.ups import Operator


class ChannelOperator(Operator):
    """An operator that is told its conditions as constant input channels."""

    def __init__(self, config: UPSConfig) -> None:
        super().__init__(config)
        cards = config.families.values()
        self.symbols = tuple(dict.fromkeys(symbol for card in cards for symbol in card.symbols.values()))
        self.names = tuple(card.name for card in cards)
        constants = len(self.symbols) * VALUE_FEATURES + len(self.names)
        constants += config.max_dimensions * 2 * len(KINDS) + config.slots
        inputs = config.slots + config.static_slots + config.max_dimensions + constants
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
        given = shown(given, self.config.metadata)
        rows = {"mask": given.mask, "increment": given.increment, "constants": self._constants(given)}
        if given.static is not None:
            rows["static"] = given.static
        return Context(rows, given.periodic, given.offset, given.trained)

    def _constants(self, given: Conditions) -> Tensor:
        batch = len(given.mask)
        numbers = given.mask.new_zeros(batch, len(self.symbols), VALUE_FEATURES)
        for column, symbol in enumerate(given.coefficient_names):
            numbers[:, self.symbols.index(symbol)] = value_features(given.coefficients[:, column])
        flags = [[float(name == known) for known in self.names] for name in given.names]
        family = given.mask.new_tensor(flags).reshape(batch, len(self.names))
        return torch.cat([numbers.flatten(1), family, given.boundary, given.mask], dim=1)

    def forward(self, u: Tensor, context: Context) -> Tensor:
        points = tuple(u.shape[2:])
        spread = (..., *(None,) * len(points))
        static = u.new_zeros(u.shape[0], self.config.static_slots, *points)
        if "static" in context.rows:
            static[:, : context["static"].shape[1]] = context["static"]
        place = coordinates(points, context.periodic, context.offset, self.config.max_dimensions, u)
        constants = context["constants"][spread].expand(-1, -1, *points)
        inputs = torch.cat([u, static, place.expand(u.shape[0], *place.shape), constants], dim=1)
        step = self._predict(self.networks[str(len(points))], inputs, context.periodic)
        if self.config.increment:
            step = u + step * context["increment"][spread]
        return step * context["mask"][spread]


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
            n_modes=(2 * self.config.n_modes,) * ndim,
            in_channels=inputs,
            out_channels=self.config.slots,
            hidden_channels=self.config.hidden_channels,
            n_layers=self.config.n_layers,
            positional_embedding=None,
        )
        return network

    def _predict(self, network: nn.Module, inputs: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        points = inputs.shape[2:]
        extra = [0 if wraps else round(n * self.config.padding) for n, wraps in zip(points, periodic, strict=True)]
        padding = [cells for high in reversed(extra) for cells in (0, high)]
        step: Tensor = network(F.pad(inputs, padding))[(..., *(slice(n) for n in points))]
        return step


@final
class UNetBaseline(ChannelOperator):
    """A plain U-Net of `n_layers` levels, convolutions padded by the boundary: circular or by the edge's value."""

    def _network(self, inputs: int, ndim: int) -> nn.Module:
        return UNet(inputs, self.config.slots, self.config.hidden_channels, self.config.n_layers, ndim)

    def _predict(self, network: nn.Module, inputs: Tensor, periodic: tuple[bool, ...]) -> Tensor:
        step: Tensor = network(inputs, periodic)
        return step


BASELINES: dict[str, Callable[[UPSConfig], Operator]] = {"fno": FNOBaseline, "unet": UNetBaseline}
"""The operators without a language model, by the config's `operator`."""
