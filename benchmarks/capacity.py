"""A thousand clients on 1 to 64 engines: simulated with service times that are measured, and held against a real run.

Measured here, in seconds of one core (CPU time, so that what else the machine does counts little): a step of batches of
1 to 32 rollouts of `ups-mini`, and what the API process spends on a request and on each frame of its answer. Simulated:
clients that ask, read and pause; API processes, one request after another; engines, whose active rollouts share steps;
refusals and repetitions as the service has them. What the simulation leaves out: the network, the first step that
newcomers make on their own, memory.

Held against a real run: an API process with engines of a fixed service time, which take no core.

    python -m benchmarks.capacity --json benchmarks/capacity.json              # measures and simulates, some minutes
    python -m benchmarks.capacity --json benchmarks/capacity.json --simulate   # with what the file has measured
    python -m benchmarks.capacity --json benchmarks/capacity.json --page docs/scale.md    # the tables of the page
"""

import argparse
import asyncio
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import simpy
from rich.console import Console

from ups_server.tensors import SAFETENSORS

CONSOLE = Console(width=120)
REPOSITORY = Path(__file__).resolve().parent.parent
ROWS = (1, 4, 8, 32)
"""Rollouts in a measured step."""
ENGINES_AND_SITES = ((1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (32, 1), (64, 1), (8, 2), (16, 2), (64, 2), (64, 4))
"""Engines, and the API processes that share them and the clients."""
CLIENTS, PAUSE_S = 1000, 10.0
WORKLOADS: dict[str, dict[str, Any]] = {
    "line": {"family": "burgers", "coefficients": {"nu": 0.01}, "grid": {"n": [128]}, "n_steps": 20},
}
"""Rollouts of `ups-mini` whose every step is in the answer, which is safetensors."""
FIXED_S, FIXED_STEPS, FIXED_CLIENTS, FIXED_ENGINES = 0.1, 4, 32, (1, 2, 4, 8)
"""Of the real run: seconds of a rollout, its steps, clients without a pause, engines."""


@dataclass(frozen=True)
class Costs:
    """Service times in seconds.

    Attributes:
        request_s, frame_s: of the API process, for a request and for each frame of an answer.
        refusal_s: of the API process, for a request that is refused.
        step_s: of an engine, by rollouts in the batch; between those that are listed, in proportion.
    """

    request_s: float
    frame_s: float
    refusal_s: float
    step_s: Mapping[int, float]

    def step(self, rows: int) -> float:
        sizes = sorted(self.step_s)
        return float(np.interp(rows, sizes, [self.step_s[size] for size in sizes]))


@dataclass(frozen=True)
class Scenario:
    """What is simulated; `most_rows`, `active`, `queued`, `retry_s` as the settings of the service have them.

    Attributes:
        pause_s: mean of the exponential pause of a client between an answer and its next request; 0: none.
        engines: of all sites together.
        sites: API processes, each with its share of engines; requests go to them by turns.
        steps: of a rollout, each of which is a frame.
    """

    clients: int
    pause_s: float
    engines: int
    sites: int
    steps: int
    most_rows: int = 32
    active: int = 64
    queued: int = 64
    retry_s: float = 2.0


@dataclass
class Outcome:
    """What came of it, after the warm-up. Latencies are from the first asking to the answer, refusals included."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    refusals: int = 0
    api_s: float = 0.0
    engine_s: float = 0.0

    def record(self, scenario: Scenario) -> dict[str, Any]:
        rate = len(self.latencies) / self.seconds
        median, last = np.percentile(self.latencies, [50, 99]).tolist()
        cores = scenario.engines + scenario.sites
        return {
            "engines": scenario.engines,
            "sites": scenario.sites,
            "per_second": round(rate, 2),
            "p50_s": round(median, 3),
            "p99_s": round(last, 3),
            "refusals_per_answer": round(self.refusals / len(self.latencies), 3),
            "api_busy": round(self.api_s / self.seconds / scenario.sites, 3),
            "engines_busy": round(self.engine_s / self.seconds / scenario.engines, 3),
            "core_hours_per_1000": round(cores * 1000 / rate / 3600, 3),
        }


Process = Generator[simpy.Event, Any, None]
Service = Callable[[float], float]
"""Draws a service time, given its mean."""


class SimulatedEngine:
    """Active rollouts make steps together, `most_rows` at a time by turns; others wait for a place.

    Attributes:
        left: steps of all of them.
    """

    def __init__(self, env: simpy.Environment, scenario: Scenario, costs: Costs, outcome: Outcome) -> None:
        self._env, self._scenario, self._costs, self._outcome = env, scenario, costs, outcome
        self._active: deque[tuple[list[int], simpy.Event]] = deque()
        self._waiting: deque[tuple[list[int], simpy.Event]] = deque()
        self.left = 0
        self._woken = env.event()
        env.process(self._work())

    @property
    def full(self) -> bool:
        return len(self._active) >= self._scenario.active and len(self._waiting) >= self._scenario.queued

    def begin(self) -> simpy.Event:
        """A rollout; the event of its end."""
        done = self._env.event()
        place = self._active if len(self._active) < self._scenario.active else self._waiting
        place.append(([self._scenario.steps], done))
        self.left += self._scenario.steps
        if not self._woken.triggered:
            self._woken.succeed()
        return done

    def _work(self) -> Process:
        while True:
            if not self._active:
                self._woken = self._env.event()
                yield self._woken
            batch = [self._active.popleft() for _ in range(min(len(self._active), self._scenario.most_rows))]
            seconds = self._costs.step(len(batch))
            self.left -= len(batch)
            for left, _ in batch:
                left[0] -= 1
            going_on = [(left, done) for left, done in batch if left[0]]
            self._active.extend(going_on)
            yield self._env.timeout(seconds)
            self._outcome.engine_s += seconds
            for left, done in batch:
                if not left[0]:
                    done.succeed()
            while self._waiting and len(self._active) < self._scenario.active:
                self._active.append(self._waiting.popleft())


@dataclass
class Site:
    """An API process and its engines."""

    api: simpy.Resource
    engines: list[SimulatedEngine]


def simulate(
    scenario: Scenario, costs: Costs, seconds: float, warm_s: float, seed: int = 0, api_time: Service | None = None
) -> Outcome:
    """Runs for `warm_s`, and then counts for so many seconds.

    Args:
        api_time: draws the time of the API process from its mean; by default it is the mean.
    """
    env, chance, outcome = simpy.Environment(), random.Random(seed), Outcome(seconds)
    time_of = api_time or (lambda mean: mean)
    share = scenario.engines // scenario.sites
    sites = [
        Site(simpy.Resource(env), [SimulatedEngine(env, scenario, costs, outcome) for _ in range(share)])
        for _ in range(scenario.sites)
    ]

    def api(site: Site, mean: float) -> Process:
        if not mean:
            return
        with site.api.request() as turn:
            yield turn
            spent = time_of(mean)
            yield env.timeout(spent)
            outcome.api_s += spent

    def asked(number: int) -> Process:
        """One rollout, repeated until it is not refused."""
        began, tries = env.now, 0
        while True:
            site = sites[(number + tries) % len(sites)]
            engine = min(site.engines, key=lambda one: one.left)
            if not engine.full:
                break
            tries += 1
            yield from api(site, costs.refusal_s)
            outcome.refusals += 1
            yield env.timeout(scenario.retry_s)
        yield from api(site, costs.request_s)
        yield min(site.engines, key=lambda one: one.left).begin()
        yield from api(site, costs.frame_s * (scenario.steps + 1))
        outcome.latencies.append(env.now - began)

    def client(number: int) -> Process:
        while True:
            if scenario.pause_s:
                yield env.timeout(chance.expovariate(1 / scenario.pause_s))
            yield from asked(number)
            number += scenario.clients + 1  # the next one goes to the next site

    for number in range(scenario.clients):
        env.process(client(number))
    env.run(warm_s)
    outcome.latencies.clear()
    outcome.refusals, outcome.api_s, outcome.engine_s = 0, 0.0, 0.0
    env.run(warm_s + seconds)
    return outcome


def simulated(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Every workload on every number of engines and API processes."""
    found = []
    for name, workload in WORKLOADS.items():
        costs = costs_of(measured[name])
        for engines, sites in ENGINES_AND_SITES:
            scenario = Scenario(CLIENTS, PAUSE_S, engines, sites, workload["n_steps"])
            found.append({"workload": name, **steady(scenario, costs)})
            CONSOLE.print(found[-1])
    return found


def steady(scenario: Scenario, costs: Costs) -> dict[str, Any]:
    """The record of a run in which every client is answered about once before it counts, and once while it does."""
    whole_batch = scenario.steps * costs.step(scenario.most_rows) / scenario.most_rows
    api_s = costs.request_s + costs.frame_s * (scenario.steps + 1)
    bound = min(scenario.clients / scenario.pause_s, scenario.engines / whole_batch, scenario.sites / api_s)
    turn_s = max(50.0, scenario.clients / bound)
    return simulate(scenario, costs, seconds=turn_s, warm_s=turn_s).record(scenario)


def costs_of(record: dict[str, Any]) -> Costs:
    """As they were written down."""
    return Costs(**{**record, "step_s": {int(rows): seconds for rows, seconds in record["step_s"].items()}})


def document(workload: dict[str, Any], seed: int) -> dict[str, Any]:
    return {"model": "ups-mini", "initial_condition": {"sample": {"seed": seed}}, **workload}


def step_seconds(workload: dict[str, Any]) -> dict[int, float]:
    """CPU time of a step, by rollouts in the batch, with one thread."""
    import torch

    from ups_server.catalog import Catalog
    from ups_server.rollout.plan import plan
    from ups_server.settings import Settings
    from ups_server.solvers.registry import load
    from ups_server.solvers.solver import BatchedSession
    from ups_server.specs import RolloutRequest

    torch.set_num_threads(1)
    catalog, found = Catalog(), {}
    solver = load(Path(catalog.model("ups-mini").source), "cpu")
    with torch.inference_mode():
        for rows in ROWS:
            sessions = []
            for seed in range(rows):
                todo = plan(RolloutRequest.from_json(json.dumps(document(workload, seed))), catalog, Settings())
                session = solver.session(todo.spec.problem, todo.initial)
                assert isinstance(session, BatchedSession)
                sessions.append(session)
            batch = sessions[0].batch(sessions)
            batch.launch([True] * rows)()
            began, steps = time.process_time(), 0
            while steps < 2 or (time.process_time() - began < 1.0 and steps < 50):
                batch.launch([True] * rows)()
                steps += 1
            found[rows] = (time.process_time() - began) / steps
    return found


def api_seconds(workload: dict[str, Any], clients: int = 8, rounds: int = 1) -> tuple[float, float, float]:
    """CPU time of the API process of a real service with some clients: of a request, of a frame, of a refusal.

    Rollouts of one step and of six tell a request from a frame; a refusal costs what a request does before it.
    """
    from benchmarks.service import service

    async def ask(url: str, steps: int) -> None:
        async def client(http: httpx.AsyncClient, number: int) -> None:
            for seed in range(rounds):
                body = {**document(workload, number * rounds + seed), "n_steps": steps}
                answer = await http.post("/v1/rollouts", json=body, headers={"Accept": SAFETENSORS})
                answer.raise_for_status()

        async with httpx.AsyncClient(base_url=url, timeout=600) as http:
            await asyncio.gather(*(client(http, number) for number in range(clients)))

    def spent(url: str, pid: int, steps: int) -> float:
        before = on_cores(pid)[0]
        asyncio.run(ask(url, steps))
        return (on_cores(pid)[0] - before) / (clients * rounds)

    few, many = 1, 6
    with service(1) as (url, pid):
        asyncio.run(ask(url, few))  # what every service loads once
        short, long = spent(url, pid, few), spent(url, pid, many)
    frame = max(0.0, (long - short) / (many - few))
    request = max(0.0, short - frame * (few + 1))
    return request, frame, request


def measure() -> dict[str, Any]:
    found = {}
    for name, workload in WORKLOADS.items():
        found[name] = asdict(Costs(*api_seconds(workload), step_s=step_seconds(workload)))
        CONSOLE.print({name: found[name]})
    return found


def serve_fixed(engines: int) -> None:
    """The API process of the real run: prints its address, and serves until standard input closes."""
    import threading

    import uvicorn

    from ups_server.api.app import create_app
    from ups_server.api.server import base_url, configuration
    from ups_server.engine.devices import DeviceEngines
    from ups_server.settings import Settings

    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listening:
        settings = Settings(data_dir=Path(folder), worker=False, log_level="error")
        fixed = fixed_engine()
        app = create_app(settings, DeviceEngines({f"engine {number}": fixed() for number in range(engines)}, 60.0))
        server = uvicorn.Server(configuration(app, settings, most=1024, backlog=128, grace_s=1))
        print(base_url(listening), flush=True)

        def wait() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=wait, daemon=True).start()
        server.run(sockets=[listening])


def fixed_engine() -> type[Any]:
    """An engine that takes one rollout after another, `FIXED_S` each, which it spends asleep."""
    from benchmarks.scale import FixedTime
    from ups_server.engine.engine import Event, Finished, Frame, RolloutSpec, Standing, Started
    from ups_server.solvers.solver import Frames

    class FixedSteps(FixedTime):
        """One step after another is sent at the end."""

        async def rollout(
            self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
        ) -> AsyncGenerator[Event]:
            yield Started()
            async with self._turn:
                await asyncio.sleep(FIXED_S)
            for step in range(1, spec.n_steps + 1):
                yield Frame(step, initial)
            yield Finished(FIXED_S)

    return FixedSteps


@contextmanager
def fixed_service(engines: int) -> Iterator[tuple[str, int]]:
    """Address and process of the API process of the real run."""
    command = [sys.executable, "-m", "benchmarks.capacity", "--serve-fixed", str(engines)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        while True:
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        try:
            yield url, process.pid
        finally:
            process.stdin.close()
            process.wait()


async def closed_loop(url: str, clients: int, seconds: float, body: dict[str, Any]) -> tuple[int, float]:
    """(answers, seconds) of clients that ask again as soon as they are answered."""
    answered, began, stop = 0, time.perf_counter(), time.perf_counter() + seconds
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal answered
        while time.perf_counter() < stop:
            answer = await http.post("/v1/rollouts", json=body, headers={"Accept": SAFETENSORS})
            answer.raise_for_status()
            answered += 1

    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    return answered, time.perf_counter() - began


def on_cores(pid: int) -> tuple[float, float]:
    """Seconds that the threads of a process computed, and that they waited for a core (schedstat of Linux)."""
    texts = [path.read_text().split() for path in Path("/proc", str(pid), "task").glob("*/schedstat")]
    return sum(int(words[0]) for words in texts) / 1e9, sum(int(words[1]) for words in texts) / 1e9


def validated(seconds: float = 8.0) -> list[dict[str, Any]]:
    """The real run beside the simulation with its own costs: answers a second.

    The API process's time of a request is what it computed and what it waited for a core meanwhile: the clients of the
    run take cores too.
    """
    body = {**document(WORKLOADS["line"], 0), "n_steps": FIXED_STEPS}
    found = []
    for engines in FIXED_ENGINES:
        with fixed_service(engines) as (url, pid):
            asyncio.run(closed_loop(url, FIXED_CLIENTS, 1.0, body))
            before = on_cores(pid)
            answers, lasted = asyncio.run(closed_loop(url, FIXED_CLIENTS, seconds, body))
            computed, waited = ((after - first) / answers for after, first in zip(on_cores(pid), before, strict=True))
            spent = computed + waited
        costs = Costs(spent / 2, spent / 2 / (FIXED_STEPS + 1), spent, {1: FIXED_S / FIXED_STEPS})
        scenario = Scenario(FIXED_CLIENTS, 0.0, engines, 1, FIXED_STEPS, most_rows=1)
        outcome = simulate(scenario, costs, seconds=60.0, warm_s=10.0)
        record = {
            "engines": engines,
            "measured_per_second": round(answers / lasted, 2),
            "simulated_per_second": round(len(outcome.latencies) / outcome.seconds, 2),
            "api_request_s": round(spent, 5),
            "computed_s": round(computed, 5),
            "bound_per_second": round(min(engines / FIXED_S, 1 / spent), 2),
        }
        found.append(record)
        CONSOLE.print(record)
    return found


NUMBER_OF = {"line": "1-D, 128 points, 20 steps"}


def tables(record: dict[str, Any]) -> str:
    """The figures of the page, in Markdown."""
    lines = ["| seconds of one core | " + " | ".join(NUMBER_OF.values()) + " |", "|---" * (1 + len(NUMBER_OF)) + "|"]
    measured = [record["measured"][name] for name in NUMBER_OF]
    rows = [("API: a request", "request_s"), ("API: a frame of the answer", "frame_s")]
    lines += [f"| {title} | " + " | ".join(f"{one[key]:.2g}" for one in measured) + " |" for title, key in rows]
    for size in (1, 8, 32):
        cells = " | ".join(f"{one['step_s'][str(size)]:.2g}" for one in measured)
        lines.append(f"| engine: a step of {size} rollout{'s' if size > 1 else ''} | {cells} |")
    for name, title in NUMBER_OF.items():
        lines += ["", f"{title}:", ""]
        lines += ["| engines | API processes | answers/s | median s | p99 s | refusals an answer | API busy |"
                  " engines busy | core-hours per 1,000 |", "|" + 9 * "---|"]  # fmt: skip
        for one in record["simulated"]:
            if one["workload"] == name:
                lines.append(
                    f"| {one['engines']} | {one['sites']} | {one['per_second']:.3g} | {one['p50_s']:.3g} |"
                    f" {one['p99_s']:.3g} | {one['refusals_per_answer']:.2g} | {one['api_busy']:.0%} |"
                    f" {one['engines_busy']:.0%} | {one['core_hours_per_1000']:.2g} |"
                )
    lines += ["", "| engines of a fixed time | answers/s, real | simulated | bound |", "|---|---|---|---|"]
    lines += [
        f"| {one['engines']} | {one['measured_per_second']:.3g} | {one['simulated_per_second']:.3g} |"
        f" {one['bound_per_second']:.3g} |"
        for one in record["validation"]
    ]
    return "\n".join(lines)


BLOCK = re.compile(r"(?<=<!-- figures: benchmarks/capacity.json -->\n).*?(?=\n<!-- end of figures -->)", re.DOTALL)
"""What a page has between two comments."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures are")
    parser.add_argument("--simulate", action="store_true", help="with what the file has measured")
    parser.add_argument("--page", type=Path, help="write the file's figures into this page, and do nothing else")
    parser.add_argument("--serve-fixed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_fixed is not None:
        serve_fixed(options.serve_fixed)
        return
    record = json.loads(options.json.read_text(encoding="utf-8")) if options.page or options.simulate else {}
    if options.page is not None:
        text = options.page.read_text(encoding="utf-8")
        options.page.write_text(BLOCK.sub(lambda _: tables(record), text), encoding="utf-8")
        return
    if not options.simulate:
        record = {"measured": json.loads(json.dumps(measure())), "validation": validated()}
    record |= {"clients": CLIENTS, "pause_s": PAUSE_S, "simulated": simulated(record["measured"])}
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
