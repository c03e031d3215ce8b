"""Do rollouts stay bounded? Random requests of a hundred calls, as the service answers them.

Coefficients are drawn in the ranges that the card of the family's default model states, each on its own and
logarithmically where they are positive; states are of the family's own distribution. A call of a model of lead times is
its usual one. A state ends where it is not finite or leaves the physical bounds of its family, as in any answer.
`energy` is the largest mean square of a field beside the largest of the initial state. Equations in symbols are left
out: many of them grow without bound, as their solutions do.

    python -m benchmarks.long_rollouts [FAMILY ...] [--share 0.1] [--json OUT]
"""

import argparse
import asyncio
import json
import math
import tempfile
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ups_server.catalog import Catalog, FamilySupport
from ups_server.engine.engine import Frame
from ups_server.engine.local import InProcess
from ups_server.model.lead_config import LeadConfig
from ups_server.pde import family
from ups_server.rollout.plan import plan
from ups_server.settings import Settings
from ups_server.solvers.limits import Ended
from ups_server.specs import RolloutRequest

SEED = 8_400_001
CALLS = 100


@dataclass(frozen=True)
class Requests:
    """Attributes: count: different coefficients. states: of each. points: an axis, by turns."""

    count: int
    states: int
    points: tuple[int, ...]


CASES = {
    "advection": Requests(25, 8, (64, 128)),
    "burgers": Requests(25, 8, (64, 128)),
    "diffusion_sorption": Requests(25, 8, (64, 128)),
    "compressible_ns_1d": Requests(32, 4, (64, 128)),
    "shallow_water": Requests(25, 8, (32, 64)),
    "compressible_ns_2d": Requests(48, 1, (32, 48, 64)),
    "incompressible_ns_2d": Requests(48, 1, (32, 48, 64)),
}


def drawn(rng: np.random.Generator, support: FamilySupport) -> dict[str, float]:
    """Coefficients in their trained ranges."""
    found = {}
    for name, known in support.coefficients.items():
        if known.low is None or known.high is None:
            raise ValueError(f"the range of {name} has no end")
        value = rng.uniform(known.low, known.high)
        if known.low > 0:
            value = math.exp(rng.uniform(math.log(known.low), math.log(known.high)))
        found[name] = min(max(value, known.low), known.high)
    return found


def steps_a_call(folder: Path, family_id: str, dt: float) -> int:
    """Steps of dt that the model's usual call takes."""
    config = folder / "config.json"
    if "ups-lead" not in config.read_text():
        return 1
    return max(1, round(LeadConfig.model_validate_json(config.read_text()).families[family_id].call / dt))


async def answered(request: RolloutRequest, catalog: Catalog, settings: Settings) -> tuple[list[Ended], float]:
    """The states that ended, and how the largest mean square of a field grew at most."""
    todo = plan(request, catalog, settings)
    axes = tuple(range(1, todo.initial.ndim - 1))
    first = (todo.initial.astype(np.float64) ** 2).mean(axes)
    ended, most = [], 0.0
    async with aclosing(InProcess("cpu").rollout(todo.spec, todo.initial, todo.static)) as events:
        async for event in events:
            if isinstance(event, Frame):
                grown = (event.values.astype(np.float64) ** 2).mean(axes) / np.maximum(first, first.max() * 1e-3)
                most = max(most, float(np.nanmax(grown)))
            elif isinstance(event, Ended):
                ended.append(event)
    return ended, most


def measured(family_id: str, wanted: Requests, catalog: Catalog, settings: Settings) -> dict[str, Any]:
    entry, rng = family(family_id), np.random.default_rng([SEED, len(family_id)])
    card = catalog.model(catalog.default(settings.default_model, family_id))
    support = card.support(family_id)
    per_call = steps_a_call(Path(card.source), family_id, support.dt)
    most, ended_rows, began = 0.0, 0, time.process_time()
    endings: list[dict[str, Any]] = []
    for number in range(wanted.count):
        coefficients = drawn(rng, support)
        document = {
            "family": family_id, "model": card.id, "coefficients": coefficients,
            "grid": {"n": [wanted.points[number % len(wanted.points)]] * entry.ndim},
            "initial_condition": {"sample": {"seed": SEED + number, "count": wanted.states}},
            "n_steps": CALLS * per_call, "save_every": per_call,
        }  # fmt: skip
        ended, grown = asyncio.run(answered(RolloutRequest.from_json(json.dumps(document)), catalog, settings))
        most, ended_rows = max(most, grown), ended_rows + sum(len(event.states) for event in ended)
        endings += [
            {"request": document, "states": list(event.states), "step": event.step, "reason": event.words}
            for event in ended
        ]
    rows = wanted.count * wanted.states
    return {
        "family": family_id, "model": card.id, "requests": rows, "coefficients": wanted.count, "calls": CALLS,
        "time": CALLS * per_call * support.dt, "ended": ended_rows,
        "energy": most, "seconds": time.process_time() - began, "endings": endings,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--share", type=float, default=1.0, help="of the requests of each family")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), max_steps=10**6, max_points=10**9)
        catalog = Catalog(settings.data_dir)
        for family_id in given.families or CASES:
            case = CASES[family_id]
            some = Requests(max(1, round(case.count * given.share)), case.states, case.points)
            row = measured(family_id, some, catalog, settings)
            print({name: value for name, value in row.items() if name != "endings"}, flush=True)
            rows = [*(each for each in rows if each["family"] != family_id), row]
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
