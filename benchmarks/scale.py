"""What a second engine is worth, and what its death costs; with `--ray`, what a second Ray worker is worth.

Everything stays on two cores: the services, their engines and the clients of this process. One service has an engine on
one of them, the other an engine on each; both are asked in turns, so that what else the machine does slows both alike.

* engines_2_over_1: throughput of two engines over that of one, 16 clients of 2-D rollouts at 128 x 128 (bar 1.5).
* dispatch_2_over_1: the same of the dispatch alone, with engines that take a fixed time and no core (bar 1.9).
* lost_after_kill: asynchronous rollouts that were accepted and never computed, where the busiest engine process of two
  is killed under load (bar 0).
* ray_2_over_1_seconds: see `benchmarks/ray_workers.py` (bar 0.7); null without `--ray`.

    python benchmarks/scale.py [--rounds 3] [--steps 4] [--seconds 30] [--ray] [--json OUT]
"""

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console

from benchmarks.load import load_test
from benchmarks.service import service
from ups_server.engine.devices import DeviceEngines
from ups_server.engine.engine import Engine, Event, Finished, Frame, Health, RolloutSpec, Standing, Started
from ups_server.pde import family
from ups_server.solvers.solver import Frames, Problem
from ups_server.tensors import SAFETENSORS

CLIENTS, N, FAMILY = 16, 128, "shallow_water"
SERVICE_S, ROLLOUTS = 0.25, 3
"""Seconds that an engine of fixed service time takes for a rollout; rollouts of each client."""
BARS = {"engines_2_over_1": 1.5, "dispatch_2_over_1": 1.9, "lost_after_kill": 0, "ray_2_over_1_seconds": 0.7}
AT_MOST = ("lost_after_kill", "ray_2_over_1_seconds")
CONSOLE = Console(width=120)


class FixedTime(Engine):
    """One rollout after another, each in the same time, which it spends asleep."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        pass

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
    ) -> AsyncGenerator[Event]:
        yield Started()
        async with self._turn:
            await asyncio.sleep(SERVICE_S)
        yield Frame(spec.n_steps, initial)
        yield Finished(SERVICE_S)

    def beside(self, model: str) -> bool:
        return False

    def uses(self, model: str) -> bool:
        return False

    def health(self) -> Health:
        return Health("ready", models=("model",))

    async def close(self) -> None:
        pass


async def dispatched(engines: int) -> float:
    """Rollouts a second through the dispatch to so many engines."""
    both = DeviceEngines({f"engine {number}": FixedTime() for number in range(engines)}, 60.0)
    equation = family(FAMILY)
    grid = equation.default_grid(N)
    todo = RolloutSpec("model", Problem(FAMILY, {}, grid, equation.boundary, equation.dt), 1)
    initial = np.zeros((1, *grid.n, len(equation.fields)), np.float32)

    async def client() -> None:
        for _ in range(ROLLOUTS):
            async for _ in both.rollout(todo, initial):
                pass

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return CLIENTS * ROLLOUTS / (time.perf_counter() - began)


async def throughput(url: str, steps: int) -> float:
    """Rollouts a second of all clients, each of which asks once."""

    async def client(http: httpx.AsyncClient, seed: int) -> None:
        document = {
            "model": "ups-mini",
            "family": FAMILY,
            "grid": {"n": [N, N]},
            "initial_condition": {"sample": {"seed": seed}},
            "n_steps": steps,
        }
        answer = await http.post("/v1/rollouts", json=document, headers={"Accept": SAFETENSORS})
        answer.raise_for_status()

    async with httpx.AsyncClient(base_url=url, timeout=1800) as http:
        began = time.perf_counter()
        await asyncio.gather(*(client(http, seed) for seed in range(CLIENTS)))
        return CLIENTS / (time.perf_counter() - began)


def all_ready(url: str, engines: int) -> None:
    """Waits until every engine has the model."""
    while [one["status"] for one in httpx.get(f"{url}/readyz").json()["devices"]] != engines * ["ready"]:
        time.sleep(0.1)


def measure(cores: list[int], rounds: int, steps: int, seconds: float) -> dict[str, Any]:
    one, two = f"cpu:{cores[0]}", f"cpu:{cores[0]},cpu:{cores[1]}"
    found: dict[str, Any] = {"clients": CLIENTS, "points": [N, N], "steps": steps, "rounds": rounds}
    with service(1, devices=one) as (first, _), service(1, devices=two) as (second, pid):
        all_ready(first, 1)
        all_ready(second, 2)
        pairs = []
        for _ in range(rounds + 1):  # the first one loads what every rollout needs, and does not count
            pairs.append((asyncio.run(throughput(first, steps)), asyncio.run(throughput(second, steps))))
            CONSOLE.print("rollouts/s of one engine and of two: " + ", ".join(f"{rate:.3f}" for rate in pairs[-1]))
        ratios = [both / single for single, both in pairs[1:]]
        found["rollouts_per_second"] = [statistics.median(side) for side in zip(*pairs[1:], strict=True)]
        found |= {"engines_2_over_1": statistics.median(ratios), "ratios": ratios}
        load = asyncio.run(load_test(second, CLIENTS, seconds, pid))
    found["lost_after_kill"] = sum(state != "succeeded" for state in load.accepted.values())
    found["load"] = load.record()
    found["dispatch_2_over_1"] = asyncio.run(dispatched(2)) / asyncio.run(dispatched(1))
    return found


def with_ray() -> float | None:
    """None, and a line that says so, where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        CONSOLE.print("Ray is not installed: ray_2_over_1_seconds is left out")
        return None
    from benchmarks.ray_workers import measure as measure_workers

    return float(measure_workers(8)["ray_2_over_1_seconds"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="of each rollout")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load, with the kill in the middle")
    parser.add_argument("--ray", action="store_true", help="Ray workers too")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        CONSOLE.print("two cores are needed")
        return 2
    os.sched_setaffinity(0, cores)
    record = measure(cores, options.rounds, options.steps, options.seconds)
    record["ray_2_over_1_seconds"] = with_ray() if options.ray else None
    met = True
    for name, bar in BARS.items():
        value = record[name]
        if value is None:
            continue
        good = value <= bar if name in AT_MOST else value >= bar
        met = met and good
        CONSOLE.print(
            f"{name}: {value:.3g} (bar {'≤' if name in AT_MOST else '≥'} {bar}): {'met' if good else 'NOT met'}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
