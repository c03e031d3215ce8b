"""Finished rollouts: collected from the engine, encoded by the exporters."""

import asyncio
import math
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

from ups_server.api.negotiation import JSON
from ups_server.data.exporters import encode as export_bytes
from ups_server.engine.engine import Engine
from ups_server.errors import UserError
from ups_server.rollout.observation import Computed, Observation
from ups_server.rollout.plan import Plan
from ups_server.settings import Settings
from ups_server.solvers.solver import Frames


@dataclass(frozen=True)
class Answer:
    """A finished rollout.

    Attributes:
        values: (B, T, X..., C) in the units of the request's box.
        attributes: what is said beside them.
        truths: the numerical solver's frames, each (B, X..., C), where they were to be kept.
        seconds: of computing, where the engine knows.
    """

    plan: Plan
    values: Frames
    attributes: dict[str, Any]
    truths: list[Frames]
    seconds: float | None


async def collect(plan: Plan, engine: Engine, settings: Settings, keep_truths: bool = False) -> Answer:
    """Runs a plan to its end, or to where it blows up; keeps the reference's frames where they are wanted."""
    observation = Observation(plan, engine, settings.reference_timeout_s)
    await observation.start()
    values = np.empty(plan.shape, dtype=np.float32)
    frames, truths = 0, list[Frames]()
    async with aclosing(observation.events()) as events:
        async for event in events:
            if isinstance(event, Computed):
                values[:, frames] = await finished(plan, event.values)
                frames += 1
            elif keep_truths:
                truths.append(event.truth)
    attributes = await asyncio.to_thread(observation.attributes)
    return Answer(plan, values[:, :frames], attributes, truths, observation.seconds)


async def finished(plan: Plan, values: Frames) -> Frames:
    """`Plan.answer_values`, beside the event loop where it takes time."""
    if plan.finer is None and plan.ensemble is None:
        return plan.answer_values(values)
    return await asyncio.to_thread(plan.answer_values, values)


def check_size(plan: Plan, output: str, settings: Settings) -> None:
    """Raises UserError ``not_acceptable`` for JSON answers that belong into a binary format."""
    values = math.prod(plan.shape)
    if output == JSON and values > settings.max_json_values:
        raise UserError(
            "not_acceptable",
            "the answer is too large for JSON",
            got=values,
            expected=f"at most {settings.max_json_values} values",
            hint="send Accept: application/vnd.safetensors, application/x-npz or application/x-netcdf",
        )


def encode(answer: Answer, output: str) -> bytes:
    """The answer as the bytes of a format."""
    plan = answer.plan
    return export_bytes(
        output,
        answer.values,
        plan.times()[: answer.values.shape[1]],
        plan.family,
        plan.grid,
        plan.coefficients,
        answer.attributes,
        plan.batched,
    )
