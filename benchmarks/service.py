"""What HTTP costs and what batching gives: a real service under load beside the bare model, in ratios.

The service is `ups serve` in processes of its own; the clients are sockets of this process, which sleeps meanwhile;
the bare loop is the same model in this process with as many threads. Sides are measured in turns and compared pair by
pair, so that the ratios depend little on how busy the machine is; the medians of the pairs are printed.

* http_over_bare: throughput of one client's 200-step rollouts over that of the bare loop (bar 0.95).
* clients16_over_sequential: 16 clients at once over the same requests one after another (bar 0.9 x the next line).
* batch16_over_single_bare: 16 states as one batch of the bare model over one after another.
* p99_short_over_batch_step: p99 of a 1-step request under a full queue of long rollouts, in steps of a full batch of
  the bare model (bar 3).

    python benchmarks/service.py [--quick] [--json OUT]
    python benchmarks/service.py --load [--seconds 60] [--clients 200]    # the bounded load test, with a kill -9
    python benchmarks/service.py --fair [--seconds 90] [--clients 200]    # 40 rollouts of 400 steps, alone and beside

The second form is `benchmarks.load`: no 500, every refusal says when to come back, every accepted request is answered.
The third shows what short and long rollouts get of one service when both come in crowds.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.load import fairness, load_test
from ups_server.catalog import Catalog
from ups_server.rollout.plan import Plan, plan
from ups_server.settings import Settings
from ups_server.solvers.registry import load
from ups_server.solvers.solver import BatchedSession, Solver
from ups_server.specs import RolloutRequest
from ups_server.tensors import SAFETENSORS

CLIENTS = (1, 4, 16, 64)
CONSOLE = Console(width=120)


@dataclass(frozen=True)
class Plans:
    """How much is measured."""

    steps: int
    rounds: int
    shorts: int


QUICK, FULL = Plans(steps=20, rounds=2, shorts=20), Plans(steps=200, rounds=5, shorts=200)


def document(steps: int, seed: int = 0, count: int | None = None) -> dict[str, Any]:
    sample = {"seed": seed} if count is None else {"seed": seed, "count": count}
    return {
        "model": "ups-mini",
        "family": "burgers",
        "coefficients": {"nu": 0.01},
        "grid": {"n": [128]},
        "initial_condition": {"sample": sample},
        "n_steps": steps,
    }


@contextmanager
def service(threads: int, **settings: object) -> Iterator[tuple[str, int]]:
    """Address and process id of `ups serve`, once its model is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {f"UPS_{name.upper()}": str(value) for name, value in settings.items()}
        process = subprocess.Popen(
            [sys.executable, "-m", "ups_server.cli", "serve", "--port", "0", "--data-dir", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "UPS_THREADS": str(threads), "UPS_WORKER": "false", **environment},
        )
        assert process.stdout is not None
        try:
            url = re.findall(r"http://[\d.]+:\d+", process.stdout.readline())[0]
            while not ready(url):
                time.sleep(0.1)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait()


def ready(url: str) -> bool:
    """Does the service answer, with its model loaded?"""
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.ConnectError:  # it says where it will be before it listens
        return False


class Bare:
    """The model without a service: what a loop in a script does."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.catalog, self.settings = Catalog(), Settings()
        self.solver: Solver = load(Path(self.catalog.model("ups-mini").source), "cpu")

    def plan(self, steps: int, seed: int = 0, count: int | None = None) -> Plan:
        request = RolloutRequest.from_json(json.dumps(document(steps, seed, count)))
        return plan(request, self.catalog, self.settings)

    def seconds(self, steps: int, seed: int = 0, count: int | None = None) -> float:
        """Of a rollout, its problem and its answer's array included."""
        started = time.perf_counter()
        todo = self.plan(steps, seed, count)
        session = self.solver.session(todo.spec.problem, todo.initial)
        values = np.empty(todo.shape, dtype=np.float32)
        for step in range(1, steps + 1):
            values[:, step] = session.step()
        return time.perf_counter() - started

    def batch_step(self, rows: int, steps: int = 20) -> float:
        """Seconds of one step of a full batch of rollouts."""
        sessions = []
        for seed in range(rows):
            todo = self.plan(1, seed)
            session = self.solver.session(todo.spec.problem, todo.initial)
            assert isinstance(session, BatchedSession)
            sessions.append(session)
        batch = sessions[0].batch(sessions)
        batch.launch([True] * rows)()
        started = time.perf_counter()
        for _ in range(steps):
            batch.launch([True] * rows)()
        return (time.perf_counter() - started) / steps


class Clients:
    """Clients of a service, each with a connection of its own."""

    def __init__(self, url: str) -> None:
        # Shorter than the service keeps them, or a request could meet a connection that is being closed.
        limits = httpx.Limits(max_connections=None, keepalive_expiry=1.0)
        self.http = httpx.AsyncClient(base_url=url, timeout=600, limits=limits)

    async def rollout(self, steps: int, seed: int = 0) -> float:
        """Seconds until the whole answer is there."""
        started = time.perf_counter()
        answer = await self.http.post("/v1/rollouts", json=document(steps, seed), headers={"Accept": SAFETENSORS})
        answer.raise_for_status()
        return time.perf_counter() - started

    async def first_frame(self, steps: int) -> float:
        """Seconds until the first computed state of a stream is there."""
        started = time.perf_counter()
        headers = {"Accept": "text/event-stream"}
        async with self.http.stream("POST", "/v1/rollouts", json=document(steps), headers=headers) as answer:
            async for line in answer.aiter_lines():
                if line.startswith('data:{"index":1,') or line.startswith('data: {"index":1,'):
                    return time.perf_counter() - started
        raise RuntimeError("the stream ended before its first state")

    async def together(self, clients: int, steps: int) -> tuple[float, list[float]]:
        """(seconds until all have their answer, seconds of each)."""
        started = time.perf_counter()
        latencies = await asyncio.gather(*(self.rollout(steps, seed) for seed in range(clients)))
        return time.perf_counter() - started, list(latencies)

    async def one_after_another(self, clients: int, steps: int) -> float:
        started = time.perf_counter()
        for seed in range(clients):
            await self.rollout(steps, seed)
        return time.perf_counter() - started


async def pairs(rounds: int, first: Callable[[], Awaitable[float]], second: Callable[[], float]) -> float:
    """Median over the rounds of first / second, measured one beside the other, once unmeasured before."""
    ratios = []
    for _ in range(rounds + 1):
        ratios.append(await first() / second())
    return statistics.median(ratios[1:])


async def shorts_under_load(clients: Clients, amount: Plans, bare: Bare, rows: int) -> tuple[float, float]:
    """(p99 of 1-step requests while the engine is full of long rollouts, median seconds of a full batch step).

    The bare steps are made between the requests, under the same load.
    """
    long = [asyncio.create_task(clients.rollout(100_000, seed)) for seed in range(Settings().max_active)]
    try:
        while int((await clients.http.get("/readyz")).json()["active"]) < Settings().max_active:
            await asyncio.sleep(0.05)
        latencies, steps = [], []
        for seed in range(amount.shorts):
            latencies.append(await clients.rollout(1, seed))
            steps.append(await asyncio.to_thread(bare.batch_step, rows, 1))
    finally:
        for task in long:
            task.cancel()
        await asyncio.gather(*long, return_exceptions=True)
    return float(np.percentile(latencies, 99)), statistics.median(steps)


async def measure(url: str, amount: Plans, threads: int) -> dict[str, float]:
    bare, clients, rows = Bare(threads), Clients(url), Settings().max_batch_rows
    steps = amount.steps
    record: dict[str, float] = {"steps": steps, "threads": threads}
    record["http_over_bare"] = 1 / await pairs(
        amount.rounds, lambda: clients.rollout(steps), lambda: bare.seconds(steps)
    )
    efficiencies, speedups = [], []
    for _ in range(amount.rounds + 1):
        singles = sum(bare.seconds(steps, seed) for seed in range(16))
        efficiencies.append(singles / bare.seconds(steps, count=16))
        sequential = await clients.one_after_another(16, steps)
        speedups.append(sequential / (await clients.together(16, steps))[0])
    record["batch16_over_single_bare"] = statistics.median(efficiencies[1:])
    record["clients16_over_sequential"] = statistics.median(speedups[1:])

    table = Table("clients", "rollouts/s", "steps/s", "p50, s", "p99, s", title=f"{steps}-step rollouts, 128 points")
    for count in CLIENTS:
        seconds, latencies = await clients.together(count, steps)
        p50, p99 = np.percentile(latencies, [50, 99])
        table.add_row(
            str(count), f"{count / seconds:.2f}", f"{count * steps / seconds:.0f}", f"{p50:.2f}", f"{p99:.2f}"
        )
        record |= {f"throughput_{count}": count / seconds, f"p50_{count}": p50, f"p99_{count}": p99}
    CONSOLE.print(table)
    step = bare.seconds(steps) / steps
    first = statistics.median([await clients.first_frame(steps) for _ in range(2 * amount.rounds)])
    record |= {"first_frame_s": first, "bare_step_s": step}
    short, full = await shorts_under_load(clients, amount, bare, rows)
    record |= {"p99_short_s": short, "batch_step_s": full, "p99_short_over_batch_step": short / full}
    await clients.http.aclose()
    return record


def verdict(record: dict[str, float]) -> None:
    efficiency = record["batch16_over_single_bare"]
    lines = (
        ("http_over_bare", record["http_over_bare"], 0.95, True),
        ("clients16_over_sequential", record["clients16_over_sequential"], 0.9 * efficiency, True),
        ("p99_short_over_batch_step", record["p99_short_over_batch_step"], 3.0, False),
    )
    table = Table("figure", "measured", "bar", "met")
    for name, value, bar, least in lines:
        met = value >= bar if least else value <= bar
        table.add_row(name, f"{value:.3f}", f"{'≥' if least else '≤'} {bar:.3f}", "yes" if met else "NO")
    table.add_row("batch16_over_single_bare", f"{efficiency:.3f}", "", "")
    CONSOLE.print(table)
    CONSOLE.print(
        f"first frame after {1e3 * record['first_frame_s']:.0f} ms; bare step {1e3 * record['bare_step_s']:.2f} ms; "
        f"step of a full batch {1e3 * record['batch_step_s']:.1f} ms; "
        f"a 1-step request under it {1e3 * record['p99_short_s']:.0f} ms at p99"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="shorter rollouts, fewer repeats")
    parser.add_argument("--rounds", type=int, help="of pairs, where not as many as planned")
    parser.add_argument("--threads", type=int, default=1, help="of the model, on both sides")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--load", action="store_true", help="the load test instead")
    parser.add_argument("--fair", action="store_true", help="the shares of short and long rollouts instead")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=200)
    options = parser.parse_args()
    with service(options.threads, max_steps=10**6, max_points=2**31) as (url, pid):
        if options.fair:
            alone = asyncio.run(fairness(url, 0, 40, 400, options.seconds / 2))
            beside = asyncio.run(fairness(url, options.clients, 40, 400, options.seconds))
            record: dict[str, Any] = {"alone": alone.record(), "beside_shorts": beside.record()}
            record["long_share"] = beside.long_steps / beside.lasted_s / (alone.long_steps / alone.lasted_s)
            CONSOLE.print(record)
        elif options.load:
            found = asyncio.run(load_test(url, options.clients, options.seconds, pid))
            record = found.record()
            CONSOLE.print(record)
            CONSOLE.print("load: " + ("; ".join(found.faults()) or "no fault"))
        else:
            plans = QUICK if options.quick else FULL
            plans = replace(plans, rounds=options.rounds or plans.rounds)
            record = asyncio.run(measure(url, plans, options.threads))
            verdict(record)
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
