"""Many clients for a while, with the engine killed in the middle: what a service may and may not answer.

A client asks again and again: for rollouts at once, in streams and without waiting, for states and cards; where it is
refused, it does as it is told (`Retry-After`) and asks again. Used by `benchmarks/service.py --load` and by a test.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

BODY = {"family": "burgers", "grid": {"n": [128]}, "coefficients": {"nu": 0.01}}
SETTLE_S = 300.0
"""Longest time that what was accepted may take after the last request."""


@dataclass
class Found:
    """What the clients saw.

    Attributes:
        answers: how often each status came.
        faults_seen: what must not happen.
        accepted: asynchronous rollouts, and how they ended.
        broken: requests under way when the engine was killed that were answered with 503 or a `problem` event.
    """

    answers: Counter[int] = field(default_factory=Counter)
    faults_seen: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, str] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    grown_bytes: int = 0
    restarts: int = 0

    def faults(self) -> list[str]:
        found = [f"{what}: {count}" for what, count in sorted(self.faults_seen.items())]
        lost = [job for job, state in self.accepted.items() if state != "succeeded"]
        return found + ([f"accepted and not computed: {len(lost)} of {len(self.accepted)}"] if lost else [])

    def record(self) -> dict[str, Any]:
        return {
            "answers": {str(status): count for status, count in sorted(self.answers.items())},
            "streams": dict(self.ended),
            "accepted": len(self.accepted),
            "succeeded": sum(state == "succeeded" for state in self.accepted.values()),
            "retries": self.retries,
            "engine_restarts": self.restarts,
            "grown_mib": round(self.grown_bytes / 2**20, 1),
            "faults": self.faults(),
        }


class Load:
    """The clients of one test.

    Args:
        model: of the rollouts; None for the service's default.
        steps: of a long rollout; short ones make one.
    """

    def __init__(self, url: str, model: str | None, steps: int) -> None:
        # A connection for each request: one kept open may be closed by the service just as it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self.http = httpx.AsyncClient(base_url=url, timeout=SETTLE_S, limits=limits)
        self.found = Found()
        self._steps = steps
        self._body = BODY if model is None else {**BODY, "model": model}

    async def client(self, number: int, until: float) -> None:
        """One client, until a time."""
        chance = random.Random(number)
        while time.monotonic() < until:
            kind = chance.choice(("at once", "stream", "without waiting", "look"))
            try:
                wait = await self._ask(kind, chance)
            except (httpx.TransportError, json.JSONDecodeError) as error:
                self.found.faults_seen[f"{kind}: {type(error).__name__}"] += 1
                wait = 0.0
            await asyncio.sleep(min(wait, max(0.0, until - time.monotonic())))

    async def _ask(self, kind: str, chance: random.Random) -> float:
        """One request; seconds to wait before the next one."""
        steps = chance.choice((1, self._steps))
        body = {**self._body, "n_steps": steps, "initial_condition": {"sample": {"seed": chance.randrange(9)}}}
        if kind == "look":
            return self._judge(await self.http.get("/v1/models"))
        if kind == "stream":
            return await self._stream(body, steps)
        headers = {"Accept": "application/vnd.safetensors"}
        if kind == "without waiting":
            headers = {"Prefer": "respond-async"}
        answer = await self.http.post("/v1/rollouts", json=body, headers=headers)
        if answer.status_code == 202:
            self.found.accepted[answer.json()["id"]] = "accepted"
        return self._judge(answer)

    async def _stream(self, body: dict[str, Any], steps: int) -> float:
        frames, ending = 0, "broke off"
        headers = {"Accept": "text/event-stream"}
        async with self.http.stream("POST", "/v1/rollouts", json=body, headers=headers) as answer:
            if answer.status_code != 200:
                await answer.aread()
                return self._judge(answer)
            async for line in answer.aiter_lines():
                frames += line == "event: step"
                ending = line.removeprefix("event: ") if line in ("event: end", "event: problem") else ending
        self.found.answers[200] += 1
        self.found.ended[ending] += 1
        if ending == "broke off" or (ending == "end" and frames != steps + 1):
            self.found.faults_seen[f"a stream {ending} after {frames} of {steps + 1} frames"] += 1
        return 0.0

    def _judge(self, answer: httpx.Response) -> float:
        status = answer.status_code
        self.found.answers[status] += 1
        if status in (429, 503):
            self.found.retries += 1
            if "retry-after" not in answer.headers:
                self.found.faults_seen[f"{status} without Retry-After"] += 1
            return float(answer.headers.get("retry-after", 1))
        if status >= 400:
            self.found.faults_seen[f"{status} {answer.json().get('code')}"] += 1
        return 0.0

    async def settle(self) -> None:
        """Waits until every accepted rollout has ended."""
        until = time.monotonic() + SETTLE_S
        waiting = set(self.found.accepted)
        while waiting and time.monotonic() < until:
            for job in sorted(waiting):
                state = (await self.http.get(f"/v1/rollouts/{job}")).json()["state"]
                if state in ("succeeded", "failed", "cancelled"):
                    self.found.accepted[job] = state
                    waiting.discard(job)
            await asyncio.sleep(0.2)


async def load_test(
    url: str, clients: int, seconds: float, service_pid: int, model: str | None = None, steps: int = 50
) -> Found:
    """So many clients for so many seconds; the busiest engine process is killed half-way."""
    import psutil

    load = Load(url, model, steps)
    service = psutil.Process(service_pid)

    def resident() -> int:
        return int(service.memory_info().rss)

    def engines() -> list[int]:
        found = [child for child in service.children() if "ups_server.engine.process" in " ".join(child.cmdline())]
        return [child.pid for child in sorted(found, key=lambda child: -sum(child.cpu_times()[:2]))]

    # A first round, so that growth is not what every service loads once.
    warm = time.monotonic() + min(5.0, seconds / 4)
    await asyncio.gather(*(load.client(number, warm) for number in range(clients)))
    before = resident()
    until = time.monotonic() + seconds
    working = [asyncio.create_task(load.client(clients + number, until)) for number in range(clients)]
    await asyncio.sleep(seconds / 2)
    os.kill(engines()[0], signal.SIGKILL)
    await asyncio.gather(*working)
    await load.settle()
    load.found.grown_bytes = resident() - before
    load.found.restarts = (await load.http.get("/readyz")).json()["restarts"]
    await load.http.aclose()
    return load.found


@dataclass
class Shares:
    """What two crowds got of one service.

    Attributes:
        short_s: seconds from the first request to the answer of every short rollout, refusals in between included.
        long_s: the same of the long ones that ended in time.
        longs: how many there were.
        long_steps: steps of long ones that were seen.
        lasted_s: until the last of them had ended, or time was up.
    """

    longs: int
    long_steps: int = 0
    lasted_s: float = 0.0
    short_s: list[float] = field(default_factory=list)
    long_s: list[float] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        middle, last = np.percentile(self.short_s, [50, 99]).tolist() if self.short_s else (None, None)
        return {
            "longs_finished": len(self.long_s),
            "longs": self.longs,
            "long_steps_per_s": self.long_steps / self.lasted_s,
            "slowest_long_s": max(self.long_s, default=None),
            "shorts_answered": len(self.short_s),
            "p50_short_s": middle,
            "p99_short_s": last,
        }


async def fairness(url: str, shorts: int, longs: int, steps: int, seconds: float, model: str | None = None) -> Shares:
    """So many clients that ask for one step again and again, beside long rollouts that begin at the same time."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    found, start = Shares(longs), time.monotonic()
    body = BODY if model is None else {**BODY, "model": model}

    async def answered(http: httpx.AsyncClient, seed: int) -> float:
        """Seconds until there is an answer: whoever is refused comes again when he is told to."""
        began = time.monotonic()
        document = {**body, "n_steps": 1, "initial_condition": {"sample": {"seed": seed}}}
        while True:
            answer = await http.post("/v1/rollouts", json=document, headers={"Accept": "application/vnd.safetensors"})
            if answer.status_code not in (429, 503):
                answer.raise_for_status()
                return time.monotonic() - began
            await asyncio.sleep(float(answer.headers["retry-after"]))

    async def streamed(http: httpx.AsyncClient, seed: int) -> bool:
        """A long rollout, whose every tenth step is looked at. False where it was refused."""
        document = {**body, "n_steps": steps, "save_every": 10, "initial_condition": {"sample": {"seed": seed}}}
        headers = {"Accept": "text/event-stream"}
        async with http.stream("POST", "/v1/rollouts", json=document, headers=headers) as answer:
            if answer.status_code in (429, 503):
                await asyncio.sleep(float(answer.headers["retry-after"]))
                return False
            answer.raise_for_status()
            frames = 0
            async for line in answer.aiter_lines():
                if line == "event: problem":
                    raise RuntimeError("a long rollout failed")
                if line == "event: step":
                    found.long_steps += 10 if frames else 0  # the first is the initial state
                    frames += 1
        return True

    async def short(http: httpx.AsyncClient, seed: int) -> None:
        while True:
            found.short_s.append(await answered(http, seed))

    async def long(http: httpx.AsyncClient, seed: int) -> None:
        began = time.monotonic()
        while not await streamed(http, seed):
            pass
        found.long_s.append(time.monotonic() - began)

    async with httpx.AsyncClient(base_url=url, timeout=SETTLE_S, limits=limits) as http:
        crowd = [asyncio.create_task(short(http, seed)) for seed in range(shorts)]
        few = [asyncio.create_task(long(http, seed)) for seed in range(longs)]
        await asyncio.wait(few, timeout=seconds)
        found.lasted_s = time.monotonic() - start
        for task in (*crowd, *few):
            task.cancel()
        ended = await asyncio.gather(*crowd, *few, return_exceptions=True)
    for end in ended:
        if isinstance(end, Exception):
            raise end
    return found
