"""Rollouts in this process, without an engine: the events are the same, and come as they are asked for."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np

from ups_server.catalog import builtin_solvers
from ups_server.engine.engine import Event, Finished, Frame, RolloutSpec, Started
from ups_server.solvers.limits import Survivors
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Frames


class InProcess:
    """Computes one rollout at a time, on a device of this process."""

    def __init__(self, device: str) -> None:
        self._device = device

    async def rollout(self, spec: RolloutSpec, initial: Frames, static: Frames | None = None) -> AsyncGenerator[Event]:
        """See `Engine.rollout`; a step is made between two awaits.

        Raises:
            UserError: what the solver objects to.
        """
        source = spec.model if spec.model in builtin_solvers() else Path(spec.model)
        session = load(source, device=self._device).session(spec.problem, initial, static)
        survivors, seconds = Survivors(spec.limits, len(initial)), 0.0
        yield Started()
        for step in range(1, spec.n_steps + 1):
            await asyncio.sleep(0)  # an interrupt is noticed here
            began = time.perf_counter()
            with np.errstate(all="ignore"):
                values = session.step()
            seconds += time.perf_counter() - began
            for ended in survivors.check(step, values):
                yield ended
            if not survivors.alive.any():
                break
            if step % spec.save_every == 0:
                yield Frame(step, survivors.masked(values))
        yield Finished(seconds)

    def beside(self, model: str) -> bool:
        """See `Engine.beside`."""
        return False
