"""Our spectral layer against neuraloperator's, in the whole training step of the operator on a 1-D strip.

Both models hold the same weights, without joint modes, and give the same result; they take turns in one process. A step
is forward, backward and the optimiser's update as the trainer makes it.

    python benchmarks/spectral_layer.py [--repeats 9]
"""

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from neuralop.layers.spectral_convolution import SpectralConv as NeuralopConv
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.lifting import burgers_card, training_step
from ups_server.model.checkpoint import create
from ups_server.model.conditioning import conditions
from ups_server.model.config import UPS_MINI
from ups_server.model.context import Context
from ups_server.model.embedder import SpectralConv
from ups_server.model.operator import Operator
from ups_server.pde import family
from ups_server.processes import keep_freed_memory


class NeuralopAxes(nn.Module):
    """neuraloperator's layer along each axis in the place of ours; a missing axis contributes its zero mode."""

    def __init__(self, ours: SpectralConv) -> None:
        super().__init__()
        modes, channels, *_ = ours.weights[0].shape
        # Its n_modes counts both signs of the wave number; an odd count keeps modes 0 … (count - 1) / 2.
        self.layers: list[Any] = [NeuralopConv(channels, channels, (2 * modes - 1,), bias=False) for _ in ours.weights]
        self.registered = nn.ModuleList(self.layers)
        with torch.no_grad():
            for layer, weight in zip(self.layers, ours.weights, strict=True):
                spectral = torch.view_as_complex(weight.detach().movedim(2, -1).contiguous())
                layer.weight.tensor.copy_(spectral.permute(1, 2, 0))

    def forward(self, x: Tensor, limits: tuple[int, ...]) -> Tensor:
        """Args: limits: beyond the modes there are on the grid that is timed."""
        out = torch.zeros_like(x)
        for axis, layer in enumerate(self.layers, start=1):
            if axis < x.ndim - 1:
                rows = x.movedim(axis, -1)
                moved = layer(rows.reshape(-1, *rows.shape[-2:])).reshape(rows.shape)
                out = out + moved.movedim(-1, axis)
            else:
                out = out + x @ layer.weight.tensor[..., 0].real
        return out


@dataclass(frozen=True)
class Side:
    """One of the two models, ready to train on `u`."""

    model: Operator
    context: Context
    optimiser: torch.optim.Optimizer


def prepare(model: Operator, u: Tensor, periodic: tuple[bool, ...]) -> Side:
    model.use_body = False
    physical = u[:, :1].movedim(1, -1)
    given = conditions(UPS_MINI, burgers_card(), {"nu": [0.01] * len(u)}, family("burgers").boundary, (0.5,), physical)
    trained = [p for name, p in model.named_parameters() if name.startswith(("embedder.", "predictor."))]
    # As the trainer does; PyTorch has no fused update for complex weights.
    fused = not any(p.is_complex() for p in trained)
    with torch.no_grad():
        context = replace(model.read(u, given), periodic=periodic)
    return Side(model, context, torch.optim.AdamW(trained, lr=0.0, fused=fused))


def seconds(sides: dict[str, Side], u: Tensor, steps: int, repeats: int) -> dict[str, float]:
    """Median seconds of a training step, the sides in turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            for _ in range(steps):
                training_step(side.model, side.context, u, side.optimiser)
            times[name].append((time.perf_counter() - started) / steps)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    # neuraloperator has no layer of few joint modes beside many along the axes.
    config = UPS_MINI.changed(joint_modes=0)
    ours = create(config)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.startswith("predictor."):
                parameter.normal_(std=0.05)
    theirs = create(config)
    theirs.load_state_dict(ours.state_dict())
    for layer in theirs.get_submodule("embedder.layers").children():
        layer.add_module("spectral", NeuralopAxes(cast(SpectralConv, layer.get_submodule("spectral"))))
    n, slots = UPS_MINI.resolution, UPS_MINI.superspace.slots
    table = Table("state", "batch", "ours, ms", "neuraloperator, ms", "ratio", "difference", title="training step")
    ratios = []
    for batch, shape, steps in ((48, (n,), 4), (2, (n, n), 1)):
        u = torch.randn(batch, slots, *shape)
        periodic = (True,) * len(shape)
        sides = {name: prepare(model, u, periodic) for name, model in (("ours", ours), ("neuraloperator", theirs))}
        with torch.no_grad():
            first, second = (side.model(u, side.context) for side in sides.values())
        medians = seconds(sides, u, steps, options.repeats)
        ratios.append(medians["neuraloperator"] / medians["ours"])
        figures = [f"{1000 * medians[name]:.0f}" for name in sides]
        difference = f"{(first - second).abs().max().item():.0e}"
        table.add_row(" x ".join(map(str, shape)), str(batch), *figures, f"{ratios[-1]:.2f}", difference)
    console = Console()
    console.print(table)
    console.print("the whole step with neuraloperator's layer over ours: " + ", ".join(f"{r:.2f}x" for r in ratios))


if __name__ == "__main__":
    main()
