"""Finished rollouts: collected from the engine, encoded by the exporters."""

import asyncio
import math
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

from ups_server.api.negotiation import JSON
from ups_server.data.exporters import encode as export_bytes
from ups_server.errors import UserError
from ups_server.settings import Settings
from ups_server.solve.engine import Engine
from ups_server.solve.observation import Computed, Observation
from ups_server.solve.rollout import Plan
from ups_server.solve.solver import Frames


@dataclass(frozen=True)
class Answer:
    """A finished rollout: values (B, T, X..., C) in the units of the request's box, and what is said beside them."""

    plan: Plan
    values: Frames
    attributes: dict[str, Any]


async def collect(plan: Plan, engine: Engine, settings: Settings) -> Answer:
    """Runs a plan to its end, or to where it blows up."""
    observation = Observation(plan, engine, settings.reference_timeout_s)
    await observation.start()
    values = np.empty(plan.shape, dtype=np.float32)
    frames = 0
    async with aclosing(observation.events()) as events:
        async for event in events:
            if isinstance(event, Computed):
                values[:, frames] = plan.answer_values(event.values)
                frames += 1
    return Answer(plan, values[:, :frames], await asyncio.to_thread(observation.attributes))


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
