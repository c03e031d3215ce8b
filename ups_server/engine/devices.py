"""Several engines behind one: each has a device, a rollout goes to the one with the least left to compute.

What is left is estimated, in seconds: of the numerical solver as admission does, of everything else from what rollouts
of the same model and family have taken before; every frame that comes takes its part away. A model that an engine would
have to load first counts as `LOADING_S` more. Engines that are down come after those that are up.

An engine that dies takes its own rollouts with it and no other's: they raise ``engine_unavailable``, and those that are
kept go on at another one. Rollouts that wait for their place at one that is started again keep it.
"""

import asyncio
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

from ups_server.catalog import Catalog, builtin_solvers
from ups_server.engine.admission import SOLVER, step_seconds
from ups_server.engine.engine import Engine, Event, Finished, Frame, Health, RolloutSpec, Standing, Started
from ups_server.engine.local import LocalEngine
from ups_server.errors import UserError
from ups_server.settings import Settings
from ups_server.solvers.solver import Frames

POINT_STEPS_PER_S = 2e5
"""Steps of a point that a trained model makes in a second: a guess, until its first rollout has been measured."""
LOADING_S = 3.0
"""Seconds of loading a trained model."""
NEWEST = 0.2
"""Weight of the latest rollout in the mean of those measured."""
MOST_RATES = 1024
LOOK_S = 0.1
"""Longest time that what an engine said of itself is relied on."""


def engine_of(settings: Settings, catalog: Catalog) -> Engine:
    """The engine of this machine: one, or one for each of `UPS_DEVICES`, which may be replicas elsewhere.

    Raises:
        UserError: ``extra_missing``.
    """
    if not settings.devices:
        return LocalEngine(settings, catalog)
    engines: dict[str, Engine]
    if settings.replicas:
        if find_spec("ray") is None:
            raise UserError(
                "extra_missing",
                "engines on a Ray cluster need the package ray",
                got=settings.devices[0],
                hint="pip install 'ups-server[ray]'",
            )
        from ups_server.engine.ray import RayEngine

        names = [f"ray:{number}" for number in range(settings.replicas)]
        engines = {name: RayEngine(settings, name) for name in names}
    else:
        engines = {device.name: LocalEngine(settings, catalog, device) for device in settings.engine_devices}
    return DeviceEngines(engines, settings.queue_timeout_s)


class Estimates:
    """Seconds that rollouts take. Learns from those that have ended."""

    def __init__(self) -> None:
        self._rates: OrderedDict[tuple[str, str], float] = OrderedDict()
        """Seconds of a step of a point, by model and family; the ones used last are kept."""

    def step_seconds(self, spec: RolloutSpec, rows: int) -> float:
        """Of one step of all `rows` trajectories."""
        if spec.model == SOLVER:
            return step_seconds(spec, rows)
        return self._points(spec, rows) * self._rates.get((spec.model, spec.problem.family), 1 / POINT_STEPS_PER_S)

    def learn(self, spec: RolloutSpec, rows: int, steps: int, seconds: float) -> None:
        """So many steps took so many seconds."""
        if spec.model == SOLVER or steps < 1:
            return
        key = (spec.model, spec.problem.family)
        found = seconds / (steps * self._points(spec, rows))
        self._rates[key] = NEWEST * found + (1 - NEWEST) * self._rates.get(key, found)
        self._rates.move_to_end(key)
        while len(self._rates) > MOST_RATES:
            self._rates.popitem(last=False)

    @staticmethod
    def _points(spec: RolloutSpec, rows: int) -> int:
        return rows * math.prod(spec.problem.grid.n)


@dataclass(eq=False)
class EngineLoad:
    """An engine and what it has been given.

    Attributes:
        left: estimated seconds of each rollout it has, by an identity of its own.
        seen, looked: its health, and when it was asked.
    """

    name: str
    engine: Engine
    left: dict[object, float] = field(default_factory=dict)
    seen: Health = field(default_factory=lambda: Health("starting"))
    looked: float = -math.inf

    @property
    def load(self) -> float:
        """Seconds of computing that are left, roughly."""
        return sum(self.left.values())

    def lately(self) -> Health:
        """Its health, at most `LOOK_S` old."""
        if time.monotonic() - self.looked > LOOK_S:
            self.seen, self.looked = self.engine.health(), time.monotonic()
        return self.seen


class DeviceEngines(Engine):
    """Dispatches rollouts to engines of any kind.

    Args:
        engines: by the name of their device.
        queue_timeout_s: where one engine is full, others are asked for so long.
    """

    def __init__(self, engines: Mapping[str, Engine], queue_timeout_s: float) -> None:
        self._places = [EngineLoad(name, engine) for name, engine in engines.items()]
        self._queue_timeout_s = queue_timeout_s
        self._estimates = Estimates()
        self._used: Counter[str] = Counter()

    async def start(self) -> None:
        await asyncio.gather(*(place.engine.start() for place in self._places))

    async def rollout(
        self, spec: RolloutSpec, initial: Frames, static: Frames | None = None, standing: Standing | None = None
    ) -> AsyncGenerator[Event]:
        began, started, refused = time.monotonic(), False, None
        for place in self._by_load(spec, len(initial)):
            if refused is not None and time.monotonic() - began >= self._queue_timeout_s:
                break
            try:
                async with aclosing(self._at(place, spec, initial, static, standing)) as events:
                    async for event in events:
                        started = started or isinstance(event, Started)
                        yield event
                return
            except UserError as error:
                place.looked = -math.inf
                if started or error.code != "queue_full":
                    raise
                refused = error
        assert refused is not None, "there is an engine"
        raise refused

    def beside(self, model: str) -> bool:
        return any(place.engine.beside(model) for place in self._places)

    def uses(self, model: str) -> bool:
        return self._used[model] > 0

    def health(self) -> Health:
        """Ready where one engine is; what the others are is in `reason`, and of each in `devices`."""
        found = tuple(
            replace(place.engine.health(), device=place.name, seconds_left=place.load) for place in self._places
        )
        state = next(
            state for state in ("ready", "loading", "starting", "down") if state in {one.state for one in found}
        )
        reasons = [f"{one.device}: {one.reason}" for one in found if one.state != "ready"]
        return Health(
            state=state,
            reason="; ".join(reasons) or None,
            device=", ".join(place.name for place in self._places),
            models=tuple(sorted({model for one in found for model in one.models})),
            process_id=found[0].process_id,
            restarts=sum(one.restarts for one in found),
            active=sum(one.active for one in found),
            queued=sum(one.queued for one in found),
            seconds_left=sum(place.load for place in self._places),
            detail={f"{one.device}/{name}": process for one in found for name, process in one.detail.items()},
            devices=found,
        )

    async def close(self) -> None:
        await asyncio.gather(*(place.engine.close() for place in self._places))

    def _by_load(self, spec: RolloutSpec, rows: int) -> list[EngineLoad]:
        """Those that are up first, then by what is left with the loading of the model, then by how many they have."""
        trained = spec.model not in builtin_solvers()

        def order(place: EngineLoad) -> tuple[bool, float, int]:
            seen = place.lately()
            loading = LOADING_S if trained and spec.model not in seen.models else 0.0
            return seen.state in ("starting", "down"), place.load + loading, len(place.left)

        return sorted(self._places, key=order)

    async def _at(
        self, place: EngineLoad, spec: RolloutSpec, initial: Frames, static: Frames | None, standing: Standing | None
    ) -> AsyncGenerator[Event]:
        """The rollout at one engine, with what is left of it kept account of."""
        rows, done = len(initial), standing.step if standing else 0
        first, step_s, identity = done, self._estimates.step_seconds(spec, len(initial)), object()
        self._used[spec.model] += 1
        place.left[identity] = (spec.n_steps - done) * step_s
        try:
            async with aclosing(place.engine.rollout(spec, initial, static, standing)) as events:
                async for event in events:
                    if isinstance(event, Frame):
                        done = event.step
                        place.left[identity] = (spec.n_steps - done) * step_s
                    elif isinstance(event, Finished):
                        self._estimates.learn(spec, rows, done - first, event.seconds)
                    yield event
        finally:
            del place.left[identity]
            self._used[spec.model] -= 1
