"""What native lifting saves: training samples per second of stage 1, a 1-D strip against its broadcast to n x n.

Both sides run the same operator, batch, loss and optimiser (`UPS.advance`, no language model, as in stage 1), in turns
in one process, so that the ratio does not depend on how busy the machine is.

    python benchmarks/lifting.py [--batch 8] [--repeats 5]
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ups_server.data.statistics import FamilyStatistics
from ups_server.model.checkpoint import create
from ups_server.model.conditioning import conditions
from ups_server.model.config import UPS_MINI, KnownFamily
from ups_server.model.context import Context
from ups_server.model.operator import Operator
from ups_server.model.superspace import nrmse
from ups_server.pde import family
from ups_server.processes import keep_freed_memory

GOAL = 20.0


def burgers_card() -> KnownFamily:
    equation = family("burgers")
    one = (1.0,)
    figures = FamilyStatistics(
        family=equation.id,
        fields=("u",),
        dt=equation.dt,
        n=UPS_MINI.resolution,
        trajectories=1,
        mean=(0.0,),
        std=one,
        increment_std=one,
        min=one,
        max=one,
    )
    return KnownFamily(
        dt=equation.dt,
        name=equation.name,
        ndim=1,
        fields=("u",),
        slots=(0,),
        symbols={"nu": "Nu"},
        statistics=figures,
    )


def training_step(model: Operator, context: Context, u: Tensor, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad(set_to_none=True)
    nrmse(model(u, context), u, context.mask).backward()
    optimiser.step()


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = create(UPS_MINI)
    model.use_body = False
    n, equation, count = UPS_MINI.resolution, family("burgers"), options.batch
    strip = torch.nn.functional.pad(torch.randn(count, 1, n), (0, 0, 0, UPS_MINI.superspace.slots - 1))
    physical = strip[:, :1].movedim(1, -1)
    given = conditions(UPS_MINI, burgers_card(), {"nu": [0.01] * count}, equation.boundary, (0.5,), physical)
    square = strip[..., None].expand(-1, -1, -1, n).contiguous()
    with torch.no_grad():
        # A new operator is persistence; random weights let the two results differ if they can.
        for name, parameter in model.named_parameters():
            if name.startswith(("predictor.", "modulation.")):
                parameter.normal_(std=0.05)
        narrow = model.read(strip, given)
        wide = replace(narrow, periodic=(True, True))
        difference = (model(square, wide)[..., 0] - model(strip, narrow)).abs().max().item()
    operator = [p for name, p in model.named_parameters() if name.startswith(("embedder.", "predictor."))]
    optimiser = torch.optim.AdamW(operator, lr=0.0)
    rates: dict[str, list[float]] = {"strip": [], "broadcast": []}
    for _ in range(options.repeats + 1):
        for name, u, context, steps in (("strip", strip, narrow, 10), ("broadcast", square, wide, 1)):
            started = time.perf_counter()
            for _ in range(steps):
                training_step(model, context, u, optimiser)
            rates[name].append(steps * count / (time.perf_counter() - started))
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
    table = Table("1-D state as", "training samples/s", title=f"{UPS_MINI.name}, stage 1, batch {count}, n = {n}")
    table.add_row(f"strip of {n}", f"{medians['strip']:.1f}")
    table.add_row(f"broadcast to {n} x {n}", f"{medians['broadcast']:.2f}")
    ratio = medians["strip"] / medians["broadcast"]
    console = Console()
    console.print(table)
    console.print(f"largest difference of the two results: {difference:.1e}")
    console.print(f"ratio {ratio:.0f}x (goal {GOAL:.0f}x): {'met' if ratio >= GOAL else 'NOT met'}")


if __name__ == "__main__":
    main()
